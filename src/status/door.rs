//! Who may look: the password, and the names under which the relay may be asked. Pure.
//!
//! Without a password, a page of a stranger's site could have its name point to this device and read the status
//! through the visitor's browser (DNS rebinding). So only names are answered that nobody on the Internet can own: addresses,
//! `localhost`, single words as Docker gives them, and `.local`. With a password the browser would not send
//! it to such a page, and every name will do.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::own_name::is_own_name;
use crate::secret::Secret;

/// See the module.
#[derive(Debug)]
pub(super) struct Door {
    password: Option<Secret>,
}

/// Why somebody may not look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Asked under a name that may be a stranger's.
    Name,
    /// No password, or the wrong one.
    Password,
}

impl Door {
    pub(super) fn new(password: Option<Secret>) -> Self {
        Door { password }
    }

    /// Judges the headers `Host` and `Authorization`.
    pub(super) fn admit(
        &self,
        host: Option<&str>,
        authorization: Option<&str>,
    ) -> Result<(), Refusal> {
        match &self.password {
            None if host.is_some_and(is_own_name) => Ok(()),
            None => Err(Refusal::Name),
            Some(password) => {
                let given = authorization.and_then(given_password).unwrap_or_default();
                if password.is(&given) {
                    Ok(())
                } else {
                    Err(Refusal::Password)
                }
            }
        }
    }
}

/// The password of Basic authentication; any user name will do.
fn given_password(authorization: &str) -> Option<Vec<u8>> {
    let (scheme, value) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD.decode(value.trim()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(decoded.into_iter().skip(colon + 1).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_password_only_names_that_no_stranger_can_own_are_answered() {
        let door = Door::new(None);
        for own in [
            "127.0.0.1:9180",
            "127.0.0.1",
            "localhost:9180",
            "LOCALHOST",
            "[::1]:9180",
            "192.168.1.7:9180",
            "cloud-relay:9180",
            "c0ffee1.local:9180",
            "x.localhost",
        ] {
            assert_eq!(door.admit(Some(own), None), Ok(()), "{own}");
        }
        for strange in [
            "evil.example",
            "evil.example:9180",
            "127.0.0.1.evil.example",
            "local.evil.example:9180",
            "",
            ":9180",
            "[evil]:1",
            "1.2.3",
            "a:b:c",
            "evil.example.",
        ] {
            assert_eq!(
                door.admit(Some(strange), None),
                Err(Refusal::Name),
                "{strange}"
            );
        }
        assert_eq!(door.admit(None, None), Err(Refusal::Name));
    }

    #[test]
    fn with_a_password_only_that_password_opens_whatever_the_name() {
        let door = Door::new(Some(Secret::new("o:pen")));
        let basic = |login: &str| format!("Basic {}", STANDARD.encode(login));
        for good in [
            basic("me:o:pen"),
            basic(":o:pen"),
            basic("x:o:pen").replace("Basic", "basic"),
        ] {
            assert_eq!(
                door.admit(Some("evil.example"), Some(&good)),
                Ok(()),
                "{good}"
            );
        }
        for bad in [
            basic("o:pen"),
            basic("me:o:pe"),
            basic("me:o:penn"),
            basic("me:"),
            basic("me"),
            basic(""),
            "Basic".to_owned(),
            "Basic !!".to_owned(),
            "Bearer o:pen".to_owned(),
        ] {
            assert_eq!(
                door.admit(Some("127.0.0.1"), Some(&bad)),
                Err(Refusal::Password),
                "{bad}"
            );
        }
        assert_eq!(door.admit(Some("127.0.0.1"), None), Err(Refusal::Password));
    }
}
