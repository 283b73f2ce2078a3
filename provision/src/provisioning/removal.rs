//! Undoing a registration.

use super::{Parties, Registration, StepError};
use crate::balena::{Balena, Variable};
use crate::iot::Iot;

/// Removes all certificates of a device, its Thing and its variables. What is gone already is no error,
/// so that it can be repeated. `AWS_CERT` goes last: it names a certificate that has lost its Thing.
pub async fn undo<I: Iot, B: Balena>(
    parties: &Parties<I, B>,
    registration: &Registration<'_>,
) -> Result<(), StepError> {
    let thing = registration.thing;
    let seen = parties.observe(registration).await?;
    let held = seen.held.iter().map(|held| &held.certificate);
    for certificate in held.chain(&seen.stray) {
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
