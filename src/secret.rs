//! A string that never shows up in logs.

use std::fmt;

/// A secret value. `Debug` masks it and there is no `Display`; [`Secret::expose`] is the only way in.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Secret(value.into())
    }

    /// The value itself. Never log it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether somebody who has offered `guess` knows it. It takes as long for one that is wrong from the first byte as
    /// for one that is nearly right; the length is no secret.
    pub fn is(&self, guess: &[u8]) -> bool {
        let value = self.0.as_bytes();
        let pairs = value.iter().zip(guess);
        let differences = pairs.fold(0, |all, (one, other)| all | (one ^ other));
        value.len() == guess.len() && std::hint::black_box(differences) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_value_is_it() {
        let secret = Secret::new("s3cret");
        assert!(secret.is(b"s3cret"));
        for wrong in ["", "s3cre", "s3crett", "S3cret", "s3creT"] {
            assert!(!secret.is(wrong.as_bytes()), "{wrong}");
        }
        assert_eq!(format!("{secret:?}"), "Secret(***)");
    }
}
