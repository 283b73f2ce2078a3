//! The start: the broker takes over what the journal says. What is wrong with it is told and counted, and never fails.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::change::Clocks;
use super::image::Image;
use super::keeper::Keeper;
use super::place::Place;
use super::recorder::Recorder;
use crate::local::broker::Broker;
use crate::local::counters::Counters;

/// Has the broker take over what the journal in `directory` says, and keeps it there from now on; until the directory
/// can be used, everything is in memory.
pub(in crate::local) fn keep(
    directory: &Path,
    broker: &Arc<Mutex<Broker>>,
    counters: &Arc<Counters>,
) -> Option<Keeper> {
    let place = Place::directory(directory.to_owned());
    match keep_at(place, Recorder::on, broker, counters) {
        Ok(keeper) => Some(keeper),
        Err(error) => {
            counters.journal_failures.add(1);
            tracing::warn!(
                %error,
                "cannot start the thread that keeps local sessions and retained messages; they are in memory only"
            );
            None
        }
    }
}

/// The same at any place. `recorder` is told whether something is there.
pub(super) fn keep_at(
    mut place: Place,
    recorder: impl FnOnce(bool) -> Recorder,
    broker: &Arc<Mutex<Broker>>,
    counters: &Arc<Counters>,
) -> std::io::Result<Keeper> {
    let clocks = Clocks::read();
    let read = place.read(&clocks);
    // What is there is older than this run, and is replaced by what is now.
    let recorder = recorder(!matches!(read, Ok(None)));
    let image = read.unwrap_or_else(|error| {
        counters.journal_failures.add(1);
        tracing::warn!(
            %error,
            "DATA_DIR: cannot read the journal of the local broker; local sessions and retained messages begin anew"
        );
        None
    });
    let image = image.unwrap_or_default();
    tell(&image, counters);
    let left_out = {
        let mut broker = broker.lock().unwrap_or_else(PoisonError::into_inner);
        broker.restore(image, recorder.clone(), clocks.now)
    };
    if left_out > 0 {
        counters.dropped_retained.add(left_out);
        tracing::warn!(
            left_out,
            "there is no room for all retained messages of the last run; those left out are not retained any more"
        );
    }
    Keeper::start(place, recorder, Arc::clone(broker), Arc::clone(counters))
}

fn tell(image: &Image, counters: &Counters) {
    if let Some(version) = image.unknown_version {
        counters.journal_damaged.add(1);
        tracing::warn!(
            version,
            "the journal of the local broker is of a version that this program does not know; it is set aside as \
             journal.damaged, and local sessions and retained messages begin anew"
        );
    }
    if image.damaged > 0 {
        counters.journal_damaged.add(image.damaged);
        tracing::warn!(
            places = image.damaged,
            "the journal of the local broker was damaged; it is set aside as journal.damaged, and what could be read \
             goes on"
        );
    }
    tracing::info!(
        sessions = image.sessions.len(),
        retained = image.retained.len(),
        torn_bytes = image.torn_bytes,
        "journal of the local broker opened"
    );
}
