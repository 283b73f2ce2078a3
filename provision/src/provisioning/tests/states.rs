//! What a request does to what it finds, without any fault.

use std::time::Duration;

use rcgen::KeyPair;

use super::super::{Registered, Registration, StepError, register, undo};
use super::faults::complete;
use super::world::{DEVICE, DEVICE_KEY, OWNER, POLICY, UUID, World, parties};
use crate::balena::{Owner, Variable};
use crate::iot::Status;
use crate::request::TEST_THING;

/// The order in which a first registration changes things.
const FIRST_REGISTRATION: [&str; 7] = [
    "CreateThing",
    "CreateKeysAndCertificate",
    "AttachThingPrincipal",
    "AttachPolicy",
    "UpdateCertificate",
    "POST AWS_CERT",
    "POST AWS_PRIVATE_KEY",
];

fn changes(world: &World) -> Vec<&'static str> {
    let reads = ["List", "Describe", "GET"];
    let is_read = |call: &&str| reads.iter().any(|read| call.starts_with(read));
    let calls = world.state().calls.clone();
    calls.into_iter().filter(|call| !is_read(call)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_first_registration_makes_everything_and_a_second_one_changes_nothing() {
    let world = World::default();
    let parties = parties(&world);
    assert_eq!(register(&parties, &DEVICE).await, Ok(Registered::Now));
    assert_eq!(world.state().wrongs(None), [""; 0]);
    assert_eq!(changes(&world), FIRST_REGISTRATION);
    assert_eq!(register(&parties, &DEVICE).await, Ok(Registered::Before));
    assert_eq!(changes(&world), FIRST_REGISTRATION);
}

#[tokio::test(start_paused = true)]
async fn credentials_that_do_not_stay_stored_are_stored_a_few_times_and_no_more() {
    let world = World::default();
    world.state().forgetful = true;
    world.state().delays_ms = vec![(100, 0)];
    let parties = parties(&world);
    let work = tokio::time::timeout(Duration::from_mins(1), register(&parties, &DEVICE));
    assert_eq!(work.await.expect("it ends"), Err(StepError::Contended));
    let made = changes(&world);
    let count = |name| made.iter().filter(|change| **change == name).count();
    assert_eq!(count("POST AWS_CERT"), 4);
    assert_eq!(count("CreateKeysAndCertificate"), 1);
    // once they stay, the next request completes it
    world.state().forgetful = false;
    assert_eq!(register(&parties, &DEVICE).await, Ok(Registered::Now));
    assert_eq!(world.state().wrongs(None), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn what_aws_refuses_as_if_somebody_else_had_been_faster_is_tried_a_few_times_and_then_told() {
    for refused in ["UpdateCertificate", "AttachThingPrincipal"] {
        let world = World::default();
        complete(&mut world.state());
        // in the way of a removal, and of tying the stored certificate to its Thing again
        let (second, _) = world.state().make_with_key(Status::Active);
        let thing = UUID.to_owned();
        world.state().entry(&second.id).things.insert(thing);
        if refused == "AttachThingPrincipal" {
            let mut state = world.state();
            let entries = state.certificates.values_mut();
            entries.for_each(|entry| entry.things.clear());
        }
        world.state().delays_ms = vec![(100, 0)];
        world.state().refused = Some(refused);
        let parties = parties(&world);
        let work = tokio::time::timeout(Duration::from_mins(1), register(&parties, &DEVICE));
        let Err(StepError::Iot(error)) = work.await.expect("it ends") else {
            panic!("not AWS's own words");
        };
        assert_eq!(error.operation, refused);
        let state = world.state();
        let tries = state.calls.iter().filter(|call| **call == refused);
        assert!((2..10).contains(&tries.count()), "{:?}", state.calls);
    }
}

#[tokio::test(start_paused = true)]
async fn a_removal_leaves_nothing_and_can_be_repeated() {
    let world = World::default();
    complete(&mut world.state());
    let parties = parties(&world);
    assert_eq!(undo(&parties, &DEVICE).await, Ok(()));
    assert!(world.state().is_empty());
    assert_eq!(
        changes(&world),
        [
            "UpdateCertificate",
            "DetachPolicy",
            "DetachThingPrincipal",
            "DeleteCertificate",
            "DeleteThing",
            "DELETE AWS_PRIVATE_KEY",
            "DELETE AWS_CERT",
        ]
    );
    let before = changes(&world).len();
    assert_eq!(undo(&parties, &DEVICE).await, Ok(()));
    assert_eq!(changes(&world).len(), before);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_balena_cloud_knows_no_more_is_removed_from_aws() {
    let world = World::default();
    complete(&mut world.state());
    world.state().variables.clear();
    let gone = Registration {
        owner: None,
        device: None,
        ..DEVICE
    };
    assert_eq!(undo(&parties(&world), &gone).await, Ok(()));
    assert!(world.state().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stored_certificate_whose_thing_was_deleted_by_hand_gets_its_thing_back() {
    let world = World::default();
    complete(&mut world.state());
    world.state().things.clear();
    for entry in world.state().certificates.values_mut() {
        entry.things.clear();
    }
    let registered = register(&parties(&world), &DEVICE).await;
    assert_eq!(registered, Ok(Registered::Now));
    assert_eq!(world.state().wrongs(None), [""; 0]);
    assert_eq!(world.state().issued, 1);
}

#[tokio::test(start_paused = true)]
async fn the_certificate_of_another_thing_is_not_touched_even_if_it_is_stored_here() {
    for request in ["POST", "DELETE"] {
        let world = World::default();
        complete(&mut world.state());
        let other = "another-thing".to_owned();
        world.state().things = [other.clone()].into();
        let id = world.state().certificates.keys().next().cloned().unwrap();
        world.state().entry(&id).things = [other.clone()].into();
        let parties = parties(&world);
        if request == "POST" {
            assert_eq!(register(&parties, &DEVICE).await, Ok(Registered::Now));
        } else {
            assert_eq!(undo(&parties, &DEVICE).await, Ok(()));
        }
        let state = world.state();
        let entry = state.certificates.get(&id).unwrap();
        assert_eq!(entry.certificate.status, Status::Active, "{request}");
        assert!(entry.things.contains(&other) && entry.policies.contains(POLICY));
    }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_was_turned_off_is_replaced_and_a_revoked_one_is_not() {
    let world = World::default();
    complete(&mut world.state());
    let id = world.state().certificates.keys().next().cloned().unwrap();
    world.state().entry(&id).certificate.status = Status::Inactive;
    let replaced = register(&parties(&world), &DEVICE).await;
    assert_eq!(replaced, Ok(Registered::Now));
    assert!(!world.state().certificates.contains_key(&id));

    let id = world.state().certificates.keys().next().cloned().unwrap();
    world.state().entry(&id).certificate.status = Status::Revoked;
    let locked_out = register(&parties(&world), &DEVICE).await;
    assert_eq!(locked_out, Err(StepError::Revoked));
    // nor does DELETE lift that
    let undone = undo(&parties(&world), &DEVICE).await;
    assert_eq!(undone, Err(StepError::Revoked));
    assert_eq!(world.state().certificates.len(), 1);
    world.state().certificates.clear();
    assert_eq!(
        register(&parties(&world), &DEVICE).await,
        Ok(Registered::Now)
    );
}

#[tokio::test(start_paused = true)]
async fn a_device_that_keeps_its_key_gets_a_certificate_only_and_a_new_one_for_a_new_key() {
    let world = World::default();
    let with_csr = Registration {
        csr: Some(&DEVICE_KEY.1),
        ..DEVICE
    };
    let parties = parties(&world);
    assert_eq!(register(&parties, &with_csr).await, Ok(Registered::Now));
    assert_eq!(world.state().wrongs(with_csr.csr), [""; 0]);
    let key = (OWNER, Variable::PrivateKey);
    assert!(!world.state().variables.contains_key(&key));
    assert_eq!(register(&parties, &with_csr).await, Ok(Registered::Before));
    // the device has lost its key and made another
    let key = KeyPair::generate().unwrap();
    let outdated = world.state().make(&key, Status::Active);
    let entry = world.state().certificates.values().next().cloned().unwrap();
    {
        let mut state = world.state();
        state.certificates.retain(|id, _| *id == outdated.id);
        let kept = state.entry(&outdated.id);
        (kept.things, kept.policies) = (entry.things, entry.policies);
        state.store(Variable::Certificate, &outdated.pem);
    }
    assert_eq!(register(&parties, &with_csr).await, Ok(Registered::Now));
    assert_eq!(world.state().wrongs(with_csr.csr), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn no_request_turns_a_complete_device_from_one_kind_of_key_to_the_other() {
    let with_csr = Registration {
        csr: Some(&DEVICE_KEY.1),
        ..DEVICE
    };
    for (first, second) in [(DEVICE, with_csr), (with_csr, DEVICE)] {
        let world = World::default();
        let parties = parties(&world);
        assert_eq!(register(&parties, &first).await, Ok(Registered::Now));
        let before = changes(&world);
        assert_eq!(register(&parties, &second).await, Ok(Registered::Before));
        assert_eq!(changes(&world), before);
        assert_eq!(world.state().wrongs(first.csr), [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_service_of_the_device_works_with_is_not_touched() {
    let (sensor, whole) = (Owner::Service(4002), Owner::Device(1001));
    for (from, asking, name) in [
        (OWNER, Some(sensor), "service \"cloud-relay\""),
        (OWNER, Some(whole), "service \"cloud-relay\""),
        (sensor, Some(OWNER), "service \"sensor\""),
        (whole, Some(OWNER), "the whole device"),
        (OWNER, None, "service \"cloud-relay\""),
    ] {
        let world = World::default();
        let parties = parties(&world);
        let of = |owner| Registration { owner, ..DEVICE };
        register(&parties, &of(Some(from))).await.unwrap();
        let before = changes(&world);
        if asking.is_some() {
            let refused = register(&parties, &of(asking)).await.unwrap_err();
            assert!(refused.to_string().contains(name), "{refused}");
        }
        let refused = undo(&parties, &of(asking)).await.unwrap_err();
        assert!(refused.to_string().contains(name), "{refused}");
        assert_eq!(changes(&world), before);
        let again = register(&parties, &of(Some(from))).await;
        assert_eq!(again, Ok(Registered::Before));
    }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_another_thing_shares_is_only_taken_from_this_one() {
    let world = World::default();
    complete(&mut world.state());
    let id = world.state().certificates.keys().next().cloned().unwrap();
    let other = "another-thing".to_owned();
    world.state().entry(&id).things.insert(other.clone());
    assert_eq!(undo(&parties(&world), &DEVICE).await, Ok(()));
    let state = world.state();
    let entry = state.certificates.get(&id).unwrap();
    assert_eq!(entry.certificate.status, Status::Active);
    assert_eq!(entry.things, [other].into());
    assert!(entry.policies.contains(POLICY));
    assert!(!state.things.contains(UUID));
}

#[tokio::test(start_paused = true)]
async fn a_test_registration_keeps_one_certificate_and_leaves_balena_cloud_alone() {
    let world = World::default();
    let test = Registration {
        thing: TEST_THING,
        owner: None,
        device: None,
        csr: None,
    };
    let parties = parties(&world);
    assert_eq!(register(&parties, &test).await, Ok(Registered::Now));
    assert_eq!(register(&parties, &test).await, Ok(Registered::Before));
    assert_eq!(world.state().active().len(), 1);
    assert_eq!(undo(&parties, &test).await, Ok(()));
    assert!(world.state().is_empty());
    let calls = world.state().calls.clone();
    assert!(calls.iter().all(|call| !call.contains(' ')), "{calls:?}");
}
