//! Users and the hashes of their passwords, as mosquitto's password file has them. Pure.
//!
//! Every check costs the same, whether there is such a user or not, and whatever hash theirs is: as many
//! iterations as the costliest in the file. Otherwise the time of an answer would tell who exists.
//!
//! What it does not do: read files, limit guesses (see [`super`]), Argon2 (mosquitto 2.1's default).

use std::collections::HashMap;
use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};

use super::lines::LineError;
use crate::local::packet::Login;
use crate::secret::Secret;

/// Iterations that are taken of a hash: mosquitto makes 101 or 1,000; a Pi Zero needs a second for these.
const ITERATIONS_MAX: u32 = 50_000;
/// The longest salt, in bytes: mosquitto makes 12 or 64.
const SALT_BYTES_MAX: usize = 64;
/// Most users of a file.
const USERS_MAX: usize = 1_000;
/// What is made of a password that is given in plain text.
const OWN_ITERATIONS: u32 = 101;

const ALGORITHM: pbkdf2::Algorithm = pbkdf2::PBKDF2_HMAC_SHA512;

/// The users there are.
#[derive(Clone, Default)]
pub(super) struct Passwords {
    users: HashMap<String, Hash>,
    /// What the costliest hash takes.
    iterations_max: u32,
}

#[derive(Clone)]
struct Hash {
    kind: Kind,
    salt: Vec<u8>,
    /// What the password leads to with the salt.
    result: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Kind {
    /// `$6$`: SHA-512 of password and salt, by mosquitto before 2.0.
    Sha512,
    /// `$7$`: PBKDF2 with HMAC-SHA512, so many iterations.
    Pbkdf2(NonZeroU32),
}

impl Passwords {
    /// Reads a password file.
    pub(super) fn parse(text: &str) -> Result<Self, LineError> {
        let mut passwords = Passwords::default();
        for (index, content) in text.lines().enumerate() {
            let content = content.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let fault = |what| LineError::new(index, what);
            let (user, hash) = content
                .split_once(':')
                .filter(|(user, _)| !user.is_empty())
                .ok_or(fault("is not `user:hash`, as mosquitto_passwd writes it"))?;
            let hash = Hash::parse(hash).map_err(fault)?;
            if passwords.users.len() >= USERS_MAX {
                return Err(fault("is one user too many: at most 1,000 are taken"));
            }
            if passwords.users.contains_key(user) {
                return Err(fault("names a user that is there already; remove one"));
            }
            passwords.insert(user, hash);
        }
        Ok(passwords)
    }

    /// Adds a user whose password is known, or changes it. `salt` is random.
    pub(super) fn add(&mut self, user: &str, password: &Secret, salt: [u8; 16]) {
        let iterations = NonZeroU32::new(OWN_ITERATIONS).unwrap_or(NonZeroU32::MIN);
        let mut hash = vec![0; digest::SHA512_OUTPUT_LEN];
        let secret = password.expose().as_bytes();
        pbkdf2::derive(ALGORITHM, iterations, &salt, secret, &mut hash);
        let hash = Hash {
            kind: Kind::Pbkdf2(iterations),
            salt: salt.to_vec(),
            result: hash,
        };
        self.insert(user, hash);
    }

    fn insert(&mut self, user: &str, hash: Hash) {
        self.iterations_max = self.iterations_max.max(hash.iterations());
        self.users.insert(user.to_owned(), hash);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Whether this is a user's name and password. Takes milliseconds of computing.
    pub(super) fn admit(&self, login: &Login) -> bool {
        let hash = self.users.get(&login.user);
        let is_right = hash.is_some_and(|hash| hash.is_of(&login.password));
        let spent = hash.map_or(0, Hash::iterations);
        if let Some(rest) = NonZeroU32::new(self.iterations_max.saturating_sub(spent)) {
            let mut nobodys = [0; digest::SHA512_OUTPUT_LEN];
            pbkdf2::derive(ALGORITHM, rest, b"nobody", &login.password, &mut nobodys);
            std::hint::black_box(nobodys);
        }
        is_right
    }
}

impl Hash {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts = text.split('$');
        let before = parts.next();
        let kind = match (before, parts.next()) {
            (Some(""), Some("6")) => Kind::Sha512,
            (Some(""), Some("7")) => {
                let iterations = parts.next().and_then(|count| count.parse().ok());
                let within = iterations.filter(|count: &NonZeroU32| count.get() <= ITERATIONS_MAX);
                Kind::Pbkdf2(within.ok_or("has a number of iterations that is not 1 to 50000")?)
            }
            (Some(""), Some("argon2id")) => {
                return Err(
                    "is hashed by Argon2, which is not taken; make it with `mosquitto_passwd -H sha512-pbkdf2`",
                );
            }
            _ => {
                return Err(
                    "has a password in plain text, or hashed in an unknown way; `mosquitto_passwd -U FILE` hashes them",
                );
            }
        };
        let mut bytes = || STANDARD.decode(parts.next()?).ok();
        let (salt, hash) = (bytes(), bytes());
        let (Some(salt), Some(hash), None) = (salt, hash, parts.next()) else {
            return Err("has a hash that is cut short or not base64");
        };
        if salt.is_empty() || salt.len() > SALT_BYTES_MAX || hash.len() != digest::SHA512_OUTPUT_LEN
        {
            return Err("has a salt or a hash of the wrong length");
        }
        Ok(Hash {
            kind,
            salt,
            result: hash,
        })
    }

    fn iterations(&self) -> u32 {
        match self.kind {
            Kind::Sha512 => 0,
            Kind::Pbkdf2(iterations) => iterations.get(),
        }
    }

    fn is_of(&self, password: &[u8]) -> bool {
        match self.kind {
            Kind::Sha512 => {
                let mut context = digest::Context::new(&digest::SHA512);
                context.update(password);
                context.update(&self.salt);
                let hash = context.finish();
                // ring compares codes in constant time, and nothing else.
                let key = hmac::Key::new(hmac::HMAC_SHA512, &self.salt);
                let code = hmac::sign(&key, &self.result);
                hmac::verify(&key, hash.as_ref(), code.as_ref()).is_ok()
            }
            Kind::Pbkdf2(iterations) => {
                pbkdf2::verify(ALGORITHM, iterations, &self.salt, password, &self.result).is_ok()
            }
        }
    }
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Passwords({} users)", self.users.len())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn login(user: &str, password: &str) -> Login {
        Login {
            user: user.to_owned(),
            password: password.into(),
        }
    }

    /// What the real `mosquitto_passwd` makes of it.
    fn mosquitto_passwd(arguments: &[&str]) -> String {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("passwords");
        std::fs::write(&file, "").unwrap();
        for user in arguments.chunks(4) {
            let made = Command::new("mosquitto_passwd")
                .args(["-H", user[0], "-b"])
                .arg(&file)
                .args(&user[2..])
                .output()
                .unwrap();
            assert!(made.status.success(), "{made:?}");
        }
        std::fs::read_to_string(file).unwrap()
    }

    #[test]
    fn users_that_mosquitto_passwd_made_get_in_with_their_own_password_only() {
        let text = mosquitto_passwd(&[
            "sha512-pbkdf2",
            "",
            "new",
            "pass:word $7$",
            "sha512",
            "",
            "old",
            "geheim",
        ]);
        assert!(
            text.contains("new:$7$") && text.contains("old:$6$"),
            "{text}"
        );
        let passwords = Passwords::parse(&text).unwrap();
        for (user, password, right) in [
            ("new", "pass:word $7$", true),
            ("old", "geheim", true),
            ("old", "pass:word $7$", false),
            ("new", "", false),
            ("", "", false),
            ("nobody", "geheim", false),
        ] {
            assert_eq!(passwords.admit(&login(user, password)), right, "{user}");
        }
    }

    #[test]
    fn a_password_in_plain_text_is_kept_as_a_hash() {
        let mut passwords = Passwords::default();
        passwords.add("app", &Secret::new("geheim"), [7; 16]);
        assert!(passwords.admit(&login("app", "geheim")));
        assert!(!passwords.admit(&login("app", "geheim ")));
        assert!(!passwords.admit(&login("App", "geheim")));
        assert!(!format!("{passwords:?}").contains("geheim"));
    }

    #[test]
    fn a_faulty_line_is_named_by_its_number_and_not_shown() {
        let good = mosquitto_passwd(&["sha512", "", "user", "x"]);
        for (line, part) in [
            ("app:geheim", "plain text"),
            ("app", "user:hash"),
            (":geheim", "user:hash"),
            ("app:$8$geheim", "unknown way"),
            ("app:$6$geheim", "cut short"),
            ("app:$6$geheim==$geheim", "base64"),
            ("app:$6$AAAA$AAAA", "wrong length"),
            ("app:$7$0$AAAA$AAAA", "iterations"),
            ("app:$7$50001$AAAA$AAAA", "iterations"),
            ("app:$argon2id$v=19$m=47104,t=1,p=1$geheim", "Argon2"),
            (good.trim(), "already"),
        ] {
            let text = format!("# comment\n\n{good}{line}\n");
            let said = Passwords::parse(&text).unwrap_err().to_string();
            assert!(said.starts_with("line 4 ") && said.contains(part), "{said}");
            assert!(!said.contains("geheim"), "{said}");
        }
    }
}
