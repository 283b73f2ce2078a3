//! Random sequences of everything that can happen to a spool, against the [promise](super::promise).
//!
//! `PROPTEST_CASES` runs more of them, `PROPTEST_RNG_SEED` others. What has failed once is kept in
//! `proptest-regressions/` and tried first.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::super::Options;
use super::model::{Effect, Model, Operation, Trigger};
use super::promise::{End, World};

/// Sequences tried in each run.
const CASES: u32 = 400;
/// The seed of a run that names none, so that a failure is not a matter of luck.
const RNG_SEED: u64 = 20_261_123;

#[derive(Clone, Debug)]
enum Op {
    Append { qos: u8, size: usize },
    Burst { count: usize, size: usize },
    Step,
    Run,
    RunLate,
    Read(usize),
    Settle(u64),
    Rewind,
    KeepUp(bool),
    Free(Option<usize>),
    FillUpAt { write: u32 },
    Close,
    CrashProcess,
    CutPower { seed: u64 },
    CutPowerDuring { step: u32, seed: u64 },
    CutPowerWhileOpening { step: u32, seed: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let seed = any::<u64>;
    prop_oneof![
        8 => (0..=2_u8, 0..900_usize).prop_map(|(qos, size)| Op::Append { qos, size }),
        3 => (1..30_usize, 0..300_usize).prop_map(|(count, size)| Op::Burst { count, size }),
        6 => Just(Op::Step),
        6 => Just(Op::Run),
        2 => Just(Op::RunLate),
        8 => (1..20_usize).prop_map(Op::Read),
        6 => seed().prop_map(Op::Settle),
        2 => Just(Op::Settle(u64::MAX)),
        2 => Just(Op::Rewind),
        2 => any::<bool>().prop_map(Op::KeepUp),
        1 => prop::option::of(0..4_000_usize).prop_map(Op::Free),
        1 => (1..4_u32).prop_map(|write| Op::FillUpAt { write }),
        1 => Just(Op::Close),
        2 => Just(Op::CrashProcess),
        2 => seed().prop_map(|seed| Op::CutPower { seed }),
        2 => (1..12_u32, seed()).prop_map(|(step, seed)| Op::CutPowerDuring { step, seed }),
        1 => (1..40_u32, seed()).prop_map(|(step, seed)| Op::CutPowerWhileOpening { step, seed }),
    ]
}

fn options() -> impl Strategy<Value = Options> {
    (prop_oneof![Just(0_u64), Just(60)], 200..4_000_u64).prop_map(|(linger_s, segment_bytes)| {
        Options {
            bytes_max: 40_000,
            free_bytes_min: 1_000,
            linger: Duration::from_secs(linger_s),
            segment_bytes,
            ..Options::default()
        }
    })
}

fn carry_out(world: &mut World, op: &Op) {
    match *op {
        Op::Append { qos, size } => world.append(qos, size),
        Op::Burst { count, size } => (0..count).for_each(|_| world.append(1, size)),
        Op::Step => world.step(),
        Op::Run => world.run(),
        Op::RunLate => world.run_late(),
        Op::Read(count_max) => world.read(count_max),
        Op::Settle(pick) => world.settle(pick),
        Op::Rewind => world.rewind(),
        Op::KeepUp(keeping_up) => world.keep_up(keeping_up),
        Op::Free(bytes) => world.set_free(bytes),
        Op::FillUpAt { write } => {
            let write = Trigger::Nth(Operation::Write, write);
            world.model.inject(write, Effect::Enospc);
        }
        Op::Close => world.end(End::Closed),
        Op::CrashProcess => world.end(End::ProcessCrash),
        Op::CutPower { seed } => world.end(End::PowerCut { seed }),
        Op::CutPowerDuring { step, seed } => {
            world.model.inject(Trigger::Step(step), Effect::PowerCut);
            world.run_late();
            world.end(End::PowerCut { seed });
        }
        Op::CutPowerWhileOpening { step, seed } => {
            world.end_without_opening(End::ProcessCrash);
            world.model.inject(Trigger::Step(step), Effect::PowerCut);
            world.try_open();
            world.end(End::PowerCut { seed });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: CASES,
        rng_seed: RngSeed::Fixed(RNG_SEED),
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_no_acknowledged_message_is_lost(
        options in options(),
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut world = World::new(Model::default(), options);
        for op in &ops {
            carry_out(&mut world, op);
        }
        world.drain();
        world.end(End::Closed);
        prop_assert!(!world.has_alive(), "a drained and closed spool is empty");
    }
}
