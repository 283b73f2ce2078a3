//! Does the broker do the same as a model that is too simple to be wrong, whatever clients do?
//!
//! Random scripts are run on both; after each step the sessions, what waits in them, the kept bytes, the tree and what
//! was dropped must agree, and whatever a client reads must be the very messages, in the very order, that the model has
//! for it. Seeds are fixed, so that a run can be repeated. Which connection ends with its will is not the broker's
//! business: that has tests of its own, as has whose turn it is in a group.

mod run;
mod state;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use self::run::Run;
use self::state::CLIENTS;
use super::super::packet::{Properties, Publish};
use super::super::session::Outgoing;
use super::*;

const TOPICS: [&str; 6] = ["a", "a/b", "a/b/c", "b/b", "/", "$own/b"];
const FILTERS: [&str; 13] = [
    "#",
    "a",
    "a/#",
    "a/+",
    "+/b",
    "+/+",
    "a/b/c",
    "+",
    "/",
    "$own/#",
    "$share/g/#",
    "$share/g/a/+",
    "$share/h/+/b",
];
const EXPIRIES_S: [u32; 3] = [0, 10, SESSION_FOR_EVER];
const DELAYS_S: [u32; 3] = [0, 3, 60];
const MESSAGE_EXPIRIES_S: [Option<u32>; 4] = [None, None, Some(0), Some(4)];
const RECEIVE_MAXIMA: [u16; 3] = [u16::MAX, u16::MAX, 2];

#[derive(Clone, Debug)]
enum Step {
    Connect {
        client: usize,
        clean: bool,
        expiry: usize,
        receive_max: usize,
        will: Option<(Message, usize)>,
    },
    /// With its will, if it has one and does not leave in order.
    Leave {
        client: usize,
        in_order: bool,
    },
    Subscribe {
        client: usize,
        filter: usize,
        subscription: Subscription,
        retained: RetainHandling,
    },
    Unsubscribe {
        client: usize,
        filter: usize,
    },
    Publish {
        client: usize,
        message: Message,
        expiry: usize,
    },
    Read(usize),
    /// Acknowledges all that was read; of `QoS` 2 only the first half, if so asked.
    Acknowledge {
        client: usize,
        half: bool,
    },
    Wait(u64),
}

#[derive(Clone, Copy, Debug)]
struct Message {
    topic: usize,
    qos: QoS,
    retain: bool,
    empty: bool,
}

fn qos() -> impl Strategy<Value = QoS> {
    (0..3_u8).prop_map(|bits| QoS::from_bits(bits).unwrap())
}

fn message() -> impl Strategy<Value = Message> {
    let empty = prop::bool::weighted(0.2);
    (0..TOPICS.len(), qos(), any::<bool>(), empty).prop_map(|(topic, qos, retain, empty)| Message {
        topic,
        qos,
        retain,
        empty,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let client = || 0..CLIENTS.len();
    let subscription = (qos(), any::<bool>(), any::<bool>(), 0..4_u32).prop_map(
        |(qos, no_local, retain_as_published, id)| Subscription {
            qos,
            no_local,
            retain_as_published,
            id,
        },
    );
    let retained = prop_oneof![
        Just(RetainHandling::Send),
        Just(RetainHandling::SendIfNew),
        Just(RetainHandling::Withhold)
    ];
    let will = prop::option::weighted(0.4, (message(), 0..DELAYS_S.len()));
    let clean = prop::bool::weighted(0.2);
    let maxima = 0..RECEIVE_MAXIMA.len();
    prop_oneof![
        3 => (client(), clean, 0..EXPIRIES_S.len(), maxima, will).prop_map(
            |(client, clean, expiry, receive_max, will)| Step::Connect {
                client, clean, expiry, receive_max, will
            }
        ),
        1 => (client(), any::<bool>()).prop_map(|(client, in_order)| Step::Leave { client, in_order }),
        4 => (client(), 0..FILTERS.len(), subscription, retained).prop_map(
            |(client, filter, subscription, retained)| Step::Subscribe {
                client, filter, subscription, retained
            }
        ),
        1 => (client(), 0..FILTERS.len())
            .prop_map(|(client, filter)| Step::Unsubscribe { client, filter }),
        8 => (client(), message(), 0..MESSAGE_EXPIRIES_S.len())
            .prop_map(|(client, message, expiry)| Step::Publish { client, message, expiry }),
        3 => client().prop_map(Step::Read),
        2 => (client(), any::<bool>())
            .prop_map(|(client, half)| Step::Acknowledge { client, half }),
        1 => (1..8_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        rng_seed: RngSeed::Fixed(8),
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_broker_does_what_the_model_does(steps in prop::collection::vec(step(), 1..120)) {
        let mut run = Run::new();
        for (client, expiry_s) in EXPIRIES_S.into_iter().enumerate() {
            run.connect(client, true, expiry_s, u16::MAX, None);
        }
        for step in &steps {
            run.step(step);
        }
        for client in 0..CLIENTS.len() {
            run.read(client);
        }
    }
}
