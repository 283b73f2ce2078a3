//! [`Iot`] over AWS's SDK. The only importer of `aws-*`.
//!
//! The SDK repeats a call that failed for reasons that pass, three times in all, and reads region,
//! credentials and `AWS_ENDPOINT_URL` from where AWS's own tools do. TLS is rustls with ring.

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_iot::Client;
use aws_sdk_iot::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_iot::types::CertificateStatus;
use aws_smithy_http_client::{Builder, tls};

use super::{Certificate, Iot, IotError, Issued, Status};
use crate::secret::Secret;

/// How long one try of a call may take. A whole request has 25 s.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// How many things one page of a list holds; AWS's most for these lists.
const PAGE_SIZE: i32 = 250;

/// AWS IoT Core of one account and region.
#[derive(Clone, Debug)]
pub struct Aws(Client);

impl Aws {
    /// The account and region that the environment names.
    pub async fn from_environment() -> Self {
        let http = Builder::new()
            .tls_provider(tls::Provider::Rustls(
                tls::rustls_provider::CryptoMode::Ring,
            ))
            .build_https();
        let timeouts = TimeoutConfig::builder()
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .build();
        let config = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .timeout_config(timeouts)
            .load()
            .await;
        Aws(Client::new(&config))
    }
}

/// Why there is no answer of AWS's own. The answer is never shown, as the SDK's own words would: one that is cut
/// off may hold a private key.
fn without_body<E, R>(error: &SdkError<E, R>) -> String {
    match error {
        SdkError::ConstructionFailure(_) => "the request cannot be made".to_owned(),
        SdkError::TimeoutError(_) => format!("no answer within {} s", ATTEMPT_TIMEOUT.as_secs()),
        SdkError::DispatchFailure(failure) => {
            let cause = failure.as_connector_error();
            let mut cause = cause.map(|error| error as &dyn std::error::Error);
            while let Some(inner) = cause.and_then(std::error::Error::source) {
                cause = Some(inner);
            }
            cause.map_or("it was not sent".to_owned(), ToString::to_string)
        }
        _ => "the answer is not what was expected".to_owned(),
    }
}

/// What a call was, for its error.
#[derive(Clone, Copy)]
struct Call<'a> {
    operation: &'static str,
    object: &'a str,
}

impl<'a> Call<'a> {
    fn new(operation: &'static str, object: &'a str) -> Self {
        Call { operation, object }
    }

    fn error<E, R>(self, error: &SdkError<E, R>) -> IotError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        R: std::fmt::Debug,
    {
        let code = error.code();
        let cause = match (code, error.message()) {
            (Some(code), message) => format!("{code}: {}", message.unwrap_or("no message")),
            (None, _) => without_body(error),
        };
        IotError {
            operation: self.operation,
            object: self.object.to_owned(),
            cause,
            overtaken: matches!(
                code,
                Some(
                    "CertificateStateException"
                        | "DeleteConflictException"
                        | "ConflictException"
                        | "ResourceNotFoundException"
                )
            ),
        }
    }

    /// The answer; `None` where AWS does not know the object.
    fn found<T, E, R>(self, answer: Result<T, SdkError<E, R>>) -> Result<Option<T>, IotError>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        R: std::fmt::Debug,
    {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.code() == Some("ResourceNotFoundException") => Ok(None),
            Err(error) => Err(self.error(&error)),
        }
    }

    /// Done, or gone already.
    fn gone<T, E, R>(self, answer: Result<T, SdkError<E, R>>) -> Result<(), IotError>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        R: std::fmt::Debug,
    {
        self.found(answer).map(|_| ())
    }

    fn done<T, E, R>(self, answer: Result<T, SdkError<E, R>>) -> Result<T, IotError>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        R: std::fmt::Debug,
    {
        answer.map_err(|error| self.error(&error))
    }

    /// A field that AWS promises to fill in.
    fn field(self, value: Option<&str>) -> Result<String, IotError> {
        value.map(str::to_owned).ok_or_else(|| IotError {
            operation: self.operation,
            object: self.object.to_owned(),
            cause: "the answer lacks a field".to_owned(),
            overtaken: false,
        })
    }
}

fn status(status: Option<&CertificateStatus>) -> Status {
    match status {
        Some(CertificateStatus::Active) => Status::Active,
        Some(CertificateStatus::Revoked) => Status::Revoked,
        _ => Status::Inactive,
    }
}

impl Aws {
    async fn keys_and_certificate(&self) -> Result<Issued, IotError> {
        let call = Call::new("CreateKeysAndCertificate", "a new certificate");
        let request = self.0.create_keys_and_certificate().set_as_active(false);
        let answer = call.done(request.send().await)?;
        let key = answer.key_pair().and_then(|pair| pair.private_key());
        Ok(Issued {
            certificate: Certificate {
                id: call.field(answer.certificate_id())?,
                arn: call.field(answer.certificate_arn())?,
                pem: call.field(answer.certificate_pem())?,
                status: Status::Inactive,
            },
            key: Some(Secret::new(call.field(key)?)),
        })
    }

    async fn certificate_from_csr(&self, csr: &str) -> Result<Issued, IotError> {
        let call = Call::new("CreateCertificateFromCsr", "a new certificate");
        let request = self.0.create_certificate_from_csr();
        let request = request
            .certificate_signing_request(csr)
            .set_as_active(false);
        let answer = call.done(request.send().await)?;
        Ok(Issued {
            certificate: Certificate {
                id: call.field(answer.certificate_id())?,
                arn: call.field(answer.certificate_arn())?,
                pem: call.field(answer.certificate_pem())?,
                status: Status::Inactive,
            },
            key: None,
        })
    }
}

impl Iot for Aws {
    async fn certificates_of(&self, thing: &str) -> Result<Option<Vec<String>>, IotError> {
        let call = Call::new("ListThingPrincipals", thing);
        let list = self.0.list_thing_principals().thing_name(thing);
        let pages = list.into_paginator().page_size(PAGE_SIZE).items().send();
        let Some(principals) = call.found(pages.try_collect().await)? else {
            return Ok(None);
        };
        let is_certificate = |arn: &String| super::certificate_id(arn).is_some();
        Ok(Some(
            principals.into_iter().filter(is_certificate).collect(),
        ))
    }

    async fn things_of(&self, arn: &str) -> Result<Vec<String>, IotError> {
        let call = Call::new("ListPrincipalThings", arn);
        let list = self.0.list_principal_things().principal(arn);
        let pages = list.into_paginator().page_size(PAGE_SIZE).items().send();
        Ok(call.found(pages.try_collect().await)?.unwrap_or_default())
    }

    async fn policies_of(&self, arn: &str) -> Result<Vec<String>, IotError> {
        let call = Call::new("ListAttachedPolicies", arn);
        let list = self.0.list_attached_policies().target(arn);
        let pages = list.into_paginator().page_size(PAGE_SIZE).items().send();
        let policies = call.found(pages.try_collect().await)?.unwrap_or_default();
        let names = policies.into_iter().filter_map(|policy| policy.policy_name);
        Ok(names.collect())
    }

    async fn certificate(&self, id: &str) -> Result<Option<Certificate>, IotError> {
        let call = Call::new("DescribeCertificate", id);
        let request = self.0.describe_certificate().certificate_id(id);
        let answer = call.found(request.send().await)?;
        let Some(description) = answer.and_then(|answer| answer.certificate_description) else {
            return Ok(None);
        };
        Ok(Some(Certificate {
            id: call.field(description.certificate_id())?,
            arn: call.field(description.certificate_arn())?,
            pem: call.field(description.certificate_pem())?,
            status: status(description.status()),
        }))
    }

    async fn create_thing(&self, thing: &str) -> Result<(), IotError> {
        let call = Call::new("CreateThing", thing);
        let answer = self.0.create_thing().thing_name(thing).send().await;
        match answer {
            // it has attributes or a type that we did not give it
            Err(error) if error.code() == Some("ResourceAlreadyExistsException") => Ok(()),
            answer => call.done(answer).map(|_| ()),
        }
    }

    async fn create_certificate(&self, csr: Option<&str>) -> Result<Issued, IotError> {
        match csr {
            Some(csr) => self.certificate_from_csr(csr).await,
            None => self.keys_and_certificate().await,
        }
    }

    async fn attach_thing(&self, thing: &str, arn: &str) -> Result<(), IotError> {
        let request = self.0.attach_thing_principal();
        let request = request.thing_name(thing).principal(arn);
        let call = Call::new("AttachThingPrincipal", thing);
        call.done(request.send().await).map(|_| ())
    }

    async fn attach_policy(&self, policy: &str, arn: &str) -> Result<(), IotError> {
        let request = self.0.attach_policy().policy_name(policy).target(arn);
        let call = Call::new("AttachPolicy", policy);
        call.done(request.send().await).map(|_| ())
    }

    async fn set_active(&self, id: &str, active: bool) -> Result<(), IotError> {
        let call = Call::new("UpdateCertificate", id);
        let status = if active {
            CertificateStatus::Active
        } else {
            CertificateStatus::Inactive
        };
        let request = self.0.update_certificate().certificate_id(id);
        let answer = request.new_status(status).send().await;
        if active {
            call.done(answer).map(|_| ())
        } else {
            call.gone(answer)
        }
    }

    async fn detach_policy(&self, policy: &str, arn: &str) -> Result<(), IotError> {
        let request = self.0.detach_policy().policy_name(policy).target(arn);
        Call::new("DetachPolicy", policy).gone(request.send().await)
    }

    async fn detach_thing(&self, thing: &str, arn: &str) -> Result<(), IotError> {
        let request = self.0.detach_thing_principal();
        let request = request.thing_name(thing).principal(arn);
        Call::new("DetachThingPrincipal", thing).gone(request.send().await)
    }

    async fn delete_certificate(&self, id: &str) -> Result<(), IotError> {
        let request = self.0.delete_certificate().certificate_id(id);
        Call::new("DeleteCertificate", id).gone(request.send().await)
    }

    async fn delete_thing(&self, thing: &str) -> Result<(), IotError> {
        let request = self.0.delete_thing().thing_name(thing);
        Call::new("DeleteThing", thing).gone(request.send().await)
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_iot::operation::create_keys_and_certificate::CreateKeysAndCertificateError;

    use super::*;

    #[test]
    fn an_answer_that_is_not_understood_is_not_shown() {
        let body = "-----BEGIN RSA PRIVATE KEY-----";
        let call = Call::new("CreateKeysAndCertificate", "a new certificate");
        let cut_off: SdkError<CreateKeysAndCertificateError, &str> =
            SdkError::response_error(format!("unexpected end after {body}"), body);
        let unknown = CreateKeysAndCertificateError::unhandled(body);
        for error in [cut_off, SdkError::service_error(unknown, body)] {
            let error = call.error(&error);
            assert_eq!(error.cause, "the answer is not what was expected");
            assert!(!format!("{error} {error:?}").contains("PRIVATE KEY"));
        }
    }
}
