//! Two requests for one device at once, in every order that delays can make.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tokio::time::timeout;

use super::super::{Registration, register};
use super::world::{DEVICE, DEVICE_KEY, OWNER, World, parties};
use crate::balena::Owner;

/// Runs two requests, the second a little later, each cut off after its time.
async fn at_once(
    delays_ms: Vec<(u64, u64)>,
    second_after_ms: u64,
    cut_after_ms: [u64; 2],
    registration: &Registration<'_>,
) -> Result<(), TestCaseError> {
    let world = World::default();
    world.state().delays_ms = delays_ms;
    let parties = parties(&world);
    let request = async |start_ms, cut_ms| {
        tokio::time::sleep(Duration::from_millis(start_ms)).await;
        let work = register(&parties, registration);
        timeout(Duration::from_millis(cut_ms), work).await
    };
    let [first, second] = cut_after_ms;
    let (first, second) = tokio::join!(request(0, first), request(second_after_ms, second));
    let both = matches!((&first, &second), (Ok(Ok(_)), Ok(Ok(_))));
    if both {
        let wrongs = world.state().wrongs(registration.csr);
        prop_assert!(wrongs.is_empty(), "both said yes: {wrongs:?}");
    }
    let third = register(&parties, registration).await;
    prop_assert!(third.is_ok(), "{third:?}");
    let wrongs = world.state().wrongs(registration.csr);
    prop_assert!(wrongs.is_empty(), "after a third: {wrongs:?}");
    Ok(())
}

fn run(test: impl Future<Output = Result<(), TestCaseError>>) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(test)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn two_posts_at_once_end_in_one_valid_credential(
        delays_ms in vec((0..1500_u64, 0..1500_u64), 1..60),
        second_after_ms in 0..3000_u64,
    ) {
        run(at_once(delays_ms, second_after_ms, [120_000; 2], &DEVICE))?;
    }

    #[test]
    fn two_posts_at_once_that_may_be_cut_off_end_in_one_valid_credential_after_a_third(
        delays_ms in vec((0..1500_u64, 0..1500_u64), 1..60),
        second_after_ms in 0..3000_u64,
        cut_after_ms in [100..30_000_u64, 100..30_000_u64],
        csr in any::<bool>(),
    ) {
        let registration = Registration { csr: csr.then_some(&DEVICE_KEY.1), ..DEVICE };
        run(at_once(delays_ms, second_after_ms, cut_after_ms, &registration))?;
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_services_at_once_none_is_told_yes_and_loses_its_certificate_to_the_other() {
    // whose certificate has the smaller id depends on their numbers: both ways are among these
    for issued in 0..8 {
        let world = World::default();
        world.state().issued = issued;
        // the first finds the second's certificate while that is being stored, and then takes its time
        world.state().slow_ms =
            [("POST AWS_PRIVATE_KEY", 500), ("ListPrincipalThings", 1000)].into();
        let parties = parties(&world);
        let request = async |owner, start_ms| {
            tokio::time::sleep(Duration::from_millis(start_ms)).await;
            let owner = Some(owner);
            register(&parties, &Registration { owner, ..DEVICE }).await
        };
        let [one, other] = [OWNER, Owner::Service(4002)];
        let (first, second) = tokio::join!(request(one, 0), request(other, 100));
        let outcomes = [(one, first), (other, second)];
        assert!(outcomes.iter().any(|(_, outcome)| outcome.is_ok()));
        for (owner, outcome) in outcomes {
            let works = world.state().works(owner);
            assert_eq!(
                outcome.is_ok(),
                works,
                "{issued}: {owner:?} was told {outcome:?}"
            );
        }
    }
}
