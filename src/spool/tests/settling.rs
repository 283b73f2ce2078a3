//! What is given out, in which order, and what happens when it is settled.

use super::*;

on_both_storages! {
    messages_come_out_in_the_order_they_went_in;
    what_was_evicted_from_memory_comes_from_disk_in_order;
    after_a_rewind_exactly_the_unsettled_come_again;
    a_disk_read_begun_before_a_rewind_gives_nothing_out;
    a_message_settled_while_it_lingers_is_safe_and_never_written;
    when_the_link_is_lost_what_lingers_is_written_at_once;
    a_message_that_lingered_in_vain_is_written_and_ends_the_lingering;
    a_message_that_nobody_waits_for_holds_up_none_behind_it;
}

fn messages_come_out_in_the_order_they_went_in(bed: &Bed) {
    let Opened { spool, .. } = open(bed);
    append(&spool, 0..1_000);
    assert_eq!(payloads(&read_all(&spool)), (0..1_000).collect::<Vec<_>>());
}

fn what_was_evicted_from_memory_comes_from_disk_in_order(bed: &Bed) {
    let Opened { spool, .. } = open(bed);
    // Far more than is kept in memory, over several segments.
    let last = append(&spool, 0..60_000);
    wait_until_safe(&spool, last);
    assert!(bed.segments().len() > 1);
    let read = read_all(&spool);
    assert_eq!(payloads(&read), (0..60_000).collect::<Vec<_>>());
    settle(&spool, &read);
    let ledger = spool.close().unwrap();
    assert_eq!((ledger.delivered, ledger.spooled), (60_000, 0));
    assert_eq!(bed.segments().len(), 1, "settled segments are removed");
}

fn after_a_rewind_exactly_the_unsettled_come_again(bed: &Bed) {
    let Opened { spool, .. } = open(bed);
    append(&spool, 0..10);
    let read = read_all(&spool);
    settle(&spool, &[read[0], read[3], read[9]]);
    spool.rewind();
    assert_eq!(payloads(&read_all(&spool)), [1, 2, 4, 5, 6, 7, 8]);
}

fn a_disk_read_begun_before_a_rewind_gives_nothing_out(bed: &Bed) {
    let last = append(&open(bed).spool, 0..10);
    let Opened { spool, .. } = open(bed);
    let Read::OnDisk(ticket) = spool.read(1, 1) else {
        panic!("expected a backlog on disk up to {last}");
    };
    spool.rewind();
    assert!(spool.read_disk(ticket).unwrap().is_empty());
    assert_eq!(read_all(&spool).len(), 10);
}

fn a_message_settled_while_it_lingers_is_safe_and_never_written(bed: &Bed) {
    let options = Options {
        linger: Duration::from_hours(1),
        ..Options::default()
    };
    let Opened { spool, .. } = open_with(bed, options);
    spool.set_linked(true);
    let last = append(&spool, 0..100);
    let read = read_all(&spool);
    assert!(spool.progress().safe <= last);
    settle(&spool, &read);
    assert_eq!(spool.progress().safe, last + 1);
    spool.close().unwrap();
    drop(spool);
    assert!(bed.segments().is_empty());
    let Opened { spool, recovery } = open(bed);
    assert_eq!((recovery.spooled, spool.ledger().delivered), (0, 100));
}

fn when_the_link_is_lost_what_lingers_is_written_at_once(bed: &Bed) {
    let options = Options {
        linger: Duration::from_hours(1),
        ..Options::default()
    };
    let Opened { spool, .. } = open_with(bed, options);
    spool.set_linked(true);
    let last = append(&spool, 0..10);
    spool.set_linked(false);
    wait_until_safe(&spool, last);
}

fn a_message_that_lingered_in_vain_is_written_and_ends_the_lingering(bed: &Bed) {
    let options = Options {
        linger: Duration::from_millis(20),
        ..Options::default()
    };
    let Opened { spool, .. } = open_with(bed, options);
    spool.set_linked(true);
    let last = append(&spool, 0..10);
    wait_until_safe(&spool, last);
    assert_eq!(bed.segments().len(), 1);
    drain(&spool);
    assert_eq!(spool.ledger().spooled, 0);
}

fn a_message_that_nobody_waits_for_holds_up_none_behind_it(bed: &Bed) {
    let Opened { spool, .. } = open(bed);
    let patient = Message {
        qos: 0,
        ..message(b"1")
    };
    spool.append(&patient).unwrap();
    let start = Instant::now();
    let seq = spool.append(&message(b"2")).unwrap();
    wait_until_safe(&spool, seq);
    assert!(start.elapsed() < Duration::from_secs(5));
}
