//! What should have arrived against what did: missing, repeated, out of order. Pure.
//!
//! Messages are told apart by a [`MessageId`], which the [`publisher`](crate::publisher) writes at
//! the start of each payload.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Ids shown of each kind in a report.
const IDS_SHOWN: usize = 10;

/// Which message of which publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// The publisher's key; order is promised within one publisher only.
    pub publisher: u32,
    /// The publisher's count.
    pub seq: u64,
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.publisher, self.seq)
    }
}

impl MessageId {
    /// The id in a payload of the sandbox's publisher: `{"publisher":P,"seq":S…`. `None` for
    /// any other payload.
    pub fn of(payload: &[u8]) -> Option<Self> {
        let rest = payload.strip_prefix(PUBLISHER_LABEL)?;
        let (publisher, rest) = leading_number(rest)?;
        let (seq, _) = leading_number(rest.strip_prefix(SEQ_LABEL)?)?;
        Some(MessageId {
            publisher: u32::try_from(publisher).ok()?,
            seq,
        })
    }

    /// Appends the start of a payload that [`MessageId::of`] understands; `}` or `,` must follow.
    pub fn write_to(self, payload: &mut Vec<u8>) {
        payload.extend_from_slice(PUBLISHER_LABEL);
        payload.extend_from_slice(self.publisher.to_string().as_bytes());
        payload.extend_from_slice(SEQ_LABEL);
        payload.extend_from_slice(self.seq.to_string().as_bytes());
    }
}

const PUBLISHER_LABEL: &[u8] = b"{\"publisher\":";
const SEQ_LABEL: &[u8] = b",\"seq\":";

fn leading_number(text: &[u8]) -> Option<(u64, &[u8])> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = text.split_at_checked(digits)?;
    Some((std::str::from_utf8(number).ok()?.parse().ok()?, rest))
}

/// The result of [`audit`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// How many were expected.
    pub expected: usize,
    /// How many different messages arrived.
    pub arrived: usize,
    /// Expected and never arrived: lost.
    pub missing: Vec<MessageId>,
    /// Arrived more than once, with how often.
    pub duplicates: Vec<(MessageId, usize)>,
    /// Arrived for the first time after a later one of the same publisher had.
    pub out_of_order: Vec<MessageId>,
    /// Arrived and not expected: published but never acknowledged, say. No fault by itself.
    pub unexpected: Vec<MessageId>,
    /// Payloads without an id.
    pub foreign: usize,
}

impl Audit {
    /// Nothing missing, everything in order. At-least-once delivery allows duplicates.
    pub fn is_complete_and_ordered(&self) -> bool {
        self.missing.is_empty() && self.out_of_order.is_empty()
    }

    /// Each expected message exactly once, in order, and nothing else.
    pub fn is_exact(&self) -> bool {
        self.is_complete_and_ordered()
            && self.duplicates.is_empty()
            && self.unexpected.is_empty()
            && self.foreign == 0
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let repeated: Vec<MessageId> = self.duplicates.iter().map(|(id, _)| *id).collect();
        write!(
            f,
            "{} expected, {} arrived, missing: {}, repeated: {}, out of order: {}, unexpected: {}, foreign: {}",
            self.expected,
            self.arrived,
            Ids(&self.missing),
            Ids(&repeated),
            Ids(&self.out_of_order),
            Ids(&self.unexpected),
            self.foreign
        )
    }
}

/// Shows how many ids there are and the first of them.
struct Ids<'a>(&'a [MessageId]);

impl fmt::Display for Ids<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.len())?;
        for (at, id) in self.0.iter().take(IDS_SHOWN).enumerate() {
            f.write_str(if at == 0 { " (" } else { " " })?;
            write!(f, "{id}")?;
        }
        match self.0.len() {
            0 => Ok(()),
            shown if shown <= IDS_SHOWN => f.write_str(")"),
            _ => f.write_str(" …)"),
        }
    }
}

/// Compares the ids that must have arrived with the payloads that did, in order of arrival.
///
/// ```
/// use cloud_relay_sandbox::ledger::{MessageId, audit};
///
/// let expected = [1, 2].map(|seq| MessageId { publisher: 7, seq });
/// let found = audit(expected, [br#"{"publisher":7,"seq":2}"#.as_slice()]);
/// assert_eq!(found.missing, [MessageId { publisher: 7, seq: 1 }]);
/// ```
pub fn audit<'a>(
    expected: impl IntoIterator<Item = MessageId>,
    arrived: impl IntoIterator<Item = &'a [u8]>,
) -> Audit {
    let expected: BTreeSet<MessageId> = expected.into_iter().collect();
    let mut times: BTreeMap<MessageId, usize> = BTreeMap::new();
    let mut latest: BTreeMap<u32, u64> = BTreeMap::new();
    let mut found = Audit {
        expected: expected.len(),
        ..Audit::default()
    };
    for payload in arrived {
        let Some(id) = MessageId::of(payload) else {
            found.foreign += 1;
            continue;
        };
        let seen = times.entry(id).or_default();
        *seen += 1;
        if *seen > 1 {
            continue;
        }
        let last = latest.entry(id.publisher).or_insert(id.seq);
        if id.seq < *last {
            found.out_of_order.push(id);
        }
        *last = id.seq.max(*last);
    }
    found.arrived = times.len();
    found.missing = expected
        .iter()
        .filter(|id| !times.contains_key(id))
        .copied()
        .collect();
    found.unexpected = times
        .keys()
        .filter(|id| !expected.contains(id))
        .copied()
        .collect();
    found.duplicates = times.into_iter().filter(|(_, times)| *times > 1).collect();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(publisher: u32, seq: u64) -> MessageId {
        MessageId { publisher, seq }
    }

    fn payloads(ids: &[MessageId]) -> Vec<Vec<u8>> {
        ids.iter()
            .map(|id| {
                let mut payload = Vec::new();
                id.write_to(&mut payload);
                payload.push(b'}');
                payload
            })
            .collect()
    }

    fn audited(expected: &[MessageId], arrived: &[MessageId]) -> Audit {
        let arrived = payloads(arrived);
        audit(expected.iter().copied(), arrived.iter().map(Vec::as_slice))
    }

    #[test]
    fn an_id_survives_its_payload() {
        let ids = [id(0, 0), id(u32::MAX, u64::MAX)];
        for (id, payload) in ids.iter().zip(payloads(&ids)) {
            assert_eq!(MessageId::of(&payload), Some(*id));
        }
        assert_eq!(MessageId::of(b"hello"), None);
        assert_eq!(MessageId::of(b"{\"publisher\":,\"seq\":1}"), None);
    }

    #[test]
    fn a_full_and_ordered_arrival_of_two_publishers_is_exact() {
        let expected = [id(1, 1), id(1, 2), id(2, 1), id(2, 2)];
        let found = audited(&expected, &[id(2, 1), id(1, 1), id(1, 2), id(2, 2)]);
        assert!(found.is_exact(), "{found}");
    }

    #[test]
    fn a_planted_loss_duplicate_disorder_and_stranger_are_found() {
        let expected = [id(1, 1), id(1, 2), id(1, 3), id(1, 4)];
        let found = audited(
            &expected,
            &[id(1, 1), id(1, 3), id(1, 2), id(1, 1), id(9, 9)],
        );
        assert_eq!(found.missing, [id(1, 4)]);
        assert_eq!(found.duplicates, [(id(1, 1), 2)]);
        assert_eq!(found.out_of_order, [id(1, 2)]);
        assert_eq!(found.unexpected, [id(9, 9)]);
        assert!(!found.is_complete_and_ordered());
        assert!(found.to_string().contains("missing: 1 (1:4)"), "{found}");
    }

    #[test]
    fn a_replay_is_a_duplicate_and_no_disorder() {
        let expected = [id(1, 1), id(1, 2)];
        let found = audited(&expected, &[id(1, 1), id(1, 2), id(1, 1), id(1, 2)]);
        assert!(found.is_complete_and_ordered());
        assert!(!found.is_exact());
        assert_eq!(found.duplicates.len(), 2);
    }
}
