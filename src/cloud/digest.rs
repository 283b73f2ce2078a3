//! Sums up what would otherwise be told too often: the first of a kind at once, then a number each minute. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// So long, further ones of a kind are only counted.
const INTERVAL: Duration = Duration::from_mins(1);

/// What is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct News {
    /// Of which kind.
    pub(super) kind: &'static str,
    /// How many there were since it was told last.
    pub(super) count: u64,
    /// The last one, in words.
    pub(super) words: String,
}

#[derive(Debug)]
struct Kind {
    told: Instant,
    untold: u64,
    words: String,
}

/// What has been told, by kind: stable words, of which there are few.
#[derive(Debug, Default)]
pub(super) struct Digest(BTreeMap<&'static str, Kind>);

impl Digest {
    /// Notes `count` more of a kind. Returns whether they are to be told now; else they are summed up.
    pub(super) fn note(
        &mut self,
        kind: &'static str,
        count: u64,
        words: String,
        now: Instant,
    ) -> bool {
        if let Some(kind) = self.0.get_mut(kind) {
            kind.untold += count;
            kind.words = words;
            return false;
        }
        let new = Kind {
            told: now,
            untold: 0,
            words: String::new(),
        };
        self.0.insert(kind, new);
        true
    }

    /// When there may be something to tell.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.values().map(|kind| kind.told + INTERVAL).min()
    }

    /// What is to be told now. A kind of which nothing came for long is forgotten.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<News> {
        let mut news = Vec::new();
        self.0.retain(|name, kind| {
            if kind.told + INTERVAL > now {
                return true;
            }
            kind.told = now;
            let count = std::mem::take(&mut kind.untold);
            if count > 0 {
                news.push(News {
                    kind: name,
                    count,
                    words: std::mem::take(&mut kind.words),
                });
            }
            count > 0
        });
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_kind_is_told_at_once_and_the_others_are_summed_up() {
        let start = Instant::now();
        let mut digest = Digest::default();
        assert!(digest.note("denied", 1, "a".to_owned(), start));
        assert!(!digest.note("denied", 1, "b".to_owned(), start));
        assert!(!digest.note("denied", 5, "c".to_owned(), start));
        assert!(digest.note("refused", 1, "d".to_owned(), start));
        let soon = start + INTERVAL / 2;
        assert_eq!(digest.take_due(soon), []);
        let due = digest.due().unwrap();
        let summed_up = News {
            kind: "denied",
            count: 6,
            words: "c".to_owned(),
        };
        assert_eq!(digest.take_due(due), [summed_up]);
        assert_eq!(digest.due(), Some(due + INTERVAL));
        assert_eq!(digest.take_due(due + INTERVAL), []);
        assert_eq!(digest.due(), None);
    }
}
