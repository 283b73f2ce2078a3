//! What is sent to `PROVISION_URL` and what its answers mean. Pure.
//!
//! The wire contract is the old cloud functions': fleets that run one keep it.

use std::time::Duration;

use serde::Serialize;

use super::http::Answer;
use crate::config::Provider;
use crate::printable::is_harmful;

/// How much of an answer's text is shown.
const EXCERPT_CHARS_MAX: usize = 200;

/// The body, its keys in this order. A service that has no name is left out, and the cloud function
/// then sets the variables for the whole device. Only a device that keeps its key sends `csr`; the old
/// functions pass over it.
#[derive(Serialize)]
struct Body<'a> {
    uuid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    balena_service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    csr: Option<&'a str>,
}

/// The request's body.
pub(super) fn body(uuid: &str, service: Option<&str>, csr: Option<&str>) -> String {
    let body = Body {
        uuid,
        balena_service: service,
        csr,
    };
    serde_json::to_string(&body).expect("invariant: strings always serialise")
}

/// What an answer means for the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Registered; balenaCloud is about to push the credentials.
    Registered,
    /// The cloud knows the device already.
    AlreadyRegistered,
    /// The owner has to change something before another try can succeed.
    Refused {
        /// The answer in words.
        detail: String,
    },
    /// Trying again may help.
    Retry {
        /// The answer in words.
        detail: String,
        /// What `Retry-After` asked for.
        after: Option<Duration>,
    },
}

/// Reads an answer. 408, 425, 429 and every 5xx may pass by themselves; of the rest, only the
/// provider's own way of saying "already exists" is good news. `mask` hides secrets in what is shown of the answer.
pub(super) fn classify(
    provider: Provider,
    answer: &Answer,
    mask: impl Fn(&str) -> String,
) -> Outcome {
    let status = answer.status;
    match status {
        200..=299 => Outcome::Registered,
        300..=399 => Outcome::Refused {
            detail: format!(
                "it answers with a redirect ({status}), which is not followed; set PROVISION_URL to the final address"
            ),
        },
        400 if already_exists(provider, &answer.body) => Outcome::AlreadyRegistered,
        408 | 425 | 429 | 500..=599 => Outcome::Retry {
            detail: format!("it answers {status}: {}", excerpt(&answer.body, mask)),
            after: answer.retry_after,
        },
        _ => Outcome::Refused {
            detail: format!(
                "it refuses this device ({status}): {}",
                excerpt(&answer.body, mask)
            ),
        },
    }
}

/// How each cloud's function says that the device is registered.
fn already_exists(provider: Provider, body: &str) -> bool {
    /// `ALREADY_EXISTS` among gRPC's status codes, as Google's function passes it on.
    const ALREADY_EXISTS: u64 = 6;
    let body = body.trim();
    match provider {
        Provider::Aws => body == "thing already exists",
        Provider::Azure => body.starts_with("DeviceAlreadyExistsError"),
        Provider::Gcp => serde_json::from_str::<serde_json::Value>(body).is_ok_and(|json| {
            json.get("code").and_then(serde_json::Value::as_u64) == Some(ALREADY_EXISTS)
        }),
    }
}

/// The first line of `text` that says something, masked while it is whole, then cut to a bearable length. Should a
/// function ever answer with key material, none of it is shown.
pub(super) fn excerpt(text: &str, mask: impl Fn(&str) -> String) -> String {
    if text.contains("PRIVATE KEY") {
        return "(not shown, for it holds a private key)".to_owned();
    }
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    let Some(line) = line else {
        return "(no text)".to_owned();
    };
    let printable: String = line.chars().filter(|each| !is_harmful(*each)).collect();
    let masked = mask(&printable);
    let mut characters = masked.chars();
    let mut excerpt: String = characters.by_ref().take(EXCERPT_CHARS_MAX).collect();
    if characters.next().is_some() {
        excerpt.push('…');
    }
    excerpt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status,
            retry_after: None,
            body: body.to_owned(),
        }
    }

    #[test]
    fn the_body_is_compact_json_with_the_uuid_first() {
        assert_eq!(
            body("c0ffee", Some("relay"), None),
            r#"{"uuid":"c0ffee","balena_service":"relay"}"#
        );
        assert_eq!(body("c0ffee", None, None), r#"{"uuid":"c0ffee"}"#);
        assert_eq!(
            body("x", Some("a\"b\\"), Some("PEM\n")),
            r#"{"uuid":"x","balena_service":"a\"b\\","csr":"PEM\n"}"#
        );
    }

    #[test]
    fn every_answer_of_the_contract_is_understood() {
        use Provider::{Aws, Azure, Gcp};
        let gcp = r#"{"code": 6, "details": "Device already exists"}"#;
        let cases = [
            (Aws, 201, "device created", "registered"),
            (Aws, 200, "", "registered"),
            (Aws, 204, "", "registered"),
            (Aws, 400, "thing already exists", "known"),
            (Aws, 400, "thing already exists\n", "known"),
            (Aws, 400, "the thing already exists", "refused"),
            (Aws, 500, "thing already exists", "retry"),
            (Aws, 400, gcp, "refused"),
            (Azure, 400, "DeviceAlreadyExistsError: c0ffee", "known"),
            (Azure, 400, "Error: DeviceAlreadyExistsError", "refused"),
            (Gcp, 400, gcp, "known"),
            (Gcp, 400, r#"{"code": 5}"#, "refused"),
            (Gcp, 400, "thing already exists", "refused"),
            (Gcp, 400, "[6]", "refused"),
            (Aws, 400, "Device not found", "refused"),
            (Aws, 301, "", "refused"),
            (Aws, 401, "", "refused"),
            (Aws, 403, r#"{"message":"Forbidden"}"#, "refused"),
            (Aws, 404, "", "refused"),
            (Aws, 408, "", "retry"),
            (Aws, 429, "", "retry"),
            (Aws, 500, "{}", "retry"),
            (Aws, 502, "", "retry"),
            (Aws, 503, "", "retry"),
            (Aws, 504, "", "retry"),
        ];
        for (provider, status, body, expected) in cases {
            let outcome = match classify(provider, &answer(status, body), str::to_owned) {
                Outcome::Registered => "registered",
                Outcome::AlreadyRegistered => "known",
                Outcome::Refused { .. } => "refused",
                Outcome::Retry { .. } => "retry",
            };
            assert_eq!(outcome, expected, "{provider:?} {status} {body}");
        }
    }

    #[test]
    fn retry_after_is_handed_on() {
        let after = Some(Duration::from_secs(7));
        let busy = Answer {
            status: 429,
            retry_after: after,
            body: "slow down".to_owned(),
        };
        let detail = "it answers 429: slow down".to_owned();
        assert_eq!(
            classify(Provider::Aws, &busy, str::to_owned),
            Outcome::Retry { detail, after }
        );
    }

    #[test]
    fn an_excerpt_is_one_short_printable_line_without_keys() {
        let excerpt = |text: &str| excerpt(text, |line| line.replace("t0k3n", "***"));
        assert_eq!(excerpt("\n  first\u{1b}[0m\u{7}  \nsecond"), "first[0m");
        assert_eq!(excerpt(" \n "), "(no text)");
        assert_eq!(
            excerpt(&"ü".repeat(500)).chars().count(),
            EXCERPT_CHARS_MAX + 1
        );
        assert_eq!(excerpt(&"x".repeat(200)), "x".repeat(200));
        let cut = format!("{}t0k3n", "x".repeat(EXCERPT_CHARS_MAX - 2));
        assert!(excerpt(&cut).ends_with("x**…"), "{}", excerpt(&cut));
        assert!(!excerpt("oops -----BEGIN RSA PRIVATE KEY----- MIIE").contains("MIIE"));
    }
}
