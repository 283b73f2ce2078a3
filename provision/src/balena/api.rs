//! [`Balena`] over HTTPS. The only importer of reqwest.
//!
//! The requests are those that balena's own SDK (22) makes for the same ends. What is answered 429 or
//! 5xx, and what gets no answer, is tried again: every request here may be repeated. Redirects are not
//! followed, for they would carry the key elsewhere.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Method, StatusCode, Url};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    Balena, BalenaError, BalenaErrorKind, Device, Fleet, Holding, Owner, Stored, Uuid, Variable,
};
use crate::secret::Secret;

/// How long one try may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(6);
/// How often a request is tried in all.
const ATTEMPTS_MAX: u32 = 3;
/// The wait after a try that failed, when the answer asks for none.
const RETRY_DELAY: Duration = Duration::from_millis(400);
/// The longest wait that an answer may ask for: a whole request has 25 s.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);
/// How long an answer may be, in bytes. A variable holds at most 100,000 characters.
const ANSWER_BYTES_MAX: usize = 512 * 1024;

/// Where and as whom.
#[derive(Clone, Debug)]
pub struct ApiOptions {
    /// `BALENA_API_URL`: without the version.
    pub url: Url,
    /// `BALENA_API_KEY`.
    pub key: Secret,
}

/// The client cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the HTTP client for balenaCloud cannot be built: {0}")]
pub struct ClientError(String);

/// balenaCloud's API.
#[derive(Clone, Debug)]
pub struct Api {
    options: ApiOptions,
    client: reqwest::Client,
}

/// A request and its name in errors.
struct Call<'a> {
    operation: &'static str,
    method: Method,
    resource: &'a str,
    query: &'a [(&'a str, &'a str)],
    body: Option<&'a Value>,
}

/// A complete answer.
struct Answer {
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

/// How balenaCloud wraps what it found.
#[derive(Deserialize)]
struct Found<T> {
    d: Vec<T>,
}

impl Api {
    /// A client; connections are made when they are needed.
    pub fn new(options: ApiOptions) -> Result<Self, ClientError> {
        let roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| ClientError(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(ATTEMPT_TIMEOUT)
            .build()
            .map_err(|error| ClientError(error.to_string()))?;
        Ok(Api { options, client })
    }

    /// Sends until there is an answer that will not get better.
    async fn send(&self, call: &Call<'_>) -> Result<Answer, BalenaError> {
        let mut attempt = 1;
        loop {
            let outcome = self.exchange(call).await;
            let (kind, delay) = match outcome {
                Ok(answer) if answer.is_final() => return Ok(answer),
                Ok(answer) => (
                    BalenaErrorKind::Busy {
                        status: answer.status.as_u16(),
                        retry_after: answer.retry_after,
                    },
                    answer.retry_after,
                ),
                Err(error) => (
                    BalenaErrorKind::Failed {
                        cause: explain(&error),
                    },
                    None,
                ),
            };
            let delay = delay.unwrap_or(RETRY_DELAY * attempt);
            if attempt == ATTEMPTS_MAX || delay > RETRY_AFTER_MAX {
                return Err(call.error(kind));
            }
            attempt += 1;
            tokio::time::sleep(delay).await;
        }
    }

    async fn exchange(&self, call: &Call<'_>) -> Result<Answer, reqwest::Error> {
        let mut url = self.options.url.clone();
        url.set_path(&format!(
            "{}/v7/{}",
            self.options.url.path().trim_end_matches('/'),
            call.resource
        ));
        // not as an HTML form: the API takes a `+` for a plus. No value here holds one of `&#%+`
        let pairs = call
            .query
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let query = pairs.collect::<Vec<_>>().join("&");
        url.set_query(Some(query.as_str()).filter(|query| !query.is_empty()));
        let mut request = self.client.request(call.method.clone(), url);
        request = request.bearer_auth(self.options.key.expose());
        if let Some(body) = call.body {
            request = request
                .header("Content-Type", "application/json")
                .body(body.to_string());
        }
        let mut response = request.send().await?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_BYTES_MAX {
                break;
            }
        }
        let retry_after = response.headers().get(RETRY_AFTER);
        Ok(Answer {
            status: response.status(),
            retry_after: retry_after
                .and_then(|value| value.to_str().ok()?.trim().parse().ok())
                .map(Duration::from_secs),
            body,
        })
    }

    /// What a GET finds.
    async fn find<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<Vec<T>, BalenaError> {
        let answer = self.send(call).await?;
        call.expect(&answer, &[StatusCode::OK])?;
        let found: Found<T> = serde_json::from_slice(&answer.body).map_err(|error| {
            // serde's words may quote a value
            call.failed(format!(
                "the answer is not what was expected (line {}, column {})",
                error.line(),
                error.column()
            ))
        })?;
        Ok(found.d)
    }
}

impl Answer {
    fn is_final(&self) -> bool {
        self.status != StatusCode::TOO_MANY_REQUESTS && !self.status.is_server_error()
    }

    /// Whether a POST met a variable that exists.
    fn says_unique(&self) -> bool {
        let text = String::from_utf8_lossy(&self.body).to_lowercase();
        self.status == StatusCode::CONFLICT && text.contains("unique")
    }
}

impl<'a> Call<'a> {
    fn get(operation: &'static str, resource: &'a str, query: &'a [(&'a str, &'a str)]) -> Self {
        Call {
            operation,
            method: Method::GET,
            resource,
            query,
            body: None,
        }
    }

    fn error(&self, kind: BalenaErrorKind) -> BalenaError {
        BalenaError {
            operation: self.operation,
            kind,
        }
    }

    fn failed(&self, cause: String) -> BalenaError {
        self.error(BalenaErrorKind::Failed { cause })
    }

    /// The answer's text is not shown: it may quote what was sent.
    fn expect(&self, answer: &Answer, expected: &[StatusCode]) -> Result<(), BalenaError> {
        if expected.contains(&answer.status) {
            Ok(())
        } else if answer.status == StatusCode::UNAUTHORIZED {
            Err(self.error(BalenaErrorKind::Login))
        } else {
            Err(self.failed(format!("it answers {}", answer.status.as_u16())))
        }
    }
}

/// Without the address, whose query names a device.
fn explain(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", ATTEMPT_TIMEOUT.as_secs());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// A text in a filter of the API.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The operation's name in errors.
const READING: &str = "reading the variables";

/// A filter for both variables of an owner.
fn either_variable(owner: &str) -> String {
    let names = [Variable::Certificate, Variable::PrivateKey].map(|v| quoted(v.name()));
    format!("{owner} and (name eq {})", names.join(" or name eq "))
}

impl Owner {
    /// Where its variables are kept.
    fn resource(self) -> &'static str {
        match self {
            Owner::Device(_) => "device_environment_variable",
            Owner::Service(_) => "device_service_environment_variable",
        }
    }

    fn field(self) -> (&'static str, u64) {
        match self {
            Owner::Device(id) => ("device", id),
            Owner::Service(id) => ("service_install", id),
        }
    }

    fn filter(self, variable: Variable) -> String {
        let (field, id) = self.field();
        format!("{field} eq {id} and name eq {}", quoted(variable.name()))
    }
}

#[derive(Deserialize)]
struct DeviceFound {
    id: u64,
    uuid: String,
    #[serde(rename = "belongs_to__application")]
    fleets: Vec<FleetFound>,
}

#[derive(Deserialize)]
struct FleetFound {
    id: u64,
    #[serde(default)]
    slug: String,
    #[serde(default)]
    service: Vec<ServiceFound>,
}

#[derive(Deserialize)]
struct ServiceFound {
    id: u64,
    service_name: String,
}

#[derive(Deserialize)]
struct Numbered {
    id: u64,
}

#[derive(Deserialize)]
struct VariableFound {
    name: String,
    value: String,
}

#[derive(Deserialize)]
struct ServiceVariableFound {
    #[serde(flatten)]
    variable: VariableFound,
    #[serde(rename = "service_install")]
    install: Vec<InstallFound>,
}

#[derive(Deserialize)]
struct InstallFound {
    id: u64,
    #[serde(rename = "installs__service")]
    service: Vec<NameFound>,
}

#[derive(Deserialize)]
struct NameFound {
    service_name: String,
}

impl Stored {
    fn take(&mut self, variable: VariableFound) {
        match variable.name.as_str() {
            "AWS_CERT" => self.certificate = Some(variable.value),
            "AWS_PRIVATE_KEY" => self.private_key = Some(Secret::new(variable.value)),
            _ => {}
        }
    }
}

impl Balena for Api {
    async fn device(&self, uuid: &Uuid) -> Result<Option<Device>, BalenaError> {
        let resource = format!("device(uuid={})", quoted(uuid.as_str()));
        let query = [
            ("$select", "id,uuid"),
            ("$expand", "belongs_to__application($select=id,slug)"),
        ];
        let call = Call::get("looking up the device", &resource, &query);
        let found: Vec<DeviceFound> = self.find(&call).await?;
        let found = found.into_iter().find(|found| found.uuid == uuid.as_str());
        let Some(device) = found else {
            return Ok(None);
        };
        let fleet = device.fleets.into_iter().next();
        let fleet = fleet.ok_or_else(|| call.failed("the device has no fleet".to_owned()))?;
        Ok(Some(Device {
            id: device.id,
            fleet: Fleet {
                id: fleet.id,
                slug: fleet.slug,
            },
        }))
    }

    async fn service(&self, fleet: &Fleet, name: &str) -> Result<Option<u64>, BalenaError> {
        let resource = format!("application({})", fleet.id);
        let query = [("$select", "id"), ("$expand", "service")];
        let call = Call::get("listing the fleet's services", &resource, &query);
        let found: Vec<FleetFound> = self.find(&call).await?;
        let mut services = found.into_iter().flat_map(|fleet| fleet.service);
        let service = services.find(|service| service.service_name == name);
        Ok(service.map(|service| service.id))
    }

    async fn installation(
        &self,
        device: &Device,
        service: u64,
    ) -> Result<Option<u64>, BalenaError> {
        let filter = format!("device eq {} and installs__service eq {service}", device.id);
        let query = [("$select", "id"), ("$filter", &filter)];
        let call = Call::get("looking up the service", "service_install", &query);
        let found: Vec<Numbered> = self.find(&call).await?;
        Ok(found.first().map(|found| found.id))
    }

    async fn stored(&self, owner: Owner) -> Result<Stored, BalenaError> {
        let (field, id) = owner.field();
        let filter = either_variable(&format!("{field} eq {id}"));
        let query = [("$select", "name,value"), ("$filter", filter.as_str())];
        let call = Call::get(READING, owner.resource(), &query);
        let mut stored = Stored::default();
        for variable in self.find(&call).await? {
            stored.take(variable);
        }
        Ok(stored)
    }

    async fn holdings(&self, device: u64) -> Result<Vec<Holding>, BalenaError> {
        let owner = Owner::Device(device);
        let mut holdings = vec![Holding {
            owner,
            service: None,
            stored: self.stored(owner).await?,
        }];
        let filter = either_variable(&format!("service_install/any(si:si/device eq {device})"));
        let query = [
            ("$select", "name,value"),
            ("$filter", filter.as_str()),
            (
                "$expand",
                "service_install($select=id;$expand=installs__service($select=service_name))",
            ),
        ];
        let call = Call::get(READING, "device_service_environment_variable", &query);
        let found: Vec<ServiceVariableFound> = self.find(&call).await?;
        for ServiceVariableFound { variable, install } in found {
            let install = install.into_iter().next();
            let install =
                install.ok_or_else(|| call.failed("a variable has no service".to_owned()))?;
            let owner = Owner::Service(install.id);
            if let Some(known) = holdings.iter_mut().find(|holding| holding.owner == owner) {
                known.stored.take(variable);
                continue;
            }
            let mut stored = Stored::default();
            stored.take(variable);
            let service = install.service.into_iter().next();
            holdings.push(Holding {
                owner,
                service: service.map(|service| service.service_name),
                stored,
            });
        }
        Ok(holdings)
    }

    async fn set(&self, owner: Owner, variable: Variable, value: &str) -> Result<(), BalenaError> {
        let (field, id) = owner.field();
        let body = json!({field: id, "name": variable.name(), "value": value});
        let create = Call {
            operation: "writing a variable",
            method: Method::POST,
            resource: owner.resource(),
            query: &[],
            body: Some(&body),
        };
        let answer = self.send(&create).await?;
        if !answer.says_unique() {
            return create.expect(&answer, &[StatusCode::CREATED, StatusCode::OK]);
        }
        let filter = owner.filter(variable);
        let body = json!({"value": value});
        let change = Call {
            operation: "changing a variable",
            method: Method::PATCH,
            resource: owner.resource(),
            query: &[("$filter", &filter)],
            body: Some(&body),
        };
        let answer = self.send(&change).await?;
        change.expect(&answer, &[StatusCode::OK])
    }

    async fn remove(&self, owner: Owner, variable: Variable) -> Result<(), BalenaError> {
        let filter = owner.filter(variable);
        let call = Call {
            operation: "removing a variable",
            method: Method::DELETE,
            resource: owner.resource(),
            query: &[("$filter", &filter)],
            body: None,
        };
        let answer = self.send(&call).await?;
        call.expect(&answer, &[StatusCode::OK])
    }
}
