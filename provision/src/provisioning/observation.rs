//! What AWS and balenaCloud hold for a device at the moment.

use super::{Parties, Registration, StepError};
use crate::balena::{Balena, Stored};
use crate::iot::{Certificate, Iot, Status, certificate_id};
use crate::pair;
use crate::secret::Secret;

/// A certificate of the Thing.
#[derive(Clone, Debug)]
pub struct Held {
    /// The certificate.
    pub certificate: Certificate,
    /// Whether AWS lets it in and the owner's policy lets it do something.
    pub usable: bool,
}

/// Everything there is.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Whether there is a Thing.
    pub thing: bool,
    /// Its certificates.
    pub held: Vec<Held>,
    /// The certificate that the variables name, if it belongs to no Thing at all.
    pub stray: Option<Certificate>,
    /// The id of the certificate with which the device can work, if there is one.
    pub in_use: Option<String>,
    /// Whether there are variables.
    pub variables: bool,
}

impl Observation {
    pub(super) async fn take<I: Iot, B: Balena>(
        parties: &Parties<I, B>,
        registration: &Registration<'_>,
    ) -> Result<Self, StepError> {
        let attached = parties.iot.certificates_of(registration.thing).await?;
        let thing = attached.is_some();
        let mut held = Vec::new();
        for arn in attached.unwrap_or_default() {
            let id = certificate_id(&arn).unwrap_or(&arn);
            let Some(certificate) = parties.iot.certificate(id).await? else {
                continue; // removed since it was listed
            };
            let usable = certificate.status == Status::Active
                && parties
                    .iot
                    .policies_of(&arn)
                    .await?
                    .contains(&parties.policy);
            held.push(Held {
                certificate,
                usable,
            });
        }
        let Some(owner) = registration.owner else {
            return Ok(Observation {
                in_use: first_usable(&held),
                thing,
                held,
                ..Observation::default()
            });
        };
        let stored = parties.balena.stored(owner).await?;
        Ok(Observation {
            stray: find_stray(parties, &held, &stored).await?,
            in_use: in_use(&held, &stored, registration.csr),
            variables: stored.certificate.is_some() || stored.private_key.is_some(),
            thing,
            held,
        })
    }
}

/// Without variables, any certificate will do; all who look agree on the first.
fn first_usable(held: &[Held]) -> Option<String> {
    let usable = held.iter().filter(|held| held.usable);
    usable.map(|held| held.certificate.id.clone()).min()
}

/// The usable certificate that is stored, together with its key or with the device's own.
fn in_use(held: &[Held], stored: &Stored, csr: Option<&str>) -> Option<String> {
    let pem = pair::decode(stored.certificate.as_deref()?)?;
    let fits = match (csr, &stored.private_key) {
        (Some(csr), None) => pair::answers_csr(&pem, csr),
        (None, Some(key)) => pair::is_key_of(&Secret::new(pair::decode(key.expose())?), &pem),
        _ => false,
    };
    let mut usable = held.iter().filter(|held| held.usable && fits);
    let found = usable.find(|held| pair::same_certificate(&held.certificate.pem, &pem));
    found.map(|held| held.certificate.id.clone())
}

/// Looks for a stored certificate that has lost its Thing, which happens when someone deletes the
/// Thing by hand or a removal is cut short. One that belongs to another Thing is not ours to touch.
async fn find_stray<I: Iot, B: Balena>(
    parties: &Parties<I, B>,
    held: &[Held],
    stored: &Stored,
) -> Result<Option<Certificate>, StepError> {
    let Some(pem) = stored.certificate.as_deref().and_then(pair::decode) else {
        return Ok(None);
    };
    let known = |held: &Held| pair::same_certificate(&held.certificate.pem, &pem);
    let Some(id) = pair::fingerprint(&pem).filter(|_| !held.iter().any(known)) else {
        return Ok(None);
    };
    let Some(certificate) = parties.iot.certificate(&id).await? else {
        return Ok(None);
    };
    let alone = parties.iot.things_of(&certificate.arn).await?.is_empty();
    Ok(alone.then_some(certificate))
}
