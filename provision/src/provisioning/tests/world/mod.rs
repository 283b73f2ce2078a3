//! AWS IoT Core and balenaCloud in memory, with a fault or a delay at any call.
//!
//! [`State`] is what there is, [`World`] what both parties are to the code under test: `iot` is AWS, `balena`
//! balenaCloud. `verdict` says whether a device could work with it.

mod balena;
mod iot;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use tokio::time::sleep;

use super::super::{Parties, Registration};
use crate::balena::{Owner, Variable};
use crate::iot::{Certificate, Status};
use crate::pair;
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
    let pem = include_str!("../../../../tests/fixtures/rsa2048-keys.pem");
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

    pub(crate) fn entry(&mut self, id: &str) -> &mut Entry {
        self.certificates.get_mut(id).unwrap()
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
}
