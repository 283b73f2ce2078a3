//! A power cut at every single operation of a script that does everything the spool does.

use std::time::Duration;

use super::super::Options;
use super::model::{Effect, Model, Operation, Trigger};
use super::promise::{End, World};

/// Ways in which the unsynced survives that are tried at each operation.
const SEEDS: u64 = 24;

fn options() -> Options {
    Options {
        bytes_max: 64 * 1024,
        free_bytes_min: 0,
        linger: Duration::ZERO,
        segment_bytes: 1_500,
        ..Options::default()
    }
}

/// Several segments, settling out of order, removal, a backlog on disk, a full disk, a close, a crash of
/// the process, and all of it again on what is left.
fn script(world: &mut World) {
    for round in 0..2 {
        for size in [10, 700, 0, 300, 513, 90] {
            world.append(1, size);
            world.append(2, size / 2);
            world.step();
        }
        world.append(0, 40);
        world.run_late();
        world.read(4);
        world.settle(0b1010);
        world.run();
        world.rewind();
        world.read(9);
        world.settle(0b1_1101);
        world.run();
        world.set_free(Some(600));
        for _ in 0..6 {
            world.append(1, 400);
        }
        world.run_late();
        world.set_free(None);
        world
            .model
            .inject(Trigger::Nth(Operation::Write, 1), Effect::Enospc);
        world.run_late();
        world.run_late();
        world.end(if round == 0 {
            End::Closed
        } else {
            End::ProcessCrash
        });
        world.read(7);
        world.settle(u64::MAX);
        world.run();
    }
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_acknowledged() {
    let mut whole = World::new(Model::default(), options());
    script(&mut whole);
    let steps = whole.model.steps();
    assert!(steps > 150, "the script is too short: {steps}");
    for operation in Operation::ALL {
        if !matches!(operation, Operation::Rename) {
            assert!(
                whole.model.done_any(operation),
                "{operation:?} is not in the script"
            );
        }
    }
    assert!(whole.acknowledged() > 30);

    let begin = World::new(Model::default(), options()).model.steps();
    for step in 1..=steps - begin {
        for seed in 0..SEEDS {
            let mut world = World::new(Model::default(), options());
            world.model.inject(Trigger::Step(step), Effect::PowerCut);
            script(&mut world);
            assert!(
                world.model.fired_as(Effect::PowerCut) == 1,
                "step {step} is not in the script"
            );
            world.end(End::PowerCut { seed });
            world.drain();
        }
    }
}

#[test]
fn a_power_cut_at_any_operation_of_a_start_loses_nothing() {
    let mut world = World::new(Model::default(), options());
    for size in [700, 300, 513, 90, 1_000, 20] {
        world.append(1, size);
        world.run();
    }
    world.append(1, 600);
    world.append(1, 600);
    world
        .model
        .inject(Trigger::Nth(Operation::SyncData, 1), Effect::PowerCut);
    world.run();
    assert!(world.model.is_off());
    for seed in 0..SEEDS {
        for step in 1.. {
            let mut again = world.on_a_copy();
            again.end_without_opening(End::PowerCut { seed });
            again.model.inject(Trigger::Step(step), Effect::PowerCut);
            let opened = again.try_open();
            again.model.clear_faults();
            again.end(End::PowerCut { seed: seed + 1_000 });
            again.drain();
            if opened {
                assert!(step > 5, "a start has more operations than {step}");
                break;
            }
        }
    }
}
