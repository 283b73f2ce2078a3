//! AWS IoT Core's control plane, as narrow as provisioning needs it.
//!
//! [`Iot`] says what is asked; [`Aws`] asks AWS, and the tests bring a registry in memory. Each removal
//! is content with what is gone already.

mod aws;

use std::future::Future;

pub use aws::Aws;

use crate::secret::Secret;

/// Whether AWS lets a certificate in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It does.
    Active,
    /// It does not: in the making, being removed, or turned off.
    Inactive,
    /// The owner has revoked it.
    Revoked,
}

/// A certificate that AWS knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The fingerprint that AWS knows it by.
    pub id: String,
    /// The name that policies and Things are attached to.
    pub arn: String,
    /// Its text.
    pub pem: String,
    /// Whether AWS lets it in.
    pub status: Status,
}

/// A certificate that was just made.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate, inactive.
    pub certificate: Certificate,
    /// Its private key as PEM, which AWS shows this once; `None` if the device keeps it.
    pub key: Option<Secret>,
}

/// Why AWS did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("AWS IoT: {operation} for {object}: {cause}")]
pub struct IotError {
    /// The API's name of the call.
    pub operation: &'static str,
    /// What it was about.
    pub object: String,
    /// AWS's or the network's words.
    pub cause: String,
    /// Whether somebody else changed things meanwhile, so that it helps to look again.
    pub overtaken: bool,
}

/// The registry of Things and certificates.
pub trait Iot: Send + Sync {
    /// `ListThingPrincipals`: the certificates of a Thing, by ARN; `None` if there is no such Thing.
    fn certificates_of(
        &self,
        thing: &str,
    ) -> impl Future<Output = Result<Option<Vec<String>>, IotError>> + Send;
    /// `ListPrincipalThings`: the Things of a certificate.
    fn things_of(&self, arn: &str) -> impl Future<Output = Result<Vec<String>, IotError>> + Send;
    /// `ListAttachedPolicies`: the policies of a certificate.
    fn policies_of(&self, arn: &str) -> impl Future<Output = Result<Vec<String>, IotError>> + Send;
    /// `DescribeCertificate`: `None` if there is none.
    fn certificate(
        &self,
        id: &str,
    ) -> impl Future<Output = Result<Option<Certificate>, IotError>> + Send;
    /// `CreateThing`; one that exists is left as it is.
    fn create_thing(&self, thing: &str) -> impl Future<Output = Result<(), IotError>> + Send;
    /// `CreateKeysAndCertificate`, or `CreateCertificateFromCsr`; inactive.
    fn create_certificate(
        &self,
        csr: Option<&str>,
    ) -> impl Future<Output = Result<Issued, IotError>> + Send;
    /// `AttachThingPrincipal`.
    fn attach_thing(
        &self,
        thing: &str,
        arn: &str,
    ) -> impl Future<Output = Result<(), IotError>> + Send;
    /// `AttachPolicy`.
    fn attach_policy(
        &self,
        policy: &str,
        arn: &str,
    ) -> impl Future<Output = Result<(), IotError>> + Send;
    /// `UpdateCertificate` to ACTIVE or INACTIVE.
    fn set_active(
        &self,
        id: &str,
        active: bool,
    ) -> impl Future<Output = Result<(), IotError>> + Send;
    /// `DetachPolicy`.
    fn detach_policy(
        &self,
        policy: &str,
        arn: &str,
    ) -> impl Future<Output = Result<(), IotError>> + Send;
    /// `DetachThingPrincipal`.
    fn detach_thing(
        &self,
        thing: &str,
        arn: &str,
    ) -> impl Future<Output = Result<(), IotError>> + Send;
    /// `DeleteCertificate`.
    fn delete_certificate(&self, id: &str) -> impl Future<Output = Result<(), IotError>> + Send;
    /// `DeleteThing`.
    fn delete_thing(&self, thing: &str) -> impl Future<Output = Result<(), IotError>> + Send;
}

/// The id in a certificate's ARN, `arn:…:cert/ID`; `None` for another kind of principal.
pub(crate) fn certificate_id(arn: &str) -> Option<&str> {
    arn.rsplit_once(":cert/").map(|(_, id)| id)
}
