//! What is given out, in which order, and what happens when it is settled.

use super::*;

on_both_storages! {
    messages_come_out_in_the_order_they_went_in;
    what_was_evicted_from_memory_comes_from_disk_in_order;
    after_a_rewind_exactly_the_unsettled_come_again;
    a_disk_read_begun_before_a_rewind_gives_nothing_out;
    a_message_settled_while_it_lingers_is_safe_and_never_written;
    when_the_reader_falls_behind_what_lingers_is_written_at_once;
    a_full_spool_takes_nothing_and_goes_on_when_it_has_drained;
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
    spool.set_keeping_up(true);
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

fn when_the_reader_falls_behind_what_lingers_is_written_at_once(bed: &Bed) {
    let options = Options {
        linger: Duration::from_hours(1),
        ..Options::default()
    };
    let Opened { spool, .. } = open_with(bed, options);
    spool.set_keeping_up(true);
    let last = append(&spool, 0..10);
    spool.set_keeping_up(false);
    wait_until_safe(&spool, last);
}

fn a_full_spool_takes_nothing_and_goes_on_when_it_has_drained(bed: &Bed) {
    let options = Options {
        bytes_max: 2 * 1024 * 1024,
        ..Options::default()
    };
    let Opened { spool, .. } = open_with(bed, options);
    let payload = vec![7; 100_000];
    let mut taken = 0;
    while let Ok(seq) = spool.append(&message(&payload)) {
        wait_until_safe(&spool, seq);
        taken += 1;
    }
    assert_eq!(taken, 20);
    assert!(!spool.has_space());
    loop {
        match spool.read(100, 1 << 20) {
            Read::Deliveries(deliveries) => {
                let seqs: Vec<Seq> = deliveries.iter().map(|d| d.seq).collect();
                spool.settle(&seqs, Outcome::Delivered);
            }
            Read::OnDisk(ticket) => {
                let seqs: Vec<Seq> = spool
                    .read_disk(ticket)
                    .unwrap()
                    .iter()
                    .map(|d| d.seq)
                    .collect();
                spool.settle(&seqs, Outcome::Delivered);
            }
            Read::Empty => break,
        }
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while !spool.has_space() {
        assert!(Instant::now() < deadline, "no space after draining");
        std::thread::yield_now();
    }
    spool.append(&message(&payload)).unwrap();
}
