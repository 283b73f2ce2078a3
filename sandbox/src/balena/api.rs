//! balenaCloud's API, as far as a cloud function and balena's SDK use it for one device.
//!
//! What is written for the relay's service or for the whole device becomes a variable of the
//! stand-in, and the Supervisor does its part. What the API is not asked for here it answers with 404,
//! so that a request of another shape shows. Filters are found in the text, not evaluated.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Balena, BalenaError};
use crate::ca::CertificateAuthority;
use crate::http::{Call, HttpServer, Reply};

/// The key that the API asks for.
pub const BALENA_API_KEY: &str = "sandbox-balena-key";
/// The fleet's slug.
pub const FLEET_SLUG: &str = "acme/weather";
const DEVICE_ID: u64 = 1001;
const FLEET_ID: u64 = 2001;
/// The service beside the relay.
const OTHER_SERVICE: &str = "sensor";

/// What variables belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Device,
    /// A service, by its place in [`Shared::services`].
    Service(usize),
}

#[derive(Default)]
struct Account {
    variables: BTreeMap<(Owner, String), String>,
    script: VecDeque<(u16, Option<String>)>,
    requests: Vec<String>,
}

struct Shared {
    balena: Arc<Balena>,
    authority: Option<Arc<CertificateAuthority>>,
    account: Mutex<Account>,
}

/// The running API; dropping it closes the port.
pub struct BalenaApi {
    shared: Arc<Shared>,
    server: HttpServer,
}

/// The body of a write.
#[derive(Deserialize)]
struct Written {
    device: Option<u64>,
    service_install: Option<u64>,
    name: Option<String>,
    value: String,
}

/// Numbers of a service and of its installation on the device, by its place in the list.
fn service_id(place: usize) -> usize {
    3001 + place
}
fn installation_id(place: usize) -> usize {
    4001 + place
}

impl BalenaApi {
    /// Starts it on a free port of 127.0.0.1. An `authority` learns of each certificate that is stored,
    /// as AWS knows the certificates that it has made.
    pub async fn start(
        balena: Arc<Balena>,
        authority: Option<Arc<CertificateAuthority>>,
    ) -> Result<Self, BalenaError> {
        let shared = Arc::new(Shared {
            balena,
            authority,
            account: Mutex::default(),
        });
        let api = Arc::clone(&shared);
        let server = HttpServer::start(move |call| {
            let reply = api.answer(&call);
            async move { reply }
        })
        .await
        .map_err(|source| BalenaError::Listen { source })?;
        Ok(BalenaApi { shared, server })
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.addr)
    }

    /// The next request that has no other script gets this status, and `Retry-After`.
    pub fn script(&self, status: u16, retry_after: Option<&str>) {
        let answer = (status, retry_after.map(str::to_owned));
        self.shared.account().script.push_back(answer);
    }

    /// The requests so far: method, and address as it was meant.
    pub fn requests(&self) -> Vec<String> {
        self.shared.account().requests.clone()
    }

    /// A variable of the relay's service.
    pub fn service_variable(&self, name: &str) -> Option<String> {
        let account = self.shared.account();
        let key = (Owner::Service(0), name.to_owned());
        account.variables.get(&key).cloned()
    }
}

impl Shared {
    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The relay's service comes first.
    fn services(&self) -> [&str; 2] {
        [&self.balena.shared.options.service_name, OTHER_SERVICE]
    }

    fn answer(&self, call: &Call) -> Reply {
        let path = decoded(&call.path);
        let query = decoded(&call.query);
        let scripted = {
            let mut account = self.account();
            let request = format!("{} {path}?{query}", call.method);
            let request = request.trim_end_matches('?').to_owned();
            account.requests.push(request);
            account.script.pop_front()
        };
        if let Some((status, retry_after)) = scripted {
            let body = "scripted".to_owned();
            return Reply::Answer {
                status,
                body,
                retry_after,
            };
        }
        if call.header("authorization") != Some(&format!("Bearer {BALENA_API_KEY}")) {
            return Reply::text(401, "Unauthorized");
        }
        let Some(resource) = path.strip_prefix("/v7/") else {
            return not_here();
        };
        match resource {
            "device_environment_variable" | "device_service_environment_variable" => {
                self.variable(call, &query)
            }
            _ if call.method != "GET" => not_here(),
            "service_install" => self.installation(&query),
            _ => self.look_up(resource, &query),
        }
    }

    fn look_up(&self, resource: &str, query: &str) -> Reply {
        let uuid = self.balena.device_uuid();
        if resource == format!("device(uuid='{uuid}')")
            || resource == format!("device({DEVICE_ID})")
        {
            let expands = query.contains("$expand=belongs_to__application");
            let fleet = if expands {
                json!([{"id": FLEET_ID, "slug": FLEET_SLUG}])
            } else {
                json!({"__id": FLEET_ID})
            };
            return found(
                &json!([{"id": DEVICE_ID, "uuid": uuid, "belongs_to__application": fleet}]),
            );
        }
        if resource.starts_with("device(") {
            return found(&json!([]));
        }
        if resource == format!("application({FLEET_ID})") && query.contains("$expand=service") {
            let services = self.services().into_iter().enumerate();
            let services: Vec<Value> = services
                .map(|(place, name)| json!({"id": service_id(place), "service_name": name}))
                .collect();
            return found(&json!([{"id": FLEET_ID, "service": services}]));
        }
        not_here()
    }

    fn installation(&self, query: &str) -> Reply {
        let of_device = query.contains(&format!("device eq {DEVICE_ID} "))
            || query.contains(&format!("d/uuid eq '{}'", self.balena.device_uuid()));
        match self.named_service(query).filter(|_| of_device) {
            Some(place) => found(&json!([{"id": installation_id(place)}])),
            None => found(&json!([])),
        }
    }

    /// The service that a filter is about.
    fn named_service(&self, query: &str) -> Option<usize> {
        let is_named = |(place, name): &(usize, &str)| {
            let (id, installation) = (service_id(*place), installation_id(*place));
            query.contains(&format!("installs__service eq {id}"))
                || query.contains(&format!("service_name eq '{name}'"))
                || query.contains(&format!("service_install eq {installation}"))
        };
        let found = self.services().into_iter().enumerate().find(is_named);
        found.map(|(place, _)| place)
    }

    fn variable(&self, call: &Call, query: &str) -> Reply {
        if call.method == "POST" {
            return match serde_json::from_slice(&call.body) {
                Ok(written) => self.create(written),
                Err(error) => Reply::text(400, error.to_string()),
            };
        }
        let of_device = query.contains(&format!("device eq {DEVICE_ID}"));
        if call.method == "GET" && query.contains(&format!("any(si:si/device eq {DEVICE_ID})")) {
            return self.read_services();
        }
        let owner = if call.path.ends_with("/device_environment_variable") {
            of_device.then_some(Owner::Device)
        } else {
            self.named_service(query).map(Owner::Service)
        };
        let Some(owner) = owner else {
            return Reply::text(400, "no such owner");
        };
        let names = query.split("name eq '").skip(1);
        let names: Vec<&str> = names.filter_map(|rest| rest.split('\'').next()).collect();
        match call.method.as_str() {
            "GET" => self.read(owner, &names),
            "PATCH" => match serde_json::from_slice::<Written>(&call.body) {
                Ok(written) => {
                    for name in names {
                        self.write(owner, name, &written.value, true);
                    }
                    Reply::text(200, "OK")
                }
                Err(error) => Reply::text(400, error.to_string()),
            },
            "DELETE" => {
                for name in names {
                    self.erase(owner, name);
                }
                Reply::text(200, "OK")
            }
            _ => not_here(),
        }
    }

    fn create(&self, written: Written) -> Reply {
        let installations = (0..2).map(|place| (place, installation_id(place) as u64));
        let owner = match (written.device, written.service_install) {
            (Some(DEVICE_ID), None) => Some(Owner::Device),
            (None, Some(id)) => installations
                .into_iter()
                .find(|(_, installation)| *installation == id)
                .map(|(place, _)| Owner::Service(place)),
            _ => None,
        };
        let (Some(owner), Some(name)) = (owner, written.name) else {
            return Reply::text(400, "no such owner, or no name");
        };
        let exists = self
            .account()
            .variables
            .contains_key(&(owner, name.clone()));
        if exists {
            return Reply::text(409, "\"It is necessary that each name is unique\"");
        }
        self.write(owner, &name, &written.value, false);
        let created = json!({"id": 1, "name": name, "value": written.value});
        Reply::text(201, created.to_string())
    }

    fn read(&self, owner: Owner, names: &[&str]) -> Reply {
        let account = self.account();
        let wanted = |((of, name), _): &(&(Owner, String), &String)| {
            *of == owner && names.contains(&name.as_str())
        };
        let variables = account.variables.iter().filter(wanted);
        let variables: Vec<Value> = variables
            .map(|((_, name), value)| json!({"id": 1, "name": name, "value": value}))
            .collect();
        found(&variables.into())
    }

    /// The variables of all services, each with its service.
    fn read_services(&self) -> Reply {
        let account = self.account();
        let variables = account
            .variables
            .iter()
            .filter_map(|((owner, name), value)| {
                let Owner::Service(place) = *owner else {
                    return None;
                };
                let service = self.services().get(place).copied();
                let install = json!([{
                    "id": installation_id(place),
                    "installs__service": [{"service_name": service}],
                }]);
                Some(json!({"name": name, "value": value, "service_install": install}))
            });
        found(&variables.collect::<Vec<_>>().into())
    }

    /// Writes, and with `existing` only over what is there.
    fn write(&self, owner: Owner, name: &str, value: &str, existing: bool) {
        {
            let variables = &mut self.account().variables;
            let key = (owner, name.to_owned());
            if existing && !variables.contains_key(&key) {
                return;
            }
            variables.insert(key, value.to_owned());
        }
        if let Some(authority) = self.authority.as_ref().filter(|_| name == "AWS_CERT") {
            authority.recognise(value, self.balena.device_uuid());
        }
        if owner != Owner::Service(1) {
            self.balena.set_variable(name, value);
        }
    }

    fn erase(&self, owner: Owner, name: &str) {
        let key = (owner, name.to_owned());
        let erased = self.account().variables.remove(&key).is_some();
        if erased && owner != Owner::Service(1) {
            self.balena.remove_variable(name);
        }
    }
}

fn found(objects: &Value) -> Reply {
    Reply::text(200, json!({"d": objects}).to_string())
}

fn not_here() -> Reply {
    Reply::text(404, "not part of this stand-in")
}

/// Resolves `%XX`. A `+` stays one, as in the real API: it is no space outside of HTML forms.
fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}
