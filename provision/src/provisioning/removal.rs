//! Undoing a registration.

use super::observation::Elsewhere;
use super::{Parties, Registration, StepError};
use crate::balena::{Balena, Variable};
use crate::iot::{Iot, Status};

/// Removes all certificates of a device, its Thing and its variables. What is gone already is no error,
/// so that it can be repeated. `AWS_CERT` goes last: it names a certificate that has lost its Thing.
///
/// A device that is locked out stays so, or whoever may send DELETE and POST could let it in again; and
/// what another service works with is that one's to undo.
pub async fn undo<I: Iot, B: Balena>(
    parties: &Parties<I, B>,
    registration: &Registration<'_>,
) -> Result<(), StepError> {
    let thing = registration.thing;
    let seen = parties.observe(registration).await?;
    if let Some(Elsewhere { service, .. }) = seen.elsewhere.first() {
        let service = service.clone();
        return Err(StepError::Elsewhere { service });
    }
    let held = seen.held.iter().map(|held| &held.certificate);
    let all: Vec<_> = held.chain(&seen.stray).collect();
    if all.iter().any(|each| each.status == Status::Revoked) {
        return Err(StepError::Revoked);
    }
    for certificate in all {
        parties.retire(thing, certificate).await?;
    }
    if seen.thing {
        parties.iot.delete_thing(thing).await?;
    }
    if let (Some(owner), true) = (registration.owner, seen.variables) {
        for variable in [Variable::PrivateKey, Variable::Certificate] {
            parties.balena.remove(owner, variable).await?;
        }
    }
    Ok(())
}
