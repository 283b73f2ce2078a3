//! The HTTP client: one POST, one bounded answer. The only importer of reqwest.
//!
//! HTTPS is checked against the built-in roots, with ring. Redirects are not followed, because a
//! redirected POST may arrive as a GET, and would carry a token to an address the owner never named.
//! No proxy is used: balenaOS redirects a device's traffic itself, and the environment is read in
//! `config` only. Connections are not kept, as minutes lie between two requests.

use std::error::Error;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use rustls::{CertificateError, ClientConfig, RootCertStore};

use super::ProvisionError;
use crate::config::HttpUrl;
use crate::secret::Secret;

/// How long a connection may take, name and TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of an answer's body is read; the rest is left unread. The contract's answers are short.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A POST with a JSON body.
#[derive(Clone, Debug)]
pub(super) struct Request<'a> {
    pub(super) url: &'a HttpUrl,
    /// Sent as `Authorization: Bearer …`.
    pub(super) bearer: Option<&'a Secret>,
    pub(super) body: &'a str,
    /// How long the whole exchange may take.
    pub(super) timeout: Duration,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// `Retry-After`, if it was given in seconds.
    pub(super) retry_after: Option<Duration>,
    /// The body's beginning, at most [`ANSWER_BYTES_MAX`] bytes of it.
    pub(super) body: String,
}

/// Why nothing came back. All of these may pass by themselves.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HttpError {
    #[error("{authority} gave no answer within {timeout_s} s")]
    Timeout { authority: String, timeout_s: u64 },
    #[error(
        "the name of {authority} cannot be resolved; is the device online, and is the name right?"
    )]
    Unresolved { authority: String },
    #[error("no connection to {authority}: {cause}")]
    Unreachable { authority: String, cause: String },
    #[error("{authority} cannot be trusted: {cause}")]
    Untrusted { authority: String, cause: String },
    #[error("the exchange with {authority} broke off: {cause}")]
    Broken { authority: String, cause: String },
}

/// Sends requests. [`Http`] is the real one; the tests of the task bring a scripted one, since
/// sockets and paused time do not go together.
pub(super) trait Transport: Send + Sync {
    fn post(&self, request: &Request<'_>)
    -> impl Future<Output = Result<Answer, HttpError>> + Send;
}

/// The real client.
pub(super) struct Http(reqwest::Client);

impl Http {
    pub(super) fn new() -> Result<Self, ProvisionError> {
        let roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|cause| ProvisionError::Client {
                cause: cause.to_string(),
            })?
            .with_root_certificates(roots)
            .with_no_client_auth();
        reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(0)
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map(Http)
            .map_err(|error| ProvisionError::Client {
                cause: root_cause(&error),
            })
    }

    async fn exchange(&self, request: &Request<'_>) -> Result<Answer, reqwest::Error> {
        let mut sending = self
            .0
            .post(request.url.expose())
            .header(CONTENT_TYPE, "application/json")
            .header(CACHE_CONTROL, "no-cache")
            .timeout(request.timeout)
            .body(request.body.to_owned());
        if let Some(key) = request.bearer {
            sending = sending.bearer_auth(key.expose());
        }
        let mut response = sending.send().await?;
        let mut body = Vec::new();
        while body.len() < ANSWER_BYTES_MAX {
            let Some(chunk) = response.chunk().await? else {
                break;
            };
            body.extend_from_slice(&chunk);
        }
        body.truncate(ANSWER_BYTES_MAX);
        Ok(Answer {
            status: response.status().as_u16(),
            retry_after: response.headers().get(RETRY_AFTER).and_then(seconds),
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}

impl Transport for Http {
    async fn post(&self, request: &Request<'_>) -> Result<Answer, HttpError> {
        let answer = self.exchange(request).await;
        answer.map_err(|error| explain(&error, request))
    }
}

/// `Retry-After` in seconds. A date is passed over: a device's clock may not be set yet.
fn seconds(value: &HeaderValue) -> Option<Duration> {
    value
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
        .map(Duration::from_secs)
}

/// Puts a failure into words that a person can act on, without the address's query.
fn explain(error: &reqwest::Error, request: &Request<'_>) -> HttpError {
    let authority = request.url.authority();
    let unresolved = chain(error).any(|cause| cause.to_string().starts_with("dns error"));
    if let Some(tls) = chain(error).find_map(tls_error) {
        HttpError::Untrusted {
            authority,
            cause: explain_tls(tls),
        }
    } else if unresolved {
        HttpError::Unresolved { authority }
    } else if error.is_timeout() {
        let limit = if error.is_connect() {
            CONNECT_TIMEOUT.min(request.timeout)
        } else {
            request.timeout
        };
        HttpError::Timeout {
            authority,
            timeout_s: limit.as_secs(),
        }
    } else if error.is_connect() {
        HttpError::Unreachable {
            authority,
            cause: root_cause(error),
        }
    } else {
        HttpError::Broken {
            authority,
            cause: root_cause(error),
        }
    }
}

/// The TLS failures that a device meets, and what to do about them.
fn explain_tls(error: &rustls::Error) -> String {
    use CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            "its certificate is not valid yet; is this device's clock right?".to_owned()
        }
        rustls::Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            "its certificate has expired; renew it, or set this device's clock".to_owned()
        }
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer) => {
            "its certificate comes from no authority that is publicly trusted".to_owned()
        }
        rustls::Error::InvalidCertificate(
            Bad::NotValidForName | Bad::NotValidForNameContext { .. },
        ) => "its certificate is for another name".to_owned(),
        other => format!("TLS failed: {other}"),
    }
}

/// `error` and what caused it, outermost first.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| cause(*error))
}

/// What lies beneath an error. An `io::Error` made of another error is that other error; its
/// `source` would skip it.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    let made_of = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    match made_of {
        Some(made_of) => Some(made_of),
        None => error.source(),
    }
}

fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    error.downcast_ref()
}

/// The innermost cause. reqwest's own text would show the address with its query.
fn root_cause(error: &reqwest::Error) -> String {
    let cause = chain(error).skip(1).last();
    cause.map_or_else(|| "for no known reason".to_owned(), ToString::to_string)
}

#[cfg(test)]
pub(super) mod tests;
