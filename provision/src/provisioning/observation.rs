//! What AWS and balenaCloud hold for a device at the moment.

use super::{Parties, Registration, StepError};
use crate::balena::{Balena, Holding, Stored};
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

/// Complete credentials of another service of the device, or of the whole device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// The certificate's id.
    pub id: String,
    /// The service; `None` for the whole device.
    pub service: Option<String>,
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
    /// Where else on the device there are complete credentials.
    pub elsewhere: Vec<Elsewhere>,
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
        let (stored, in_use, stray) = if let Some(owner) = registration.owner {
            let stored = parties.balena.stored(owner).await?;
            let in_use = in_use(&held, &stored, registration.csr);
            let stray = find_stray(parties, &held, &stored).await?;
            (stored, in_use, stray)
        } else {
            // the test has no variables at all; of a device, none are asked for
            let in_use = first_usable(&held).filter(|_| registration.device.is_none());
            (Stored::default(), in_use, None)
        };
        Ok(Observation {
            elsewhere: find_elsewhere(parties, &held, in_use.as_deref(), registration).await?,
            variables: stored.certificate.is_some() || stored.private_key.is_some(),
            stray,
            in_use,
            thing,
            held,
        })
    }
}

/// Looks for a usable certificate that another service of the device works with, or the whole device: all
/// belong to one Thing, but each has variables of its own. It asks only if there is a certificate to
/// look for.
async fn find_elsewhere<I: Iot, B: Balena>(
    parties: &Parties<I, B>,
    held: &[Held],
    in_use: Option<&str>,
    registration: &Registration<'_>,
) -> Result<Vec<Elsewhere>, StepError> {
    let is_in_question = |held: &Held| held.usable && in_use != Some(&held.certificate.id);
    let Some(device) = registration
        .device
        .filter(|_| held.iter().any(is_in_question))
    else {
        return Ok(Vec::new());
    };
    let holdings = parties.balena.holdings(device).await?;
    let others = holdings
        .into_iter()
        .filter(|holding| Some(holding.owner) != registration.owner);
    let complete = others.filter_map(
        |Holding {
             service, stored, ..
         }| {
            let id = self::in_use(held, &stored, None)?;
            Some(Elsewhere { id, service })
        },
    );
    Ok(complete.collect())
}

/// Without variables, any certificate will do; all who look agree on the first.
fn first_usable(held: &[Held]) -> Option<String> {
    let usable = held.iter().filter(|held| held.usable);
    usable.map(|held| held.certificate.id.clone()).min()
}

/// The usable certificate that is stored, together with its key or with the device's own. A stored pair
/// that is complete is in use whatever the request's `csr` says: no request turns one kind into the other.
/// Without key and CSR, only AWS's kind of certificate lacks something: the device keeps the key of others.
fn in_use(held: &[Held], stored: &Stored, csr: Option<&str>) -> Option<String> {
    let pem = pair::decode(stored.certificate.as_deref()?)?;
    let fits = match (csr, &stored.private_key) {
        (_, Some(key)) => pair::is_key_of(&Secret::new(pair::decode(key.expose())?), &pem),
        (Some(csr), None) => pair::answers_csr(&pem, csr),
        (None, None) => !pair::is_rsa(&pem),
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
