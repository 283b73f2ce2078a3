//! From an HTTP request's method and body to what is asked for. Pure.
//!
//! The body is the wire contract's: `{"uuid": …, "balena_service": …}`, to which a device that keeps
//! its own key adds `csr`. A blank value counts as absent; fields that are not known are passed over.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// How long a request's body may be, in bytes. The longest honest one carries a CSR of about 2 KB.
pub const BODY_BYTES_MAX: usize = 16 * 1024;
/// The Thing that a request without a device is about.
pub const TEST_THING: &str = "test-provision";
/// How long a service's name may be, in characters.
const SERVICE_CHARS_MAX: usize = 255;

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Neither POST nor DELETE.
    #[error("use POST to register a device or DELETE to undo it")]
    Method,
    /// Too long.
    #[error("the body is longer than {BODY_BYTES_MAX} bytes")]
    TooLong,
    /// Not the JSON that was expected.
    #[error(
        "the body must be JSON such as {{\"uuid\": \"…\", \"balena_service\": \"…\"}}: {cause}"
    )]
    Json {
        /// Where and what, without the body's text.
        cause: String,
    },
    /// Not a whole UUID.
    #[error("uuid must be the device's full UUID: 32 or 62 hexadecimal digits in lower case")]
    Uuid,
    /// A service name that none can have.
    #[error("balena_service is longer than {SERVICE_CHARS_MAX} characters")]
    Service,
    /// Something else than a CSR.
    #[error("csr must be a PEM text that begins with -----BEGIN CERTIFICATE REQUEST-----")]
    Csr,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Register.
    Post,
    /// Undo.
    Delete,
}

impl FromStr for Method {
    type Err = RequestError;

    fn from_str(method: &str) -> Result<Self, RequestError> {
        match method {
            "POST" => Ok(Method::Post),
            "DELETE" => Ok(Method::Delete),
            _ => Err(RequestError::Method),
        }
    }
}

/// A device's full UUID. A part of one would make balenaCloud look for a device that begins so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uuid(String);

impl Uuid {
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Uuid {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, RequestError> {
        let digits = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if digits && matches!(text.len(), 32 | 62) {
            Ok(Uuid(text.to_owned()))
        } else {
            Err(RequestError::Uuid)
        }
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whom a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Nobody: the Thing `test-provision`, of which balenaCloud hears nothing.
    Test,
    /// A device.
    Device(Uuid),
}

impl Subject {
    /// The name of its Thing.
    pub fn thing(&self) -> &str {
        match self {
            Subject::Test => TEST_THING,
            Subject::Device(uuid) => uuid.as_str(),
        }
    }
}

/// A request's body, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Whom it is about.
    pub subject: Subject,
    /// The service that gets the variables; `None`: the whole device.
    pub service: Option<String>,
    /// The PEM of a certificate signing request, from a device that keeps its key.
    pub csr: Option<String>,
}

#[derive(Deserialize)]
struct Body {
    uuid: Option<String>,
    balena_service: Option<String>,
    csr: Option<String>,
}

impl Request {
    /// Reads a body.
    pub fn parse(body: &[u8]) -> Result<Self, RequestError> {
        if body.len() > BODY_BYTES_MAX {
            return Err(RequestError::TooLong);
        }
        let body: Body = serde_json::from_slice(body).map_err(|error| RequestError::Json {
            cause: explain(&error),
        })?;
        let subject = match present(body.uuid) {
            None => Subject::Test,
            Some(uuid) if uuid == TEST_THING => Subject::Test,
            Some(uuid) => Subject::Device(uuid.parse()?),
        };
        let service = present(body.balena_service);
        if service
            .as_ref()
            .is_some_and(|name| name.chars().count() > SERVICE_CHARS_MAX)
        {
            return Err(RequestError::Service);
        }
        let csr = present(body.csr);
        if csr
            .as_ref()
            .is_some_and(|pem| !pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----"))
        {
            return Err(RequestError::Csr);
        }
        Ok(Request {
            subject,
            service,
            csr,
        })
    }
}

/// A value without the white space around it, unless nothing is left.
fn present(value: Option<String>) -> Option<String> {
    let value = value?;
    let trimmed = value.trim();
    (!trimmed.is_empty()).then(|| trimmed.to_owned())
}

/// serde's words may quote the body, which is none of the log's business: only kind and place.
fn explain(error: &serde_json::Error) -> String {
    use serde_json::error::Category;
    let what = match error.classify() {
        Category::Data => "a field has the wrong type",
        Category::Eof => "it ends too early",
        Category::Syntax | Category::Io => "it is not JSON",
    };
    format!("{what} (line {}, column {})", error.line(), error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "5ce5d4f5a1b44d2b9f2f34a4dfa1c0de";

    fn parse(body: &str) -> Result<Request, RequestError> {
        Request::parse(body.as_bytes())
    }

    #[test]
    fn the_contracts_body_is_understood() {
        let request = parse(&format!(
            r#"{{"uuid": "{UUID}", "balena_service": "cloud-relay"}}"#
        ));
        assert_eq!(
            request,
            Ok(Request {
                subject: Subject::Device(UUID.parse().unwrap()),
                service: Some("cloud-relay".to_owned()),
                csr: None,
            })
        );
    }

    #[test]
    fn blank_null_and_absent_are_the_same() {
        for body in [
            r#"{ "uuid": "", "balena_service": "" }"#,
            r#"{"uuid": null, "balena_service": null, "csr": null}"#,
            r#"{"uuid": "test-provision", "balena_service": "  "}"#,
            r#"{"something": ["else"]}"#,
        ] {
            let request = parse(body).unwrap();
            assert_eq!(request.subject, Subject::Test, "{body}");
            assert_eq!((request.service, request.csr), (None, None), "{body}");
        }
    }

    #[test]
    fn only_a_whole_uuid_is_taken() {
        let long = "a".repeat(62);
        assert!(UUID.parse::<Uuid>().is_ok());
        assert!(long.parse::<Uuid>().is_ok());
        for wrong in [
            UUID.get(..7).unwrap(),
            UUID.get(..31).unwrap(),
            &format!("{UUID}0"),
            &UUID.to_uppercase(),
            &"g".repeat(32),
            &"ä".repeat(16),
            "')or(1 eq 1",
        ] {
            assert_eq!(wrong.parse::<Uuid>(), Err(RequestError::Uuid), "{wrong}");
        }
    }

    #[test]
    fn what_is_not_the_expected_json_is_named_without_being_quoted() {
        for body in [
            "",
            "{",
            "sesame",
            "[]",
            "7",
            r#"{"uuid": 7}"#,
            r#""sesame""#,
        ] {
            let Err(RequestError::Json { cause }) = parse(body) else {
                panic!("{body} is taken");
            };
            assert!(!cause.contains("sesame"), "{cause}");
        }
        let nested = "[".repeat(BODY_BYTES_MAX);
        assert!(matches!(parse(&nested), Err(RequestError::Json { .. })));
    }

    #[test]
    fn lengths_are_limited() {
        let long = " ".repeat(BODY_BYTES_MAX + 1);
        assert_eq!(parse(&long), Err(RequestError::TooLong));
        let service = "s".repeat(SERVICE_CHARS_MAX + 1);
        assert_eq!(
            parse(&format!(r#"{{"balena_service": "{service}"}}"#)),
            Err(RequestError::Service)
        );
        assert_eq!(parse(r#"{"csr": "hello"}"#), Err(RequestError::Csr));
    }

    #[test]
    fn there_are_two_methods() {
        assert_eq!("POST".parse(), Ok(Method::Post));
        assert_eq!("DELETE".parse(), Ok(Method::Delete));
        for other in ["GET", "PUT", "post", ""] {
            assert_eq!(other.parse::<Method>(), Err(RequestError::Method));
        }
    }
}
