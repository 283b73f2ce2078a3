//! What happens at the limits, and whether one client's limit is another's trouble?

use super::wire::{Connect, puback, pubcomp, publish, pubrec, pubrel, subscribe};
use super::*;

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_closed_after_one_and_a_half_keep_alives_and_its_will_published() {
    let bench = Bench::new();
    let mut watcher = bench.subscriber("w", "wills", 0).await;
    let connect = Connect {
        keep_alive_s: 10,
        will: Some(("wills", "silent", 0, false)),
        ..Connect::clean("c")
    };
    let mut client = bench.connect(connect).await;
    tokio::time::advance(Duration::from_secs(14)).await;
    client.ping().await;
    let start = Instant::now();
    client.expect_closed().await;
    assert_eq!(start.elapsed().as_secs(), 15);
    watcher.expect(&publish("wills", "silent", 0, 0)).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_drips_is_silent_and_one_that_sends_slowly_is_not() {
    let bench = Bench::new();
    let impatient = Connect {
        keep_alive_s: 10,
        ..Connect::clean("c")
    };
    let packet = publish("a", &"x".repeat(5_000), 1, 1);
    let mut client = bench.connect(impatient).await;
    for part in packet.chunks(1_000) {
        client.send(part).await;
        tokio::time::sleep(Duration::from_secs(11)).await;
    }
    client.expect(&puback(1)).await;
    let start = Instant::now();
    let mut client = bench.connect(impatient).await;
    for byte in &packet[..3] {
        client.send(&[*byte]).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    client.expect_closed().await;
    assert_eq!(start.elapsed().as_secs(), 15);
}

#[tokio::test(start_paused = true)]
async fn a_client_without_connect_is_closed_in_time() {
    let bench = Bench::new();
    let start = Instant::now();
    let mut client = bench.open();
    client.send(&[0x10]).await;
    client.expect_closed().await;
    assert_eq!(start.elapsed(), Limits::default().connect_timeout);
    assert_eq!(bench.counters.connect_timeouts.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_publisher_is_not_read_from_while_too_much_of_it_is_unacknowledged() {
    let limits = Limits {
        unacknowledged_bytes_max: 1_000,
        ..Limits::default()
    };
    let bench = Bench::with(limits);
    let mut client = bench.client("c").await;
    let payload = "x".repeat(400);
    for id in 1..=100 {
        client.send(&publish(ROUTED, &payload, 1, id)).await;
    }
    client.expect_nothing().await;
    let taken = bench.spool.stored().len();
    assert!((2..=3).contains(&taken), "{taken} taken");
    assert_eq!(bench.counters.reads_paused.get(), 1);
    for id in 1..=100_u16 {
        bench.spool.set_safe(id.into());
        client.expect(&puback(id)).await;
    }
    assert_eq!(bench.spool.stored().len(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_client_is_not_read_from_while_it_is_owed_too_many_acknowledgements() {
    let bench = Bench::new();
    let mut client = bench.client("c").await;
    client.send(&publish(ROUTED, "x", 1, 1)).await;
    for id in 2..=2_000 {
        client.send(&publish("local", "x", 1, id)).await;
    }
    client.expect_nothing().await;
    let taken = bench.counters.messages_received.get();
    assert!((100..1_000).contains(&taken), "{taken} taken");
    assert_eq!(bench.counters.reads_paused.get(), 1);
    bench.spool.set_safe(1);
    for id in 1..=2_000 {
        client.expect(&puback(id)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_never_reads_slows_nobody_and_is_closed_in_the_end() {
    let bench = Bench::with(Limits {
        session_bytes_max: 20_000,
        ..Limits::default()
    });
    let mut stuck = bench.client_with_buffer("stuck", 256).await;
    stuck.subscribe("#", 1).await;
    let mut quick = bench.subscriber("quick", "#", 1).await;
    let mut client = bench.client("c").await;
    let payload = "x".repeat(500);
    for id in 1..=1_000 {
        client.send(&publish("a", &payload, 1, id)).await;
        client.expect(&puback(id)).await;
        quick.expect(&publish("a", &payload, 1, id)).await;
        quick.send(&puback(id)).await;
    }
    assert!(bench.counters.dropped_session_full.get() > 900);
    let task = stuck.task;
    let ended = timeout(2 * Limits::default().write_timeout, task).await;
    ended.expect("the stuck client stays").unwrap().unwrap();
    assert_eq!(bench.counters.write_timeouts.get(), 1);
    quick.ping().await;
}

#[tokio::test(start_paused = true)]
async fn the_time_for_writing_begins_when_nothing_can_be_written() {
    let bench = Bench::new();
    let packet = publish("a", &"x".repeat(200), 0, 0);
    let mut stuck = bench.client_with_buffer("stuck", packet.len()).await;
    stuck.subscribe("#", 0).await;
    let mut client = bench.client("c").await;
    client.send(&packet).await;
    client.ping().await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert!(!stuck.task.is_finished(), "nothing waits to be written");
    let start = Instant::now();
    client.send(&packet).await;
    let ended = timeout(Duration::from_hours(1), stuck.task).await;
    ended.expect("the stuck client stays").unwrap().unwrap();
    assert_eq!(
        start.elapsed().as_secs(),
        Limits::default().write_timeout.as_secs()
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_may_send_without_reading_and_gets_every_acknowledgement_later() {
    let bench = Bench::new();
    let mut client = bench.client_with_buffer("c", 4_096).await;
    for id in 1..=7_000 {
        client.send(&publish("a", "x", 1, id)).await;
    }
    for id in 1..=7_000 {
        client.expect(&puback(id)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_larger_than_its_queue_reaches_a_subscriber_that_reads() {
    let bench = Bench::with(Limits {
        session_bytes_max: 200_000,
        ..Limits::default()
    });
    let mut subscriber = bench.subscriber("s", "#", 0).await;
    let mut client = bench.client("c").await;
    let packet = publish("a", &"x".repeat(1_000), 0, 0);
    let burst = packet.repeat(5_000);
    let mut received = vec![0; burst.len()];
    let reading = timeout(
        Duration::from_mins(1),
        subscriber.stream.read_exact(&mut received),
    );
    let (read, ()) = tokio::join!(reading, client.send(&burst));
    let dropped = bench.counters.dropped_slow_subscriber.get();
    assert!(read.is_ok(), "{dropped} dropped");
    assert!(received == burst);
}

#[tokio::test(start_paused = true)]
async fn only_so_many_messages_are_in_flight_and_an_acknowledgement_brings_the_next() {
    let bench = Bench::with(Limits {
        inflight_max: 2,
        ..Limits::default()
    });
    let mut subscriber = bench.subscriber("s", "a", 1).await;
    let mut client = bench.client("c").await;
    for payload in ["1", "2", "3"] {
        client.send(&publish("a", payload, 1, 1)).await;
    }
    subscriber.expect(&publish("a", "1", 1, 1)).await;
    subscriber.expect(&publish("a", "2", 1, 2)).await;
    subscriber.expect_nothing().await;
    subscriber.send(&puback(2)).await;
    subscriber.expect(&publish("a", "3", 1, 3)).await;
}

#[tokio::test(start_paused = true)]
async fn a_packet_beyond_the_limit_closes_and_one_at_the_limit_passes() {
    let bench = Bench::new();
    let fits = Limits::default().packet_bytes_max - 2 - "local".len();
    let mut client = bench.client("c").await;
    let packet = publish("local", &"x".repeat(fits), 0, 0);
    client.send(&packet).await;
    client.ping().await;
    assert_eq!(bench.counters.messages_received.get(), 1);
    client
        .send(&publish("local", &"x".repeat(fits + 1), 0, 0))
        .await;
    client.expect_closed().await;
    assert_eq!(bench.counters.messages_received.get(), 1);
    assert_eq!(bench.counters.packets_too_large.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn topics_and_client_identifiers_beyond_the_limits_are_refused_and_counted() {
    let bench = Bench::new();
    let Limits {
        topic_bytes_max,
        topic_levels_max,
        client_id_bytes_max,
        ..
    } = Limits::default();
    let mut client = bench.client(&"c".repeat(client_id_bytes_max)).await;
    let (long, deep) = (
        "x".repeat(topic_bytes_max),
        "/".repeat(topic_levels_max - 1),
    );
    for fits in [&long, &deep] {
        client.subscribe(fits, 0).await;
        client.send(&publish(fits, "x", 0, 0)).await;
        client.expect(&publish(fits, "x", 0, 0)).await;
    }
    for (nth, beyond) in (1..).zip([long + "x", deep + "/"]) {
        let mut client = bench.client("c").await;
        client.send(&subscribe(1, &[(&beyond, 0)])).await;
        client.expect(&[0x90, 3, 0, 1, 0x80]).await;
        assert_eq!(bench.counters.filters_refused.get(), nth);
        client.send(&publish(&beyond, "x", 0, 0)).await;
        client.expect_closed().await;
        assert_eq!(bench.counters.protocol_errors.get(), nth);
    }
    let mut client = bench.open();
    let beyond = "c".repeat(client_id_bytes_max + 1);
    client.send(&Connect::clean(&beyond).bytes()).await;
    client.expect(&[0x20, 2, 0, 2]).await;
    client.expect_closed().await;
    assert_eq!(bench.counters.protocol_errors.get(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_will_waits_for_room_in_the_spool_but_not_for_ever() {
    let bench = Bench::new();
    let connect = Connect {
        will: Some((ROUTED, "gone", 1, false)),
        ..Connect::clean("c")
    };
    let client = bench.connect(connect).await;
    bench.spool.set(spool::Mood::Full);
    let start = Instant::now();
    client.ended().await.unwrap();
    assert_eq!(start.elapsed(), Limits::default().will_patience);
    assert_eq!(bench.counters.dropped_will.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_releases_its_qos_2_messages_is_closed() {
    let bench = Bench::with(Limits {
        unreleased_max: 2,
        ..Limits::default()
    });
    let mut client = bench.client("c").await;
    for id in [1, 2, 2] {
        client.send(&publish("a", "x", 2, id)).await;
        client.expect(&pubrec(id)).await;
    }
    client.send(&pubrel(1)).await;
    client.expect(&pubcomp(1)).await;
    client.send(&publish("a", "x", 2, 3)).await;
    client.expect(&pubrec(3)).await;
    client.send(&publish("a", "x", 2, 4)).await;
    client.expect_closed().await;
    assert_eq!(bench.counters.protocol_errors.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_packet_that_does_not_end_closes_its_client_and_is_counted() {
    let bench = Bench::new();
    let mut client = bench.client("c").await;
    let packet = publish("a", &"x".repeat(50_000), 0, 0);
    let start = Instant::now();
    client.send(&packet).await;
    tokio::time::advance(Duration::from_secs(50)).await;
    // A new packet has its own time.
    let (most, last) = packet.split_at(packet.len() - 1);
    client.send(most).await;
    tokio::time::advance(Duration::from_secs(50)).await;
    client.send(last).await;
    client.send(most).await;
    client.expect_closed().await;
    let in_all = Duration::from_secs(100) + Limits::default().packet_timeout;
    assert_eq!(start.elapsed().as_secs(), in_all.as_secs());
    assert_eq!(bench.counters.packet_timeouts.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn large_packets_take_turns_on_their_way_in_and_small_ones_pass() {
    let bench = Bench::with(Limits {
        large_packets_max: 1,
        ..Limits::default()
    });
    let large = publish("a", &"x".repeat(200_000), 1, 1);
    let (begin, end) = large.split_at(100_000);
    let mut slow = bench.client("slow").await;
    slow.send(begin).await;
    let impatient = Connect {
        keep_alive_s: 10,
        ..Connect::clean("next")
    };
    let mut next = bench.connect(impatient).await;
    next.send(&large).await;
    next.expect_nothing().await;
    assert_eq!(bench.counters.reads_paused.get(), 1);
    tokio::time::sleep(Duration::from_secs(40)).await; // no silence of its own
    let mut small = bench.client("small").await;
    small.send(&publish("a", "x", 1, 7)).await;
    small.expect(&puback(7)).await;
    slow.send(end).await;
    slow.expect(&puback(1)).await;
    next.expect(&puback(1)).await;
    // And one that never ends gives its place back when its time is over.
    slow.send(begin).await;
    tokio::task::yield_now().await;
    next.send(&large).await;
    slow.expect_closed().await;
    next.expect(&puback(1)).await;
}

#[tokio::test(start_paused = true)]
async fn large_packets_take_turns_on_their_way_out() {
    let bench = Bench::with(Limits {
        large_packets_max: 1,
        ..Limits::default()
    });
    let mut stuck = bench.client_with_buffer("stuck", 256).await;
    stuck.subscribe("a", 0).await;
    let large = publish("a", &"x".repeat(200_000), 0, 0);
    let mut client = bench.client("c").await;
    client.send(&large).await;
    client.ping().await;
    let mut reader = bench.subscriber("reader", "b", 0).await;
    let for_reader = publish("b", &"x".repeat(20_000), 0, 0);
    client.send(&for_reader).await;
    client.send(&publish("b", "small", 0, 0)).await;
    reader.expect_nothing().await;
    reader.expect_in_time(&for_reader).await; // when the stuck one was closed
    reader.expect(&publish("b", "small", 0, 0)).await;
    assert_eq!(bench.counters.write_timeouts.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_large_connect_waits_for_room_within_its_time() {
    let bench = Bench::with(Limits {
        large_packets_max: 1,
        ..Limits::default()
    });
    let mut slow = bench.client("slow").await;
    let large = publish("a", &"x".repeat(200_000), 1, 1);
    slow.send(large.split_at(100_000).0).await;
    let payload = "x".repeat(60_000);
    let connect = Connect {
        will: Some(("a", &payload, 0, false)),
        ..Connect::clean("c")
    };
    let mut client = bench.open();
    client.send(&connect.bytes()).await;
    client.expect_closed().await;
    assert_eq!(bench.counters.connect_timeouts.get(), 1);
    slow.ended().await.unwrap();
    bench.connect(connect).await;
}

#[tokio::test(start_paused = true)]
async fn a_large_will_is_refused_while_too_much_is_kept() {
    let bench = Bench::with(Limits {
        messages_bytes_max: 50_000,
        ..Limits::default()
    });
    let payload = "x".repeat(30_000);
    let connect = |id| Connect {
        will: Some(("a", &payload, 0, false)),
        ..Connect::clean(id)
    };
    let first = bench.connect(connect("first")).await;
    let mut second = bench.open();
    second.send(&connect("second").bytes()).await;
    second.expect(&[0x20, 2, 0, 3]).await;
    second.expect_closed().await;
    first.ended().await.unwrap();
    bench.connect(connect("second")).await;
}
