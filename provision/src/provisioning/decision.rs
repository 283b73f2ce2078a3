//! Which step comes next. Pure.

use super::observation::{Elsewhere, Observation};
use crate::iot::{Certificate, Status};

/// One step of a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// The device has everything, and nothing besides.
    Done,
    /// The owner has locked the device out.
    Revoked,
    /// The device has everything: remove these others, which nobody can use.
    Clear(Vec<&'a Certificate>),
    /// Another service of the device has everything, and the Thing with it.
    Elsewhere(&'a Elsewhere),
    /// Tie the stored certificate to the Thing again, so that it can be used or removed.
    Adopt(&'a Certificate),
    /// Make a certificate.
    Issue,
    /// Another request may be about to finish: look again in a moment.
    Wait,
    /// Store the certificate that this request has made.
    Store,
}

/// Decides. `own` is the certificate that this request has made, `patient` whether it may still wait.
///
/// Of several requests at once, the one with the smallest certificate id stores; the others wait
/// for it, but not for ever. Of requests for two services, each stores before it looks: the later one sees
/// the other's, and waits for what that may still remove.
pub fn next_step<'a>(seen: &'a Observation, own: Option<&str>, patient: bool) -> Step<'a> {
    let revoked = |status| status == Status::Revoked;
    let ids = || seen.held.iter().map(|held| held.certificate.id.as_str());
    if seen
        .held
        .iter()
        .any(|held| revoked(held.certificate.status))
    {
        return Step::Revoked;
    }
    let used_elsewhere = |id: &str| seen.elsewhere.iter().any(|other| other.id == id);
    if let Some(stray) = &seen.stray {
        return if revoked(stray.status) {
            Step::Revoked
        } else {
            Step::Adopt(stray)
        };
    }
    if let Some(in_use) = &seen.in_use {
        let others = seen.held.iter().map(|held| &held.certificate);
        let others: Vec<_> = others
            .filter(|held| held.id != *in_use && !used_elsewhere(&held.id))
            .collect();
        return if !others.is_empty() {
            Step::Clear(others)
        } else if patient && own == Some(in_use) && !seen.elsewhere.is_empty() {
            // the other service's request may have looked before this one's was stored, and be removing it
            Step::Wait
        } else {
            Step::Done
        };
    }
    if let Some(elsewhere) = seen.elsewhere.first() {
        // what this request has made is of no use to anybody
        let made = seen.held.iter().map(|held| &held.certificate);
        let made: Vec<_> = made.filter(|held| Some(held.id.as_str()) == own).collect();
        return if made.is_empty() {
            Step::Elsewhere(elsewhere)
        } else {
            Step::Clear(made)
        };
    }
    let usable = |id: &str| {
        let held = seen.held.iter().find(|held| held.certificate.id == id);
        held.is_some_and(|held| held.usable)
    };
    match own {
        None => Step::Issue,
        // removed by another request, or AWS does not show it yet
        Some(own) if !usable(own) && patient => Step::Wait,
        Some(own) if !usable(own) => Step::Issue,
        Some(own) if patient && ids().any(|other| other < own) => Step::Wait,
        Some(_) => Step::Store,
    }
}

#[cfg(test)]
mod tests {
    use super::super::observation::Held;
    use super::*;

    fn held(id: &str, status: Status, usable: bool) -> Held {
        let certificate = Certificate {
            id: id.to_owned(),
            arn: format!("arn:cert/{id}"),
            pem: String::new(),
            status,
        };
        Held {
            certificate,
            usable,
        }
    }

    fn holding(ids: &[&str], in_use: Option<&str>) -> Observation {
        let active = ids.iter().map(|id| held(id, Status::Active, true));
        Observation {
            thing: true,
            held: active.collect(),
            in_use: in_use.map(str::to_owned),
            ..Observation::default()
        }
    }

    #[test]
    fn a_device_that_has_everything_needs_nothing() {
        assert_eq!(
            next_step(&holding(&["b"], Some("b")), None, true),
            Step::Done
        );
    }

    #[test]
    fn what_the_device_cannot_use_is_cleared_even_if_this_request_made_it() {
        let seen = holding(&["a", "b", "c"], Some("b"));
        let Step::Clear(others) = next_step(&seen, Some("a"), true) else {
            panic!("not cleared");
        };
        let ids: Vec<&str> = others.iter().map(|other| other.id.as_str()).collect();
        assert_eq!(ids, ["a", "c"]);
    }

    #[test]
    fn the_smallest_certificate_is_stored_first_and_the_others_wait_for_a_while() {
        let seen = holding(&["a", "b"], None);
        assert_eq!(next_step(&seen, Some("a"), true), Step::Store);
        assert_eq!(next_step(&seen, Some("b"), true), Step::Wait);
        assert_eq!(next_step(&seen, Some("b"), false), Step::Store);
    }

    #[test]
    fn a_certificate_that_is_gone_or_cannot_be_used_is_replaced() {
        assert_eq!(next_step(&Observation::default(), None, true), Step::Issue);
        let mut seen = holding(&["a"], None);
        assert_eq!(next_step(&seen, None, true), Step::Issue);
        assert_eq!(next_step(&seen, Some("b"), true), Step::Wait);
        assert_eq!(next_step(&seen, Some("b"), false), Step::Issue);
        seen.held = vec![held("a", Status::Inactive, false)];
        assert_eq!(next_step(&seen, Some("a"), false), Step::Issue);
    }

    #[test]
    fn a_revoked_certificate_locks_the_device_out() {
        let mut seen = holding(&["a"], Some("a"));
        seen.held.push(held("b", Status::Revoked, false));
        assert_eq!(next_step(&seen, None, true), Step::Revoked);
        let stray = Some(held("a", Status::Revoked, false).certificate);
        let seen = Observation {
            stray,
            ..Observation::default()
        };
        assert_eq!(next_step(&seen, None, true), Step::Revoked);
    }

    #[test]
    fn what_another_service_works_with_is_kept_and_only_what_this_request_made_is_cleared() {
        let elsewhere = Elsewhere {
            id: "b".to_owned(),
            service: Some("sensor".to_owned()),
        };
        let mut seen = holding(&["a", "b"], None);
        seen.elsewhere.push(elsewhere.clone());
        assert_eq!(next_step(&seen, None, true), Step::Elsewhere(&elsewhere));
        let Step::Clear(own) = next_step(&seen, Some("a"), true) else {
            panic!("not cleared");
        };
        assert_eq!(own, [&seen.held.first().unwrap().certificate]);
        // both are complete: neither is taken from the device, unless the other's request is at it already
        seen.in_use = Some("a".to_owned());
        assert_eq!(next_step(&seen, None, true), Step::Done);
        assert_eq!(next_step(&seen, Some("a"), true), Step::Wait);
        assert_eq!(next_step(&seen, Some("a"), false), Step::Done);
    }

    #[test]
    fn a_stored_certificate_without_a_thing_is_tied_to_it_first() {
        let stray = held("a", Status::Active, true).certificate;
        let seen = Observation {
            stray: Some(stray.clone()),
            ..Observation::default()
        };
        assert_eq!(next_step(&seen, None, true), Step::Adopt(&stray));
    }
}
