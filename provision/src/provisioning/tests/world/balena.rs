//! balenaCloud: one device of one fleet, with two services, and a third that is not installed.

use super::{OWNER, State, UUID, World};
use crate::balena::{
    Balena, BalenaError, BalenaErrorKind, Device, Fleet, Holding, Owner, Stored, Variable,
};
use crate::request::Uuid;
use crate::secret::Secret;

impl State {
    fn stored(&self, owner: Owner) -> Stored {
        let value = |variable| self.variables.get(&(owner, variable)).cloned();
        Stored {
            certificate: value(Variable::Certificate),
            private_key: value(Variable::PrivateKey).map(Secret::new),
        }
    }
}

impl World {
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
