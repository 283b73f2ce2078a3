//! The cloud function `provision`, as seen over HTTP.
//!
//! `POST` registers a device: a Thing, a certificate, and the variables `AWS_CERT` and
//! `AWS_PRIVATE_KEY`, in this order, written into balenaCloud; `DELETE` undoes it. A request with a
//! `csr` gets a certificate for that key, unless [`ProvisionEndpoint::ignore_csr`]. Answers can be
//! scripted, and every request is kept. A registration that has begun is finished even if the
//! client goes away, as a cloud function's is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::sync::watch;

use crate::balena::Balena;
use crate::ca::{CaError, CertificateAuthority, KeyFormat};
use crate::http::{Call, HttpServer, Reply};

/// The Thing that stands for a request without a device.
const TEST_THING: &str = "test-provision";

/// What can go wrong with the endpoint.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// No port.
    #[error("cannot serve the provisioning endpoint on 127.0.0.1: {source}")]
    Listen {
        /// The system's reason.
        source: std::io::Error,
    },
    /// Too few requests came.
    #[error(
        "only {seen} of {expected} requests reached the provisioning endpoint within {waited:?}"
    )]
    TooFewRequests {
        /// How many were waited for.
        expected: usize,
        /// How many came.
        seen: usize,
        /// How long was waited.
        waited: Duration,
    },
}

/// A request as it was received.
#[derive(Clone, Debug)]
pub struct SeenRequest {
    /// `POST`, `DELETE` or another.
    pub method: String,
    /// Header names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body as text.
    pub body: String,
}

impl SeenRequest {
    /// The value of a header; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// A scripted answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// This status and body, `delay` after the request.
    Respond {
        /// HTTP status.
        status: u16,
        /// The body.
        body: String,
        /// How long it takes.
        delay: Duration,
        /// The value of `Retry-After`.
        retry_after: Option<String>,
    },
    /// Registers or removes as without a script, `delay` after the request.
    Work {
        /// How long it takes.
        delay: Duration,
    },
    /// Registers or removes as without a script, then closes the connection: the answer is lost.
    WorkAndClose,
    /// No answer, the connection stays open.
    Hang,
    /// No answer, the connection is closed.
    Close,
}

impl Answer {
    /// An immediate answer.
    pub fn respond(status: u16, body: impl Into<String>) -> Self {
        Answer::Respond {
            status,
            body: body.into(),
            delay: Duration::ZERO,
            retry_after: None,
        }
    }
}

/// How the endpoint starts.
#[derive(Clone)]
pub struct EndpointOptions {
    /// Who makes the device certificates.
    pub authority: Arc<CertificateAuthority>,
    /// Where the variables go; knows which device UUID exists.
    pub balena: Arc<Balena>,
    /// How keys are written.
    pub key_format: KeyFormat,
    /// From the first variable to the second; the request stays open meanwhile.
    pub pause_between_variables: Duration,
}

struct Shared {
    options: EndpointOptions,
    script: Mutex<VecDeque<Answer>>,
    /// The Things, and the device's own key (DER) that its certificate is for, if it is.
    things: Mutex<BTreeMap<String, Option<Vec<u8>>>>,
    ignores_csr: AtomicBool,
    seen: watch::Sender<Vec<SeenRequest>>,
}

/// The running endpoint; dropping it closes the port.
pub struct ProvisionEndpoint {
    shared: Arc<Shared>,
    server: HttpServer,
}

impl ProvisionEndpoint {
    /// Starts the endpoint on a free port of 127.0.0.1.
    pub async fn start(options: EndpointOptions) -> Result<Self, EndpointError> {
        let shared = Arc::new(Shared {
            options,
            script: Mutex::default(),
            things: Mutex::default(),
            ignores_csr: AtomicBool::new(false),
            seen: watch::Sender::new(Vec::new()),
        });
        let handler = Arc::clone(&shared);
        let server = HttpServer::start(move |call| serve(Arc::clone(&handler), call))
            .await
            .map_err(|source| EndpointError::Listen { source })?;
        Ok(ProvisionEndpoint { shared, server })
    }

    /// `PROVISION_URL`.
    pub fn url(&self) -> String {
        format!("http://{}/provision", self.server.addr)
    }

    /// Appends an answer to the script. Without one, requests are carried out.
    pub fn script(&self, answer: Answer) {
        lock(&self.shared.script).push_back(answer);
    }

    /// Makes a Thing exist, as a registration does that failed half-way.
    pub fn plant_thing(&self, name: &str) {
        lock(&self.shared.things).insert(name.to_owned(), None);
    }

    /// From now on the endpoint is an old cloud function's: it passes over `csr`.
    pub fn ignore_csr(&self) {
        self.shared.ignores_csr.store(true, Ordering::Relaxed);
    }

    /// The Things that exist.
    pub fn things(&self) -> Vec<String> {
        lock(&self.shared.things).keys().cloned().collect()
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.shared.seen.borrow().clone()
    }

    /// Waits until `expected` requests have come since the start.
    pub async fn wait_for_requests(
        &self,
        expected: usize,
        timeout: Duration,
    ) -> Result<(), EndpointError> {
        let mut seen = self.shared.seen.subscribe();
        let enough = seen.wait_for(|seen| seen.len() >= expected);
        if matches!(tokio::time::timeout(timeout, enough).await, Ok(Ok(_))) {
            return Ok(());
        }
        Err(EndpointError::TooFewRequests {
            expected,
            seen: self.requests().len(),
            waited: timeout,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(shared: Arc<Shared>, call: Call) -> Reply {
    shared.seen.send_modify(|seen| {
        seen.push(SeenRequest {
            method: call.method.clone(),
            headers: call.headers.clone(),
            body: String::from_utf8_lossy(&call.body).into_owned(),
        });
    });
    let scripted = lock(&shared.script).pop_front();
    match scripted {
        None => work(shared, call).await,
        Some(Answer::Work { delay }) => {
            tokio::time::sleep(delay).await;
            work(shared, call).await
        }
        Some(Answer::WorkAndClose) => {
            work(shared, call).await;
            Reply::Close
        }
        Some(Answer::Respond {
            status,
            body,
            delay,
            retry_after,
        }) => {
            tokio::time::sleep(delay).await;
            Reply::Answer {
                status,
                body,
                retry_after,
            }
        }
        Some(Answer::Hang) => std::future::pending().await,
        Some(Answer::Close) => Reply::Close,
    }
}

/// Carries a request out in a task of its own: the client's leaving must not interrupt it.
async fn work(shared: Arc<Shared>, call: Call) -> Reply {
    let work = tokio::spawn(async move { shared.carry_out(&call).await });
    work.await
        .unwrap_or_else(|error| Reply::text(500, error.to_string()))
}

/// The body of a request. `balena_service` makes no difference here: there is one service.
#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    uuid: String,
    csr: Option<String>,
}

impl Shared {
    async fn carry_out(&self, call: &Call) -> Reply {
        let body: Body = match serde_json::from_slice(&call.body) {
            Ok(body) => body,
            Err(error) => {
                return Reply::text(400, format!("the body is not the expected JSON: {error}"));
            }
        };
        let real = !matches!(body.uuid.as_str(), "" | TEST_THING);
        let thing = if real { body.uuid.as_str() } else { TEST_THING };
        if real && thing != self.options.balena.device_uuid() {
            return Reply::text(400, format!("device {thing} is unknown to balenaCloud"));
        }
        let done = match call.method.as_str() {
            "POST" => match &body.csr {
                Some(csr) if !self.ignores_csr.load(Ordering::Relaxed) => {
                    self.certify(thing, real, csr)
                }
                _ => self.register(thing, real).await,
            },
            "DELETE" => Ok(self.remove(thing, real)),
            other => return Reply::text(400, format!("method {other} is not supported")),
        };
        done.unwrap_or_else(|error| Reply::text(500, error.to_string()))
    }

    async fn register(&self, thing: &str, real: bool) -> Result<Reply, CaError> {
        if lock(&self.things).contains_key(thing) {
            return Ok(Reply::text(400, "thing already exists"));
        }
        lock(&self.things).insert(thing.to_owned(), None);
        let identity = self
            .options
            .authority
            .issue_device(thing, self.options.key_format)?;
        if real {
            let balena = &self.options.balena;
            balena.set_variable("AWS_CERT", &identity.certificate_base64());
            tokio::time::sleep(self.options.pause_between_variables).await;
            balena.set_variable("AWS_PRIVATE_KEY", &identity.private_key_base64());
        }
        Ok(Reply::text(201, "device created"))
    }

    /// The same for a device that keeps its key: one variable, and a new one for a new key.
    fn certify(&self, thing: &str, real: bool, csr: &str) -> Result<Reply, CaError> {
        let signed = self.options.authority.sign_request(thing, csr)?;
        let key = Some(signed.public_key);
        if lock(&self.things).get(thing) == Some(&key) {
            return Ok(Reply::text(400, "thing already exists"));
        }
        lock(&self.things).insert(thing.to_owned(), key);
        if real {
            let balena = &self.options.balena;
            balena.set_variable("AWS_CERT", &STANDARD.encode(signed.certificate_pem));
            balena.remove_variable("AWS_PRIVATE_KEY");
        }
        Ok(Reply::text(201, "device created"))
    }

    fn remove(&self, thing: &str, real: bool) -> Reply {
        lock(&self.things).remove(thing);
        if real {
            self.options.balena.remove_variable("AWS_CERT");
            self.options.balena.remove_variable("AWS_PRIVATE_KEY");
        }
        Reply::text(200, "device deleted")
    }
}

#[cfg(test)]
mod tests;
