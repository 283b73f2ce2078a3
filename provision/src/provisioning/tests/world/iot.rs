//! AWS IoT Core. It is as strict as AWS: an active certificate is not deleted, nor one that has policies or Things,
//! nor a Thing that has certificates.

use super::{DEVICE_KEY, Entry, State, World};
use crate::iot::{Certificate, Iot, IotError, Issued, Status};

fn overtaken(operation: &'static str, cause: &str) -> IotError {
    IotError {
        operation,
        object: String::new(),
        cause: cause.to_owned(),
        overtaken: true,
    }
}

impl World {
    async fn iot<T>(
        &self,
        name: &'static str,
        effect: impl FnOnce(&mut State) -> Result<T, IotError>,
    ) -> Result<T, IotError> {
        let failure = || IotError {
            overtaken: false,
            ..overtaken(name, "planted")
        };
        let effect = |state: &mut State| match state.refused {
            Some(refused) if refused == name => Err(overtaken(name, "CertificateStateException")),
            _ => effect(state),
        };
        self.call(name, failure, effect).await
    }
}

fn id_of(arn: &str) -> String {
    crate::iot::certificate_id(arn).unwrap().to_owned()
}

/// The certificate, or the error that AWS gives when it is gone.
fn existing<'a>(
    state: &'a mut State,
    operation: &'static str,
    id: &str,
) -> Result<&'a mut Entry, IotError> {
    let entry = state.certificates.get_mut(id);
    entry.ok_or_else(|| overtaken(operation, "ResourceNotFoundException"))
}

impl Iot for World {
    async fn certificates_of(&self, thing: &str) -> Result<Option<Vec<String>>, IotError> {
        self.iot("ListThingPrincipals", |state| {
            let held = state.certificates.values();
            let held = held.filter(|entry| entry.things.contains(thing));
            let arns = held.map(|entry| entry.certificate.arn.clone()).collect();
            Ok(state.things.contains(thing).then_some(arns))
        })
        .await
    }

    async fn things_of(&self, arn: &str) -> Result<Vec<String>, IotError> {
        self.iot("ListPrincipalThings", |state| {
            let entry = state.certificates.get(&id_of(arn));
            Ok(entry.map_or_else(Vec::new, |entry| entry.things.iter().cloned().collect()))
        })
        .await
    }

    async fn policies_of(&self, arn: &str) -> Result<Vec<String>, IotError> {
        self.iot("ListAttachedPolicies", |state| {
            let entry = state.certificates.get(&id_of(arn));
            Ok(entry.map_or_else(Vec::new, |entry| entry.policies.iter().cloned().collect()))
        })
        .await
    }

    async fn certificate(&self, id: &str) -> Result<Option<Certificate>, IotError> {
        self.iot("DescribeCertificate", |state| {
            let entry = state.certificates.get(id);
            Ok(entry.map(|entry| entry.certificate.clone()))
        })
        .await
    }

    async fn create_thing(&self, thing: &str) -> Result<(), IotError> {
        self.iot("CreateThing", |state| {
            state.things.insert(thing.to_owned());
            Ok(())
        })
        .await
    }

    async fn create_certificate(&self, csr: Option<&str>) -> Result<Issued, IotError> {
        let name = match csr {
            Some(_) => "CreateCertificateFromCsr",
            None => "CreateKeysAndCertificate",
        };
        self.iot(name, |state| {
            if csr.is_some() {
                let certificate = state.make(&DEVICE_KEY.0, Status::Inactive);
                let key = None;
                return Ok(Issued { certificate, key });
            }
            let (certificate, key) = state.make_with_key(Status::Inactive);
            let key = Some(key);
            Ok(Issued { certificate, key })
        })
        .await
    }

    async fn attach_thing(&self, thing: &str, arn: &str) -> Result<(), IotError> {
        self.iot("AttachThingPrincipal", |state| {
            if !state.things.contains(thing) {
                return Err(overtaken("AttachThingPrincipal", "no Thing"));
            }
            let entry = existing(state, "AttachThingPrincipal", &id_of(arn))?;
            entry.things.insert(thing.to_owned());
            Ok(())
        })
        .await
    }

    async fn attach_policy(&self, policy: &str, arn: &str) -> Result<(), IotError> {
        self.iot("AttachPolicy", |state| {
            let entry = existing(state, "AttachPolicy", &id_of(arn))?;
            entry.policies.insert(policy.to_owned());
            Ok(())
        })
        .await
    }

    async fn set_active(&self, id: &str, active: bool) -> Result<(), IotError> {
        self.iot("UpdateCertificate", |state| {
            match existing(state, "UpdateCertificate", id) {
                Ok(entry) if active => entry.certificate.status = Status::Active,
                Ok(entry) => entry.certificate.status = Status::Inactive,
                Err(_) if !active => {}
                Err(error) => return Err(error),
            }
            Ok(())
        })
        .await
    }

    async fn detach_policy(&self, policy: &str, arn: &str) -> Result<(), IotError> {
        self.iot("DetachPolicy", |state| {
            if let Some(entry) = state.certificates.get_mut(&id_of(arn)) {
                entry.policies.remove(policy);
            }
            Ok(())
        })
        .await
    }

    async fn detach_thing(&self, thing: &str, arn: &str) -> Result<(), IotError> {
        self.iot("DetachThingPrincipal", |state| {
            if let Some(entry) = state.certificates.get_mut(&id_of(arn)) {
                entry.things.remove(thing);
            }
            Ok(())
        })
        .await
    }

    async fn delete_certificate(&self, id: &str) -> Result<(), IotError> {
        self.iot("DeleteCertificate", |state| {
            let Some(entry) = state.certificates.get(id) else {
                return Ok(());
            };
            if entry.certificate.status == Status::Active {
                return Err(overtaken("DeleteCertificate", "CertificateStateException"));
            }
            if !entry.policies.is_empty() || !entry.things.is_empty() {
                return Err(overtaken("DeleteCertificate", "DeleteConflictException"));
            }
            state.certificates.remove(id);
            Ok(())
        })
        .await
    }

    async fn delete_thing(&self, thing: &str) -> Result<(), IotError> {
        self.iot("DeleteThing", |state| {
            let mut held = state.certificates.values();
            if held.any(|entry| entry.things.contains(thing)) {
                return Err(overtaken("DeleteThing", "InvalidRequestException"));
            }
            state.things.remove(thing);
            Ok(())
        })
        .await
    }
}
