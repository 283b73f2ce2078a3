//! What a publisher says of a message besides its topic and payload: the properties of an MQTT 5 PUBLISH that are meant
//! for whoever reads it, and how long it is of use (MQTT 5, 3.3.2.3). Pure.
//!
//! They are kept as the bytes that they were in the PUBLISH, in their order, by the spool and the dead letters alike,
//! which do not look into them. What is about one connection only, such as a topic alias, is not among them.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

/// The identifiers of properties (MQTT 5, 2.2.2.2).
pub(crate) const PAYLOAD_FORMAT: u8 = 0x01;
pub(crate) const MESSAGE_EXPIRY: u8 = 0x02;
pub(crate) const CONTENT_TYPE: u8 = 0x03;
pub(crate) const RESPONSE_TOPIC: u8 = 0x08;
pub(crate) const CORRELATION_DATA: u8 = 0x09;
pub(crate) const USER_PROPERTY: u8 = 0x26;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attribute<'a> {
    /// 1 if the payload is text.
    PayloadFormat(u8),
    /// How many seconds the message may wait to be delivered.
    ExpiryS(u32),
    ContentType(&'a str),
    ResponseTopic(&'a str),
    CorrelationData(&'a [u8]),
    UserProperty(&'a str, &'a str),
}

impl Attribute<'_> {
    /// Appends it as it stands in a PUBLISH. Its strings must be from one, or as short.
    pub(crate) fn append_to(self, bytes: &mut Vec<u8>) {
        match self {
            Attribute::PayloadFormat(format) => bytes.extend([PAYLOAD_FORMAT, format]),
            Attribute::ExpiryS(seconds) => {
                bytes.push(MESSAGE_EXPIRY);
                bytes.extend(seconds.to_be_bytes());
            }
            Attribute::ContentType(text) => {
                append_with_length(CONTENT_TYPE, &[text.as_bytes()], bytes);
            }
            Attribute::ResponseTopic(text) => {
                append_with_length(RESPONSE_TOPIC, &[text.as_bytes()], bytes);
            }
            Attribute::CorrelationData(data) => {
                append_with_length(CORRELATION_DATA, &[data], bytes);
            }
            Attribute::UserProperty(name, value) => {
                append_with_length(USER_PROPERTY, &[name.as_bytes(), value.as_bytes()], bytes);
            }
        }
    }
}

fn append_with_length(id: u8, parts: &[&[u8]], bytes: &mut Vec<u8>) {
    bytes.push(id);
    for part in parts {
        let len = u16::try_from(part.len()).expect("invariant: it is from a packet");
        bytes.extend(len.to_be_bytes());
        bytes.extend_from_slice(part);
    }
}

/// All of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Attributes(bytes)
    }

    /// Those among the properties of a packet, of which `all` are the identifiers and bytes, and which are `bytes`
    /// together. Copied only if there are others among them.
    pub(crate) fn among(
        bytes: &'a [u8],
        all: impl Iterator<Item = (u8, &'a [u8])>,
    ) -> Cow<'a, [u8]> {
        let is_one = |id: &u8| {
            matches!(
                *id,
                PAYLOAD_FORMAT
                    | MESSAGE_EXPIRY
                    | CONTENT_TYPE
                    | RESPONSE_TOPIC
                    | CORRELATION_DATA
                    | USER_PROPERTY
            )
        };
        let mut kept: Option<Vec<u8>> = None;
        let mut passed = 0;
        for (id, property) in all {
            if is_one(&id) {
                if let Some(kept) = &mut kept {
                    kept.extend_from_slice(property);
                }
            } else if kept.is_none() {
                kept = Some(bytes.get(..passed).unwrap_or_default().to_vec());
            }
            passed += property.len();
        }
        kept.map_or(Cow::Borrowed(bytes), Cow::Owned)
    }

    /// How many bytes they have.
    pub(crate) fn len(self) -> usize {
        self.0.len()
    }

    /// Each of them, as far as they can be read.
    pub(crate) fn iter(self) -> impl Iterator<Item = Attribute<'a>> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let (attribute, rest) = split(left)?;
            left = rest;
            Some(attribute)
        })
    }

    /// Whether [`Attributes::iter`] gives all that there is.
    pub(crate) fn are_known(self) -> bool {
        let mut left = self.0;
        while let Some((_, rest)) = split(left) {
            left = rest;
        }
        left.is_empty()
    }

    /// How many seconds the message may wait to be delivered.
    pub(crate) fn expiry_s(self) -> Option<u32> {
        self.iter().find_map(|attribute| match attribute {
            Attribute::ExpiryS(seconds) => Some(seconds),
            _ => None,
        })
    }

    /// Appends them, with `expiry_s` in place of the time that the message may wait, if it has one: as many bytes as
    /// they have.
    pub(crate) fn put(self, expiry_s: Option<u32>, out: &mut BytesMut) {
        let mut left = self.0;
        while let Some((attribute, rest)) = split(left) {
            let (own, _) = left.split_at(left.len() - rest.len());
            match (attribute, expiry_s) {
                (Attribute::ExpiryS(_), Some(expiry_s)) => {
                    out.put_u8(MESSAGE_EXPIRY);
                    out.put_u32(expiry_s);
                }
                _ => out.put_slice(own),
            }
            left = rest;
        }
        out.put_slice(left);
    }
}

/// The attribute that `bytes` begin with.
fn split(bytes: &[u8]) -> Option<(Attribute<'_>, &[u8])> {
    let (id, value) = bytes.split_first()?;
    Some(match *id {
        PAYLOAD_FORMAT => {
            let (format, rest) = value.split_first()?;
            (Attribute::PayloadFormat(*format), rest)
        }
        MESSAGE_EXPIRY => {
            let (seconds, rest) = value.split_first_chunk()?;
            (Attribute::ExpiryS(u32::from_be_bytes(*seconds)), rest)
        }
        CONTENT_TYPE => {
            let (content_type, rest) = text(value)?;
            (Attribute::ContentType(content_type), rest)
        }
        RESPONSE_TOPIC => {
            let (topic, rest) = text(value)?;
            (Attribute::ResponseTopic(topic), rest)
        }
        CORRELATION_DATA => {
            let (data, rest) = binary(value)?;
            (Attribute::CorrelationData(data), rest)
        }
        USER_PROPERTY => {
            let (name, rest) = text(value)?;
            let (value, rest) = text(rest)?;
            (Attribute::UserProperty(name, value), rest)
        }
        _ => return None,
    })
}

fn text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (text, rest) = binary(bytes)?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

fn binary(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, bytes) = bytes.split_first_chunk()?;
    bytes.split_at_checked(u16::from_be_bytes(*len).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One of each, user properties twice.
    const ALL: &[u8] =
        b"\x26\x00\x01b\x00\x011\x01\x01\x02\x00\x00\x01\x00\x03\x00\x04text\x08\x00\x02re\
        \x09\x00\x02\x00\xff\x26\x00\x01a\x00\x012";

    #[test]
    fn each_is_read_in_its_order() {
        let all = Attributes::new(ALL);
        let expected = [
            Attribute::UserProperty("b", "1"),
            Attribute::PayloadFormat(1),
            Attribute::ExpiryS(256),
            Attribute::ContentType("text"),
            Attribute::ResponseTopic("re"),
            Attribute::CorrelationData(b"\x00\xff"),
            Attribute::UserProperty("a", "2"),
        ];
        assert_eq!(all.iter().collect::<Vec<_>>(), expected);
        assert!(all.are_known());
        assert_eq!(all.expiry_s(), Some(256));
        let mut again = Vec::new();
        for attribute in all.iter() {
            attribute.append_to(&mut again);
        }
        assert_eq!(again, ALL);
    }

    #[test]
    fn what_cannot_be_read_is_told_and_passed_on() {
        for cut in 1..ALL.len() {
            let (front, _) = ALL.split_at(cut);
            let mut out = BytesMut::new();
            Attributes::new(front).put(Some(9), &mut out);
            assert_eq!(out.len(), front.len());
        }
        let odd = Attributes::new(b"\x01\x01\x7fx");
        assert!(!odd.are_known());
        assert_eq!(odd.iter().count(), 1);
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_are_as_many_go_on(
            bytes in proptest::collection::vec(
                prop_oneof![any::<u8>(), Just(0), Just(MESSAGE_EXPIRY), Just(USER_PROPERTY)],
                0..60,
            ),
            left_s in any::<u32>(),
        ) {
            let attributes = Attributes::new(&bytes);
            let mut out = BytesMut::new();
            attributes.put(Some(left_s), &mut out);
            prop_assert_eq!(out.len(), bytes.len());
            let read: Vec<_> = attributes.iter().collect();
            let mut again = Vec::new();
            for attribute in read {
                attribute.append_to(&mut again);
            }
            prop_assert_eq!(attributes.are_known(), again == bytes);
            prop_assert!(bytes.starts_with(&again));
        }
    }

    #[test]
    fn only_the_time_that_is_left_is_another_one() {
        let mut out = BytesMut::new();
        Attributes::new(ALL).put(Some(7), &mut out);
        assert_eq!(out.len(), ALL.len());
        assert_eq!(Attributes::new(&out).expiry_s(), Some(7));
        let changed = out.iter().zip(ALL).filter(|(a, b)| a != b).count();
        assert_eq!(changed, 2, "0x0100 became 0x0007");
        let mut out = BytesMut::new();
        Attributes::new(ALL).put(None, &mut out);
        assert_eq!(out, ALL);
    }

    #[test]
    fn others_are_left_out_and_only_then_something_is_copied() {
        let format: (u8, &[u8]) = (PAYLOAD_FORMAT, b"\x01\x01");
        let alias: (u8, &[u8]) = (0x23, b"\x23\x00\x01");
        let among = |all: &[(u8, &'static [u8])], bytes: &'static [u8]| {
            Attributes::among(bytes, all.iter().copied())
        };
        let kept = among(&[format], b"\x01\x01");
        assert!(matches!(kept, Cow::Borrowed(b"\x01\x01")));
        let kept = among(&[format, alias, format], b"\x01\x01\x23\x00\x01\x01\x01");
        assert_eq!(&*kept, b"\x01\x01\x01\x01");
        assert!(among(&[alias], b"\x23\x00\x01").is_empty());
    }
}
