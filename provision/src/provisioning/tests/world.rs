//! AWS IoT Core and balenaCloud in memory, with a fault or a delay at any call.
//!
//! It is as strict as AWS: an active certificate is not deleted, nor one that has policies or Things,
//! nor a Thing that has certificates.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use tokio::time::sleep;

use super::super::{Parties, Registration};
use crate::balena::{
    Balena, BalenaError, BalenaErrorKind, Device, Fleet, Holding, Owner, Stored, Variable,
};
use crate::iot::{Certificate, Iot, IotError, Issued, Status};
use crate::pair;
use crate::request::Uuid;
use crate::secret::Secret;

pub(crate) const UUID: &str = "5ce5d4f5a1b44d2b9f2f34a4dfa1c0de";
pub(crate) const POLICY: &str = "cloud-relay";
pub(crate) const OWNER: Owner = Owner::Service(4001);
/// The registration that most tests are about.
pub(crate) const DEVICE: Registration<'static> = Registration {
    thing: UUID,
    owner: Some(OWNER),
    device: Some(1001),
    csr: None,
};

/// RSA as AWS makes them, which ring cannot; each certificate is new all the same.
static KEYS: LazyLock<Vec<KeyPair>> = LazyLock::new(|| {
    let pem = include_str!("../../../tests/fixtures/rsa2048-keys.pem");
    let mut pem = pem.as_bytes();
    let keys = rustls_pemfile::pkcs8_private_keys(&mut pem);
    let pairs = keys.map(|key| {
        KeyPair::from_pkcs8_der_and_sign_algo(&key.unwrap(), &rcgen::PKCS_RSA_SHA256).unwrap()
    });
    pairs.collect()
});
/// The key that a device keeps for itself, and its CSR.
pub(crate) static DEVICE_KEY: LazyLock<(KeyPair, String)> = LazyLock::new(|| {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key);
    let pem = request.unwrap().pem().unwrap();
    (key, pem)
});

/// When a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Without having done anything.
    Before,
    /// After having done it: the answer is lost.
    After,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) certificate: Certificate,
    pub(crate) policies: BTreeSet<String>,
    pub(crate) things: BTreeSet<String>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) things: BTreeSet<String>,
    /// By id.
    pub(crate) certificates: BTreeMap<String, Entry>,
    pub(crate) variables: BTreeMap<(Owner, Variable), String>,
    /// The calls so far, by name.
    pub(crate) calls: Vec<&'static str>,
    /// The number of the call that fails, and when.
    pub(crate) fault: Option<(usize, Fault)>,
    /// How long the calls take, in ms, over and over: until the effect, and until the answer.
    pub(crate) delays_ms: Vec<(u64, u64)>,
    /// How long calls of a name take until the effect, in ms, besides that.
    pub(crate) slow_ms: BTreeMap<&'static str, u64>,
    /// The call that AWS refuses each time, as it does while a certificate is transferred to another account.
    pub(crate) refused: Option<&'static str>,
    /// How many certificates were ever made.
    pub(crate) issued: u64,
    /// balenaCloud takes what is stored, and then does not have it.
    pub(crate) forgetful: bool,
}

impl State {
    pub(crate) fn active(&self) -> Vec<&Entry> {
        let active = |entry: &&Entry| entry.certificate.status == Status::Active;
        self.certificates.values().filter(active).collect()
    }

    /// Makes a certificate for `key`, belonging to nothing.
    pub(crate) fn make(&mut self, key: &KeyPair, status: Status) -> Certificate {
        self.issued += 1;
        let mut params = CertificateParams::default();
        params.serial_number = Some(self.issued.into());
        let pem = params.self_signed(key).unwrap().pem();
        let id = pair::fingerprint(&pem).unwrap();
        let certificate = Certificate {
            arn: format!("arn:aws:iot:eu-central-1:1:cert/{id}"),
            id: id.clone(),
            pem,
            status,
        };
        let entry = Entry {
            certificate: certificate.clone(),
            policies: BTreeSet::new(),
            things: BTreeSet::new(),
        };
        self.certificates.insert(id, entry);
        certificate
    }

    /// Makes a certificate and its key as [`Iot::create_certificate`] does.
    pub(crate) fn make_with_key(&mut self, status: Status) -> (Certificate, Secret) {
        let next = usize::try_from(self.issued).unwrap() % KEYS.len();
        let certificate = self.make(&KEYS[next], status);
        (certificate, Secret::new(KEYS[next].serialize_pem()))
    }

    pub(crate) fn store(&mut self, variable: Variable, pem: &str) {
        self.variables.insert((OWNER, variable), pair::encode(pem));
    }

    fn stored(&self, owner: Owner) -> Stored {
        let value = |variable| self.variables.get(&(owner, variable)).cloned();
        Stored {
            certificate: value(Variable::Certificate),
            private_key: value(Variable::PrivateKey).map(Secret::new),
        }
    }

    pub(crate) fn entry(&mut self, id: &str) -> &mut Entry {
        self.certificates.get_mut(id).unwrap()
    }

    /// What is missing or too much for a device that is provisioned; empty if it is all right.
    pub(crate) fn wrongs(&self, csr: Option<&str>) -> Vec<String> {
        let mut wrongs = Vec::new();
        let mut check = |right: bool, wrong: &str| {
            if !right {
                wrongs.push(wrong.to_owned());
            }
        };
        check(self.things.contains(UUID), "no Thing");
        let attached = self.certificates.values();
        let attached = attached.filter(|entry| entry.things.contains(UUID)).count();
        check(attached == 1, &format!("{attached} certificates attached"));
        let active = self.active();
        check(active.len() == 1, &format!("{} active", active.len()));
        let value = |variable| self.variables.get(&(OWNER, variable));
        let stored = value(Variable::Certificate).and_then(|value| pair::decode(value));
        let key = value(Variable::PrivateKey).and_then(|value| pair::decode(value));
        if let (Some(entry), Some(stored)) = (active.first(), &stored) {
            check(entry.policies.contains(POLICY), "no policy");
            check(entry.things.contains(UUID), "the active one has no Thing");
            check(entry.certificate.pem == *stored, "another one is stored");
        } else {
            check(false, "nothing active or nothing stored");
        }
        let certificate = stored.unwrap_or_default();
        check(
            match (csr, key) {
                // a complete pair stays in use, whatever the request asks for
                (_, Some(key)) => pair::is_key_of(&Secret::new(key), &certificate),
                (Some(csr), None) => pair::answers_csr(&certificate, csr),
                _ => false,
            },
            "the key does not fit",
        );
        wrongs
    }

    /// Whether `owner` has a stored pair that AWS lets in.
    pub(crate) fn works(&self, owner: Owner) -> bool {
        let value = |variable| self.variables.get(&(owner, variable));
        let pem = |variable| value(variable).and_then(|value| pair::decode(value));
        let (Some(stored), Some(key)) = (pem(Variable::Certificate), pem(Variable::PrivateKey))
        else {
            return false;
        };
        let mut active = self.active().into_iter();
        pair::is_key_of(&Secret::new(key), &stored)
            && active.any(|entry| {
                entry.certificate.pem == stored
                    && entry.policies.contains(POLICY)
                    && entry.things.contains(UUID)
            })
    }

    /// Nothing is left of the device.
    pub(crate) fn is_empty(&self) -> bool {
        self.things.is_empty() && self.certificates.is_empty() && self.variables.is_empty()
    }
}

/// Both parties; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct World(Arc<Mutex<State>>);

pub(crate) fn parties(world: &World) -> Parties<World, World> {
    Parties {
        iot: world.clone(),
        balena: world.clone(),
        policy: POLICY.to_owned(),
    }
}

fn overtaken(operation: &'static str, cause: &str) -> IotError {
    IotError {
        operation,
        object: String::new(),
        cause: cause.to_owned(),
        overtaken: true,
    }
}

impl World {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// A call of either party: its delays, its fault, its effect.
    async fn call<T, E>(
        &self,
        name: &'static str,
        failure: impl Fn() -> E,
        effect: impl FnOnce(&mut State) -> Result<T, E>,
    ) -> Result<T, E> {
        let (fault, (before, after)) = {
            let mut state = self.state();
            let number = state.calls.len();
            state.calls.push(name);
            let fault = state.fault.filter(|(at, _)| *at == number);
            let delays = match state.delays_ms.len() {
                0 => (0, 0),
                count => state.delays_ms[number % count],
            };
            let slow = state.slow_ms.get(name).copied().unwrap_or_default();
            (fault.map(|(_, fault)| fault), (slow + delays.0, delays.1))
        };
        sleep(Duration::from_millis(before)).await;
        if fault == Some(Fault::Before) {
            return Err(failure());
        }
        let outcome = effect(&mut self.state());
        sleep(Duration::from_millis(after)).await;
        if fault == Some(Fault::After) {
            return Err(failure());
        }
        outcome
    }

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

    async fn balena<T>(
        &self,
        name: &'static str,
        effect: impl FnOnce(&mut State) -> T,
    ) -> Result<T, BalenaError> {
        let failure = || BalenaError {
            operation: name,
            kind: BalenaErrorKind::Failed {
                cause: "planted".to_owned(),
            },
        };
        self.call(name, failure, |state| Ok(effect(state))).await
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

impl Balena for World {
    async fn device(&self, uuid: &Uuid) -> Result<Option<Device>, BalenaError> {
        self.balena("GET device", |_| {
            let fleet = Fleet {
                id: 2001,
                slug: "acme/weather".to_owned(),
            };
            (uuid.as_str() == UUID).then_some(Device { id: 1001, fleet })
        })
        .await
    }

    async fn service(&self, _: &Fleet, name: &str) -> Result<Option<u64>, BalenaError> {
        let services = [("cloud-relay", 3001), ("sensor", 3002), ("new", 3003)];
        let found = services.into_iter().find(|(service, _)| *service == name);
        self.balena("GET application", |_| found.map(|(_, id)| id))
            .await
    }

    async fn installation(&self, _: &Device, service: u64) -> Result<Option<u64>, BalenaError> {
        self.balena("GET service_install", |_| {
            (service < 3003).then_some(service + 1000)
        })
        .await
    }

    async fn stored(&self, owner: Owner) -> Result<Stored, BalenaError> {
        self.balena("GET variables", |state| state.stored(owner))
            .await
    }

    async fn holdings(&self, _: u64) -> Result<Vec<Holding>, BalenaError> {
        let owners = [
            (Owner::Device(1001), None),
            (OWNER, Some("cloud-relay")),
            (Owner::Service(4002), Some("sensor")),
        ];
        self.balena("GET all variables", |state| {
            let holdings = owners.map(|(owner, service)| Holding {
                owner,
                service: service.map(str::to_owned),
                stored: state.stored(owner),
            });
            holdings.into()
        })
        .await
    }

    async fn set(&self, owner: Owner, variable: Variable, value: &str) -> Result<(), BalenaError> {
        let name = match variable {
            Variable::Certificate => "POST AWS_CERT",
            Variable::PrivateKey => "POST AWS_PRIVATE_KEY",
        };
        self.balena(name, |state| {
            if !state.forgetful {
                let key = (owner, variable);
                state.variables.insert(key, value.to_owned());
            }
        })
        .await
    }

    async fn remove(&self, owner: Owner, variable: Variable) -> Result<(), BalenaError> {
        let name = match variable {
            Variable::Certificate => "DELETE AWS_CERT",
            Variable::PrivateKey => "DELETE AWS_PRIVATE_KEY",
        };
        self.balena(name, |state| {
            state.variables.remove(&(owner, variable));
        })
        .await
    }
}
