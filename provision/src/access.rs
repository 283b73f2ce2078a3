//! Who may ask for what. Pure.
//!
//! The wire contract has no authentication: whoever knows a device's UUID may register it. The rules
//! here narrow that without a change to the devices: a token that travels inside `PROVISION_URL`, the
//! fleets whose devices are welcome, and two things that are off unless the owner turns them on.
//!
//! It does not decide whether a device exists; balenaCloud does.

use crate::balena::Fleet;
use crate::request::{Method, Subject};
use crate::secret::Secret;

/// The owner's rules.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// `PROVISION_TOKEN`: what each request must carry. `None`: nothing.
    pub token: Option<Secret>,
    /// `FLEETS`: slugs or numeric ids of the fleets whose devices are registered. Empty: all.
    pub fleets: Vec<String>,
    /// `ALLOW_DELETE`.
    pub delete: bool,
    /// `ALLOW_TEST`.
    pub test: bool,
}

/// Why a request is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No token, or another one.
    #[error(
        "wrong or missing token; append ?token=… with the function's PROVISION_TOKEN to PROVISION_URL"
    )]
    Token,
    /// DELETE is off.
    #[error("DELETE is turned off; set ALLOW_DELETE=1 for the function to undo registrations")]
    Delete,
    /// Test requests are off.
    #[error(
        "no uuid: that would register the Thing test-provision, which is turned off; send a device's uuid, or set ALLOW_TEST=1 for the function"
    )]
    Test,
    /// A device of a fleet that is not listed.
    #[error(
        "this device's fleet is not among the function's FLEETS; add it there to let its devices register"
    )]
    Fleet,
    /// A device that balenaCloud does not know, where fleets are listed.
    #[error(
        "balenaCloud does not know this device, so that it may belong to a fleet that is not among the function's FLEETS; delete its Thing in AWS IoT, or clear FLEETS for this"
    )]
    UnknownFleet,
}

impl Access {
    /// Whether a request that carries `offered` may be read at all.
    pub fn check_token(&self, offered: Option<&str>) -> Result<(), Denied> {
        let Some(token) = &self.token else {
            return Ok(());
        };
        if token.is(offered.unwrap_or_default().as_bytes()) {
            Ok(())
        } else {
            Err(Denied::Token)
        }
    }

    /// Whether `method` may be used on `subject`.
    pub fn check_method(&self, method: Method, subject: &Subject) -> Result<(), Denied> {
        if method == Method::Delete && !self.delete {
            return Err(Denied::Delete);
        }
        if *subject == Subject::Test && !self.test {
            return Err(Denied::Test);
        }
        Ok(())
    }

    /// Whether a device may be undone that balenaCloud does not know, so that nobody knows its fleet.
    pub fn check_unknown_fleet(&self) -> Result<(), Denied> {
        if self.fleets.is_empty() {
            Ok(())
        } else {
            Err(Denied::UnknownFleet)
        }
    }

    /// Whether devices of `fleet` are welcome.
    pub fn check_fleet(&self, fleet: &Fleet) -> Result<(), Denied> {
        let listed = |entry: &String| *entry == fleet.slug || *entry == fleet.id.to_string();
        if self.fleets.is_empty() || self.fleets.iter().any(listed) {
            Ok(())
        } else {
            Err(Denied::Fleet)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guarded() -> Access {
        Access {
            token: Some(Secret::new("s3cret")),
            fleets: vec!["acme/weather".to_owned(), "42".to_owned()],
            ..Access::default()
        }
    }

    #[test]
    fn only_the_whole_token_opens() {
        let access = guarded();
        assert_eq!(access.check_token(Some("s3cret")), Ok(()));
        for wrong in [
            None,
            Some(""),
            Some("s3cre"),
            Some("s3crett"),
            Some("S3cret"),
        ] {
            assert_eq!(access.check_token(wrong), Err(Denied::Token), "{wrong:?}");
        }
        assert_eq!(Access::default().check_token(None), Ok(()));
    }

    #[test]
    fn fleets_are_listed_by_slug_or_id_and_only_whole() {
        let fleet = |id, slug: &str| Fleet {
            id,
            slug: slug.to_owned(),
        };
        let access = guarded();
        assert_eq!(access.check_fleet(&fleet(7, "acme/weather")), Ok(()));
        assert_eq!(access.check_fleet(&fleet(42, "acme/other")), Ok(()));
        for other in [fleet(7, "acme/weather2"), fleet(7, "weather"), fleet(4, "")] {
            assert_eq!(access.check_fleet(&other), Err(Denied::Fleet), "{other:?}");
        }
        let anyone = Access::default();
        assert_eq!(anyone.check_fleet(&fleet(1, "any/one")), Ok(()));
    }

    #[test]
    fn delete_and_test_are_off_until_they_are_turned_on() {
        let device = Subject::Device("5ce5d4f5a1b44d2b9f2f34a4dfa1c0de".parse().unwrap());
        let off = Access::default();
        assert_eq!(off.check_method(Method::Post, &device), Ok(()));
        assert_eq!(
            off.check_method(Method::Delete, &device),
            Err(Denied::Delete)
        );
        assert_eq!(
            off.check_method(Method::Post, &Subject::Test),
            Err(Denied::Test)
        );
        let on = Access {
            delete: true,
            test: true,
            ..Access::default()
        };
        assert_eq!(on.check_method(Method::Delete, &device), Ok(()));
        assert_eq!(on.check_method(Method::Post, &Subject::Test), Ok(()));
        assert_eq!(on.check_method(Method::Delete, &Subject::Test), Ok(()));
    }
}
