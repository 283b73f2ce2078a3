//! Whether what there is does for a device.

use super::{Entry, OWNER, POLICY, State, UUID};
use crate::balena::{Owner, Variable};
use crate::iot::Status;
use crate::pair;
use crate::secret::Secret;

impl State {
    pub(crate) fn active(&self) -> Vec<&Entry> {
        let active = |entry: &&Entry| entry.certificate.status == Status::Active;
        self.certificates.values().filter(active).collect()
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
