//! balenaCloud's API, as narrow as provisioning needs it.
//!
//! [`Balena`] says what is asked; [`Api`] asks balenaCloud, and the tests bring an account in memory.

mod api;

use std::fmt;
use std::future::Future;
use std::time::Duration;

pub use api::{Api, ApiOptions, ClientError};

use crate::request::Uuid;
use crate::secret::Secret;

/// The two variables that hold a device's credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variable {
    /// `AWS_CERT`.
    Certificate,
    /// `AWS_PRIVATE_KEY`.
    PrivateKey,
}

impl Variable {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Variable::Certificate => "AWS_CERT",
            Variable::PrivateKey => "AWS_PRIVATE_KEY",
        }
    }
}

/// A fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// Its number.
    pub id: u64,
    /// `organisation/name`.
    pub slug: String,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its number.
    pub id: u64,
    /// The fleet it belongs to.
    pub fleet: Fleet,
}

/// What the variables belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A whole device, by its number.
    Device(u64),
    /// One service of a device, by the number of its installation.
    Service(u64),
}

/// What the variables hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// `AWS_CERT`.
    pub certificate: Option<String>,
    /// `AWS_PRIVATE_KEY`.
    pub private_key: Option<Secret>,
}

/// What one of a device's owners of variables holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The owner.
    pub owner: Owner,
    /// The service's name; `None` for the whole device.
    pub service: Option<String>,
    /// Its variables.
    pub stored: Stored,
}

/// Why balenaCloud did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("balenaCloud: {operation}: {kind}")]
pub struct BalenaError {
    /// What was asked.
    pub operation: &'static str,
    /// Why it was not done.
    pub kind: BalenaErrorKind,
}

/// Kinds of [`BalenaError`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BalenaErrorKind {
    /// The key is not taken.
    Login,
    /// Too many requests, or a fault of balenaCloud's that did not pass while we tried again.
    Busy {
        /// The last answer's status.
        status: u16,
        /// What it asked for.
        retry_after: Option<Duration>,
    },
    /// Anything else.
    Failed {
        /// In words.
        cause: String,
    },
}

impl fmt::Display for BalenaErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BalenaErrorKind::Login => f.write_str("it does not take the function's BALENA_API_KEY"),
            BalenaErrorKind::Busy { status, .. } => write!(f, "it is busy (it answers {status})"),
            BalenaErrorKind::Failed { cause } => f.write_str(cause),
        }
    }
}

/// The account that the devices belong to.
pub trait Balena: Send + Sync {
    /// The device, if there is one.
    fn device(
        &self,
        uuid: &Uuid,
    ) -> impl Future<Output = Result<Option<Device>, BalenaError>> + Send;
    /// The number of a fleet's service, if it has one of that name.
    fn service(
        &self,
        fleet: &Fleet,
        name: &str,
    ) -> impl Future<Output = Result<Option<u64>, BalenaError>> + Send;
    /// The number of a service's installation on a device, if it is there.
    fn installation(
        &self,
        device: &Device,
        service: u64,
    ) -> impl Future<Output = Result<Option<u64>, BalenaError>> + Send;
    /// Both variables.
    fn stored(&self, owner: Owner) -> impl Future<Output = Result<Stored, BalenaError>> + Send;
    /// Both variables of the whole device and of each of its services, by the device's number; those
    /// that hold nothing may be left out.
    fn holdings(
        &self,
        device: u64,
    ) -> impl Future<Output = Result<Vec<Holding>, BalenaError>> + Send;
    /// Writes a variable.
    fn set(
        &self,
        owner: Owner,
        variable: Variable,
        value: &str,
    ) -> impl Future<Output = Result<(), BalenaError>> + Send;
    /// Removes a variable; one that is not there is no error.
    fn remove(
        &self,
        owner: Owner,
        variable: Variable,
    ) -> impl Future<Output = Result<(), BalenaError>> + Send;
}
