//! How the subcommands show what a publisher said of a message besides its payload.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::attributes::{Attribute, Attributes};

/// The properties of a message, as one object of JSON; those that it has not are left out.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Shown<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_format: Option<u8>,
    /// How long the message may wait from its arrival on, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_expiry_s: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_data_base64: Option<String>,
    /// In their order; a name may come more than once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    user_properties: Vec<(&'a str, &'a str)>,
    /// All bytes, if not all are understood.
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes_base64: Option<String>,
}

impl<'a> Shown<'a> {
    /// `None` if there are none.
    pub(super) fn of(bytes: &'a [u8]) -> Option<Self> {
        if bytes.is_empty() {
            return None;
        }
        let attributes = Attributes::new(bytes);
        let mut shown = Shown {
            attributes_base64: (!attributes.are_known()).then(|| STANDARD.encode(bytes)),
            ..Shown::default()
        };
        for attribute in attributes.iter() {
            match attribute {
                Attribute::PayloadFormat(format) => shown.payload_format = Some(format),
                Attribute::ExpiryS(seconds) => shown.message_expiry_s = Some(seconds),
                Attribute::ContentType(text) => shown.content_type = Some(text),
                Attribute::ResponseTopic(topic) => shown.response_topic = Some(topic),
                Attribute::CorrelationData(data) => {
                    shown.correlation_data_base64 = Some(STANDARD.encode(data));
                }
                Attribute::UserProperty(name, value) => shown.user_properties.push((name, value)),
            }
        }
        Some(shown)
    }
}

/// As one line.
impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_shown_and_nothing_is_left_out() {
        let mut bytes = Vec::new();
        for attribute in [
            Attribute::UserProperty("b", "1"),
            Attribute::ExpiryS(60),
            Attribute::CorrelationData(&[0xFF]),
            Attribute::UserProperty("b", "2"),
        ] {
            attribute.append_to(&mut bytes);
        }
        let expected = r#"{"message_expiry_s":60,"correlation_data_base64":"/w==","user_properties":[["b","1"],["b","2"]]}"#;
        assert_eq!(Shown::of(&bytes).unwrap().to_string(), expected);
        assert_eq!(Shown::of(&[]), None);
        let later = Shown::of(b"\x01\x01\x7f").unwrap();
        assert_eq!(
            later.to_string(),
            r#"{"payload_format":1,"attributes_base64":"AQF/"}"#
        );
    }
}
