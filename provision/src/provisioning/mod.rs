//! Registering a device and undoing it: the steps, over the two narrow clients.
//!
//! Neither AWS nor balenaCloud knows transactions, the function may be cut short between any two
//! calls, a call that failed may have taken effect, and two requests for one device may run at once.
//! So nothing is remembered and nothing assumed: [`register`] looks at everything, [`decision`] picks
//! one step, the step is made, and all is looked at again, until there is nothing left to do.
//!
//! ```text
//!        ┌──────────► look ─────► decide ──► the device has everything ──► done
//!        │                          │
//!        └── adopt · issue · store · clear · wait
//! ```
//!
//! Invariant: who changes anything looks again before it says "done". Whoever makes the very last
//! change therefore sees the very state that stays, and it is a valid one.
//!
//! A certificate is made inactive, tied to its Thing first, and activated last before it is stored:
//! one that nobody knows of any more has never opened anything. It is removed in the other direction,
//! inactive first. One that is inactive is never woken up again: it is being made or removed.
//!
//! What cannot be recovered is a private key that was never stored; its certificate is replaced.

pub mod decision;
mod observation;
mod removal;
#[cfg(test)]
pub(crate) mod tests;

use std::time::Duration;

use crate::balena::{Balena, BalenaError, Owner, Variable};
use crate::iot::{Certificate, Iot, IotError, Issued, Status};
use crate::pair;
use decision::Step;
use observation::{Elsewhere, Observation};

pub use removal::undo;

/// How long a request that runs at the same time is given to finish, each time.
const RIVAL_DELAY: Duration = Duration::from_secs(1);
/// How often in a row it is given that time. It may also be dead: what it left looks the same.
const RIVAL_WAITS_MAX: u32 = 3;
/// How many changes one request makes at most. Three do it: make a certificate, store it, remove what is left of
/// others. More are needed only if somebody else keeps undoing them; each time a certificate is stored,
/// balenaCloud restarts the service.
const CHANGES_MAX: u32 = 5;

/// The two parties, and what the owner calls the policy.
#[derive(Debug)]
pub struct Parties<I, B> {
    /// AWS IoT Core.
    pub iot: I,
    /// balenaCloud.
    pub balena: B,
    /// `AWS_IOT_POLICY`.
    pub policy: String,
}

/// Whose registration it is.
#[derive(Clone, Copy, Debug)]
pub struct Registration<'a> {
    /// The Thing's name.
    pub thing: &'a str,
    /// Where the credentials are kept; `None`: nowhere, for a test or for a device that is gone.
    pub owner: Option<Owner>,
    /// balenaCloud's number of the device, if it knows it: its other services may have credentials.
    pub device: Option<u64>,
    /// The CSR of a device that keeps its key.
    pub csr: Option<&'a str>,
}

/// How a registration ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    /// It took some work.
    Now,
    /// The device had everything.
    Before,
}

/// Why it did not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// AWS.
    #[error(transparent)]
    Iot(#[from] IotError),
    /// balenaCloud.
    #[error(transparent)]
    Balena(#[from] BalenaError),
    /// The owner has locked the device out.
    #[error(
        "this device's certificate is revoked in AWS IoT; delete the certificate there to let the device register again"
    )]
    Revoked,
    /// The Thing's credentials are another service's.
    #[error(
        "this device is registered for {}; send that as balena_service, or remove AWS_CERT there to register anew",
        .service.as_deref().map_or("the whole device, without a service".to_owned(), |name| format!("service {name:?}"))
    )]
    Elsewhere {
        /// The service; `None` for the whole device.
        service: Option<String>,
    },
    /// Other requests for the same device keep interfering, or what is stored does not stay.
    #[error("other requests for this device are under way; try again")]
    Contended,
}

/// Registers a device, or completes what an earlier request began.
pub async fn register<I: Iot, B: Balena>(
    parties: &Parties<I, B>,
    registration: &Registration<'_>,
) -> Result<Registered, StepError> {
    let mut own: Option<Issued> = None;
    let mut outcome = Registered::Before;
    let (mut changes, mut waits) = (0, 0);
    let mut overtaken = None;
    loop {
        let seen = parties.observe(registration).await?;
        let patient = waits < RIVAL_WAITS_MAX;
        let own_id = own.as_ref().map(|own| own.certificate.id.as_str());
        match decision::next_step(&seen, own_id, patient) {
            Step::Done => return Ok(outcome),
            Step::Revoked => return Err(StepError::Revoked),
            Step::Elsewhere(Elsewhere { service, .. }) => {
                let service = service.clone();
                return Err(StepError::Elsewhere { service });
            }
            Step::Wait => {
                waits += 1;
                tokio::time::sleep(RIVAL_DELAY).await;
                continue;
            }
            _ if changes == CHANGES_MAX => {
                return Err(overtaken.map_or(StepError::Contended, StepError::Iot));
            }
            Step::Clear(superfluous) => {
                // the device has all it needs: this is no news to it
                for certificate in superfluous {
                    let retired = parties.retire(registration.thing, certificate).await;
                    overtaken = again_if_overtaken(retired)?.or(overtaken);
                }
            }
            Step::Adopt(certificate) => {
                outcome = Registered::Now;
                parties.iot.create_thing(registration.thing).await?;
                let attached = parties
                    .iot
                    .attach_thing(registration.thing, &certificate.arn);
                overtaken = again_if_overtaken(attached.await)?.or(overtaken);
            }
            Step::Issue => {
                outcome = Registered::Now;
                own = parties.issue(registration).await?;
            }
            Step::Store => {
                if let (Some(owner), Some(own)) = (registration.owner, &own) {
                    parties.store(owner, own).await?;
                }
            }
        }
        changes += 1;
        waits = 0;
    }
}

/// A step that somebody else's was faster than is not an error: the next look tells what is to be done. But if it is
/// the same again and again, nobody is faster: AWS does not want it.
fn again_if_overtaken(outcome: Result<(), IotError>) -> Result<Option<IotError>, IotError> {
    match outcome {
        Ok(()) => Ok(None),
        Err(error) if error.overtaken => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

impl<I: Iot, B: Balena> Parties<I, B> {
    /// Makes a certificate, complete and active; `None` if another request removed it meanwhile.
    async fn issue(&self, registration: &Registration<'_>) -> Result<Option<Issued>, IotError> {
        let thing = registration.thing;
        self.iot.create_thing(thing).await?;
        let issued = self.iot.create_certificate(registration.csr).await?;
        let Certificate { id, arn, .. } = &issued.certificate;
        let attached = async {
            self.iot.attach_thing(thing, arn).await?;
            self.iot.attach_policy(&self.policy, arn).await?;
            self.iot.set_active(id, true).await
        };
        match attached.await {
            Ok(()) => Ok(Some(issued)),
            Err(error) if error.overtaken && self.iot.certificate(id).await?.is_none() => Ok(None),
            Err(error) => {
                // so that a policy that does not exist leaves no heap of certificates; what this
                // leaves is inactive, and the next request that succeeds removes it
                self.retire(thing, &issued.certificate).await.ok();
                Err(error)
            }
        }
    }

    /// Stores a certificate and its key.
    async fn store(&self, owner: Owner, issued: &Issued) -> Result<(), BalenaError> {
        let certificate = pair::encode(&issued.certificate.pem);
        self.balena
            .set(owner, Variable::Certificate, &certificate)
            .await?;
        match &issued.key {
            Some(key) => {
                let key = pair::encode(key.expose());
                self.balena.set(owner, Variable::PrivateKey, &key).await
            }
            None => self.balena.remove(owner, Variable::PrivateKey).await,
        }
    }

    /// Removes a certificate, inactive first. One that other Things use too is only taken from this one.
    async fn retire(&self, thing: &str, certificate: &Certificate) -> Result<(), IotError> {
        let Certificate {
            id, arn, status, ..
        } = certificate;
        let things = self.iot.things_of(arn).await?;
        if things.iter().any(|other| other != thing) {
            return self.iot.detach_thing(thing, arn).await;
        }
        if *status != Status::Revoked {
            self.iot.set_active(id, false).await?;
        }
        for policy in self.iot.policies_of(arn).await? {
            self.iot.detach_policy(&policy, arn).await?;
        }
        self.iot.detach_thing(thing, arn).await?;
        self.iot.delete_certificate(id).await
    }

    /// Looks at everything that belongs to a registration.
    async fn observe(&self, registration: &Registration<'_>) -> Result<Observation, StepError> {
        Observation::take(self, registration).await
    }
}
