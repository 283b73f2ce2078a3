//! Sums up what would otherwise be told too often: the first of a kind at once, then a number each minute. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// So long, further ones of a kind are only counted.
const INTERVAL: Duration = Duration::from_mins(1);

/// What is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct News {
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
    /// Notes one more of a kind; returns it if it is to be told now.
    pub(super) fn note(&mut self, kind: &'static str, words: String, now: Instant) -> Option<News> {
        if let Some(kind) = self.0.get_mut(kind) {
            kind.untold += 1;
            kind.words = words;
            return None;
        }
        let new = Kind {
            told: now,
            untold: 0,
            words: String::new(),
        };
        self.0.insert(kind, new);
        Some(News { count: 1, words })
    }

    /// When there may be something to tell.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.values().map(|kind| kind.told + INTERVAL).min()
    }

    /// What is to be told now. A kind of which nothing came for long is forgotten.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<News> {
        let mut news = Vec::new();
        self.0.retain(|_, kind| {
            if kind.told + INTERVAL > now {
                return true;
            }
            kind.told = now;
            let count = std::mem::take(&mut kind.untold);
            if count > 0 {
                let words = std::mem::take(&mut kind.words);
                news.push(News { count, words });
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
        let told = |count, words: &str| News {
            count,
            words: words.to_owned(),
        };
        let first = digest.note("denied", "a".to_owned(), start);
        assert_eq!(first, Some(told(1, "a")));
        assert_eq!(digest.note("denied", "b".to_owned(), start), None);
        assert_eq!(digest.note("denied", "c".to_owned(), start), None);
        let other = digest.note("refused", "d".to_owned(), start);
        assert_eq!(other, Some(told(1, "d")));
        let soon = start + INTERVAL / 2;
        assert_eq!(digest.take_due(soon), []);
        let due = digest.due().unwrap();
        assert_eq!(digest.take_due(due), [told(2, "c")]);
        assert_eq!(digest.due(), Some(due + INTERVAL));
        assert_eq!(digest.take_due(due + INTERVAL), []);
        assert_eq!(digest.due(), None);
    }
}
