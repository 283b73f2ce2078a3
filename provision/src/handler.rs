//! One HTTP request in, one HTTP answer out, whatever brought it here.
//!
//! The answers that devices rely on are the wire contract's, to the letter: 201 `device created`,
//! 400 `thing already exists`, 200 `device deleted`. All others say in a sentence what is wrong; no
//! device reads them, people do. Nothing that a request carries is logged but UUID and service.

use std::time::Duration;

use lambda_http::http::{HeaderMap, Request, Response, header};
use url::form_urlencoded;

use crate::access::{Access, Denied};
use crate::balena::{Balena, BalenaError, BalenaErrorKind, Owner};
use crate::iot::Iot;
use crate::provisioning::{Parties, Registered, Registration, StepError, register, undo};
use crate::request::{Method, Request as Asked, RequestError, Subject};

/// How long one request may take. API Gateway gives up after 29 s; being cut short is no harm, but an
/// answer is kinder.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(25);
/// The header that may carry the token.
const TOKEN_HEADER: &str = "x-provision-token";
/// The query parameter that may carry it, inside `PROVISION_URL`.
const TOKEN_PARAMETER: &str = "token";

/// Everything a request needs.
#[derive(Debug)]
pub struct Function<I, B> {
    /// AWS IoT Core and balenaCloud.
    pub parties: Parties<I, B>,
    /// The owner's rules.
    pub access: Access,
}

/// Why a request was not fulfilled.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(
        "balenaCloud knows no device {uuid}, or does not show it to the function's BALENA_API_KEY"
    )]
    NoDevice { uuid: String },
    #[error(
        "the device's fleet has no service {service:?}; balena_service must be one of its docker-compose.yml"
    )]
    NoService { service: String },
    #[error("service {service:?} is not installed on the device yet; try again")]
    NotInstalled { service: String },
    #[error(transparent)]
    Step(#[from] StepError),
    #[error("it took longer than {} s; try again", REQUEST_TIMEOUT.as_secs())]
    Timeout,
}

impl From<BalenaError> for Failure {
    fn from(error: BalenaError) -> Self {
        Failure::Step(error.into())
    }
}

impl Failure {
    fn status(&self) -> u16 {
        let login = |error: &BalenaError| error.kind == BalenaErrorKind::Login;
        match self {
            Failure::Denied(Denied::Token) => 401,
            Failure::Denied(_) | Failure::Step(StepError::Revoked) => 403,
            Failure::Step(StepError::Elsewhere { .. }) => 409,
            Failure::Request(RequestError::TooLong) => 413,
            Failure::Request(_) | Failure::NoDevice { .. } | Failure::NoService { .. } => 400,
            Failure::Step(StepError::Balena(error)) if login(error) => 400,
            Failure::NotInstalled { .. } | Failure::Step(_) | Failure::Timeout => 500,
        }
    }

    /// What balenaCloud asked us to wait, handed on.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Failure::Step(StepError::Balena(BalenaError {
                kind: BalenaErrorKind::Busy { retry_after, .. },
                ..
            })) => *retry_after,
            _ => None,
        }
    }
}

impl<I: Iot, B: Balena> Function<I, B> {
    /// Answers a request.
    pub async fn answer(&self, request: Request<Vec<u8>>) -> Response<String> {
        let (head, body) = request.into_parts();
        let token = token(&head.headers, head.uri.query());
        let asked = self.admit(head.method.as_str(), token.as_deref(), &body);
        let (status, text, retry_after) = match asked {
            Err(failure) => {
                tracing::warn!("turned away: {failure}");
                (failure.status(), failure.to_string(), None)
            }
            Ok((method, asked)) => {
                let thing = asked.subject.thing();
                let service = asked.service.as_deref().unwrap_or("(the whole device)");
                match self.fulfil_in_time(method, &asked).await {
                    Ok((status, text)) => {
                        tracing::info!("{method:?} {thing} for {service:?}: {text}");
                        (status, text.to_owned(), None)
                    }
                    Err(failure) => {
                        tracing::warn!("{method:?} {thing} for {service:?}: {failure}");
                        (failure.status(), failure.to_string(), failure.retry_after())
                    }
                }
            }
        };
        response(status, text, retry_after)
    }

    /// The request, if it may be made. The token comes first: without it nothing is read.
    fn admit(
        &self,
        method: &str,
        token: Option<&str>,
        body: &[u8],
    ) -> Result<(Method, Asked), Failure> {
        self.access.check_token(token)?;
        let method: Method = method.parse()?;
        let asked = Asked::parse(body)?;
        self.access.check_method(method, &asked.subject)?;
        Ok((method, asked))
    }

    async fn fulfil_in_time(
        &self,
        method: Method,
        asked: &Asked,
    ) -> Result<(u16, &'static str), Failure> {
        let work = self.fulfil(method, asked);
        let outcome = tokio::time::timeout(REQUEST_TIMEOUT, work).await;
        outcome.unwrap_or(Err(Failure::Timeout))
    }

    async fn fulfil(&self, method: Method, asked: &Asked) -> Result<(u16, &'static str), Failure> {
        let (device, owner) = self.owner(method, asked).await?;
        let registration = Registration {
            thing: asked.subject.thing(),
            owner,
            device,
            csr: asked.csr.as_deref(),
        };
        match method {
            Method::Post => match register(&self.parties, &registration).await? {
                Registered::Now => Ok((201, "device created")),
                Registered::Before => Ok((400, "thing already exists")),
            },
            Method::Delete => {
                undo(&self.parties, &registration).await?;
                Ok((200, "device deleted"))
            }
        }
    }

    /// The device's number, and where its variables are; neither for the test, and for a device that is
    /// to be removed and that balenaCloud knows no more.
    async fn owner(
        &self,
        method: Method,
        asked: &Asked,
    ) -> Result<(Option<u64>, Option<Owner>), Failure> {
        let Subject::Device(uuid) = &asked.subject else {
            return Ok((None, None));
        };
        let balena = &self.parties.balena;
        let Some(device) = balena.device(uuid).await? else {
            return match method {
                Method::Delete => {
                    self.access.check_unknown_fleet()?;
                    Ok((None, None))
                }
                Method::Post => Err(Failure::NoDevice {
                    uuid: uuid.to_string(),
                }),
            };
        };
        self.access.check_fleet(&device.fleet)?;
        let Some(name) = &asked.service else {
            return Ok((Some(device.id), Some(Owner::Device(device.id))));
        };
        let service = || name.clone();
        let found = balena.service(&device.fleet, name).await?;
        let found = found.ok_or_else(|| Failure::NoService { service: service() })?;
        let installation = balena.installation(&device, found).await?;
        if installation.is_none() && method == Method::Post {
            return Err(Failure::NotInstalled { service: service() });
        }
        Ok((Some(device.id), installation.map(Owner::Service)))
    }
}

/// The answer to a request whose body nobody wants to read to its end.
pub fn too_long() -> Response<String> {
    let failure = Failure::from(RequestError::TooLong);
    response(failure.status(), failure.to_string(), None)
}

/// The token that a request offers.
fn token(headers: &HeaderMap, query: Option<&str>) -> Option<String> {
    if let Some(value) = headers.get(TOKEN_HEADER) {
        return value.to_str().ok().map(str::to_owned);
    }
    let mut pairs = form_urlencoded::parse(query?.as_bytes());
    let (_, token) = pairs.find(|(name, _)| name == TOKEN_PARAMETER)?;
    Some(token.into_owned())
}

fn response(status: u16, text: String, retry_after: Option<Duration>) -> Response<String> {
    let mut response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "text/plain; charset=utf-8");
    if let Some(delay) = retry_after {
        response = response.header(header::RETRY_AFTER, delay.as_secs());
    }
    let response = response.body(text);
    response.expect("invariant: status and headers are well-formed")
}

#[cfg(test)]
mod tests;
