//! Whose denials were told already: an app without a right tries again and again. Pure.

use std::collections::HashSet;

/// Clients that are remembered. With one more, all are forgotten, and told of once more.
const CLIENTS_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Denials {
    told: HashSet<String>,
}

impl Denials {
    /// Whether a denial of this client is to be told.
    pub(super) fn is_news(&mut self, client_id: &str) -> bool {
        if self.told.contains(client_id) {
            return false;
        }
        if self.told.len() >= CLIENTS_MAX {
            self.told.clear();
        }
        self.told.insert(client_id.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_is_told_of_once_until_there_are_too_many() {
        let mut denials = Denials::default();
        assert!(denials.is_news("a"));
        assert!(!denials.is_news("a"));
        for number in 0..CLIENTS_MAX {
            assert!(denials.is_news(&number.to_string()));
            assert!(denials.told.len() <= CLIENTS_MAX);
        }
        assert!(denials.is_news("a"));
    }
}
