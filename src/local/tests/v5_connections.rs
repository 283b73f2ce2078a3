//! MQTT 5: how connections and sessions begin and end, and what the broker says about it.

use super::wire::{puback, publish as publish4};
use super::wire5::{
    Will, connect, connect_with, disconnect, disconnected, publish, session_expiry, will_delay,
};
use super::*;

/// The properties of a CONNACK that the broker always gives: receive maximum, maximum packet size, topic alias maximum.
const TERMS: [u8; 11] = [0x21, 4, 0, 0x27, 0, 4, 0, 0, 0x22, 0, 10];

fn connack(session_present: bool, more: &[u8]) -> Vec<u8> {
    let properties = [&TERMS[..], more].concat();
    let len = u8::try_from(properties.len()).unwrap();
    let body = [&[u8::from(session_present), 0, len], &properties[..]].concat();
    wire::packet(0x20, &body)
}

fn will<'a>(payload: &'a str, properties: &'a [u8]) -> Will<'a> {
    Will {
        topic: "wills",
        payload,
        properties,
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_is_told_the_terms_and_a_nameless_one_its_name() {
    let bench = Bench::new();
    let (_, terms) = bench.connect5(&connect("c", true, &[], None)).await;
    assert_eq!(terms, connack(false, &[]));
    // Clean start or not: without a name there is no session to come back to.
    for clean in [true, false] {
        let (_, terms) = bench.connect5(&connect("", clean, &[], None)).await;
        let name = [&[0x12, 0, 21], &b"auto-"[..]].concat();
        let found = terms.windows(name.len()).any(|window| window == name);
        assert!(found, "{terms:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_comes_back_to_its_session_under_the_name_it_was_given() {
    let bench = Bench::new();
    let lasting = session_expiry(60);
    let (client, terms) = bench.connect5(&connect("", true, &lasting, None)).await;
    let name = terms.split_at(terms.len() - 21).1;
    let name = std::str::from_utf8(name).unwrap();
    client.ended().await.unwrap();
    let (_, terms) = bench.connect5(&connect(name, false, &lasting, None)).await;
    assert_eq!(terms, connack(true, &[]));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_wants_no_keep_alive_or_a_very_long_one_is_given_the_longest_there_is() {
    let bench = Bench::new();
    for (asked, told) in [
        (0, &[0x13, 14, 16][..]),
        (3_601, &[0x13, 14, 16]),
        (3_600, &[]),
        (1, &[]),
    ] {
        let (_, terms) = bench
            .connect5(&connect_with("c", true, asked, &[], None))
            .await;
        assert_eq!(terms, connack(false, told), "{asked}");
    }
    for (asked, closed_after_s) in [(0, 5_400), (10, 15)] {
        let start = Instant::now();
        let connect = connect_with("c", true, asked, &[], None);
        let mut client = bench.connect5(&connect).await.0;
        client.expect_in_time(&disconnected(0x8D)).await;
        assert_eq!(start.elapsed().as_secs(), closed_after_s);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connect_that_cannot_be_served_is_refused_with_the_reason() {
    let bench = Bench::new();
    let mut reserved_flag = connect("c", true, &[], None);
    reserved_flag[9] |= 1;
    let mut will_qos_3 = connect("c", true, &[], Some(will("x", &[])));
    will_qos_3[9] |= 0x18;
    let mut will_qos_without_will = connect("c", true, &[], None);
    will_qos_without_will[9] |= 0x08;
    let wildcard = Will {
        topic: "a/#",
        payload: "x",
        properties: &[],
    };
    let plain = |properties: &[u8]| connect("c", true, properties, None);
    let with_byte = |mut connect: Vec<u8>, at: usize, byte| {
        connect[at] = byte;
        connect
    };
    let mut no_utf8_in_user_name = connect("c", true, &[], None);
    no_utf8_in_user_name[9] |= 0x80;
    no_utf8_in_user_name[1] += 3;
    no_utf8_in_user_name.extend(b"\0\x01\xFF");
    let will_without_flag = with_byte(connect("c", true, &[], Some(will("x", &[]))), 9, 0x02);
    // Connect flags that are set besides, and what follows the client identifier.
    let with = |flags: u8, more: &[u8]| {
        let mut connect = connect("c", true, &[], None);
        connect[9] |= flags;
        connect[1] += u8::try_from(more.len()).unwrap();
        connect.extend(more);
        connect
    };
    let flags = with_byte(connect("c", true, &[], None), 1, 0x8E);
    let wasteful_length = [&flags[..2], &[0], &flags[2..]].concat();
    for (reason, refused) in [
        (0x81, no_utf8_in_user_name),
        (0x81, will_without_flag),
        (0x81, wasteful_length),
        (0x81, with(0x04, b"")),               // will missing
        (0x81, with(0x04, b"\0\0\x01w")),      // will: payload missing
        (0x81, with(0x20, b"")),               // retained will without will
        (0x81, with(0x00, b"\0\x01u")),        // user name without flag
        (0x81, with(0x40, b"")),               // password missing
        (0x81, with(0x80, b"\0\x01u\0\x01p")), // password without flag
        (0x81, with(0x80, b"\0\x01\0")),       // NUL in the user name
        (0x81, with_byte(connect("c", true, &[], None), 15, 0xFF)),
        (
            0x81,
            with_byte(connect("c", true, &[], Some(will("x", &[]))), 19, 0xFF),
        ),
        (0x81, with_byte(connect("c", true, &[], None), 9, 0x82)),
        (0x81, reserved_flag),
        (0x81, will_qos_3),
        (0x81, will_qos_without_will),
        (0x81, plain(&[0x7F, 0])),
        (0x81, plain(&[0x11, 0])),
        (0x82, plain(&session_expiry(1).repeat(2))),
        (0x82, plain(&wire5::receive_maximum(0))),
        (0x82, plain(&wire5::maximum_packet_size(0))),
        (0x82, plain(&[0x17, 2])),
        (0x82, plain(&wire5::topic_alias(1))),
        (0x82, plain(&[0x16, 0, 0])),
        (
            0x82,
            connect("c", true, &[], Some(will("x", &session_expiry(1)))),
        ),
        (0x85, connect(&"c".repeat(513), true, &[], None)),
        (0x8C, plain(&wire5::authentication_method("SCRAM"))),
        (0x90, connect("c", true, &[], Some(wildcard))),
        (0x95, plain(&wire5::maximum_packet_size(63))),
    ] {
        let mut client = bench.open();
        client.send(&refused).await;
        client.expect(&[0x20, 3, 0, reason, 0]).await;
        client.expect_closed().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_user_name_and_a_password_are_read_over() {
    let bench = Bench::new();
    for (flags, login) in [(0xC0, &b"\0\x01u\0\x02\xFF\0"[..]), (0x40, b"\0\x01\xFF")] {
        let mut body = connect("c", true, &[], None).split_off(2);
        body[7] |= flags;
        body.extend(login);
        bench.connect5(&wire::packet(0x10, &body)).await;
    }
}

/// What it is, the reason that is given, the packet.
type Broken = (&'static str, u8, Vec<u8>);

fn broken_messages() -> Vec<Broken> {
    vec![
        ("no UTF-8 in a topic", 0x81, vec![0x30, 4, 0, 1, 0xFF, 0]),
        (
            "no UTF-8 in a content type",
            0x81,
            publish((0, 0), "a", &[3, 0, 1, 0xFF], "x"),
        ),
        (
            "no UTF-8 in a response topic",
            0x81,
            publish((0, 0), "a", &[8, 0, 1, 0xFF], "x"),
        ),
        (
            "no UTF-8 in a pair",
            0x81,
            publish((0, 0), "a", &[0x26, 0, 0, 0, 1, 0xFF], "x"),
        ),
        (
            "NUL in a pair",
            0x81,
            publish((0, 0), "a", &[0x26, 0, 1, 0, 0, 0], "x"),
        ),
        (
            "half of a surrogate pair",
            0x81,
            publish((0, 0), "a", &[3, 0, 3, 0xED, 0xA0, 0x80], "x"),
        ),
        ("QoS 3", 0x81, vec![0x36, 4, 0, 1, b'a', 0]),
        ("DUP at QoS 0", 0x81, vec![0x38, 4, 0, 1, b'a', 0]),
        ("no topic", 0x90, publish((0, 0), "", &[], "x")),
        ("a wildcard", 0x90, publish((1, 1), "a/+", &[], "x")),
        ("NUL", 0x90, publish((0, 0), "a\0", &[], "x")),
        ("identifier 0", 0x81, publish((1, 0), "a", &[], "x")),
        (
            "alias 0",
            0x94,
            publish((0, 0), "a", &wire5::topic_alias(0), "x"),
        ),
        (
            "alias 11",
            0x94,
            publish((0, 0), "a", &wire5::topic_alias(11), "x"),
        ),
        (
            "a strange alias",
            0x94,
            publish((0, 0), "", &wire5::topic_alias(1), "x"),
        ),
        (
            "format 2",
            0x82,
            publish((0, 0), "a", &wire5::payload_format(2), "x"),
        ),
        (
            "format twice",
            0x82,
            publish((0, 0), "a", &[1, 0, 1, 0], "x"),
        ),
        (
            "a wildcard response",
            0x82,
            publish((0, 0), "a", &wire5::response_topic("a/#"), "x"),
        ),
        (
            "a subscription identifier",
            0x82,
            publish((0, 0), "a", &wire5::subscription_id(1), "x"),
        ),
        ("properties too long", 0x81, vec![0x30, 4, 0, 1, b'a', 9]),
        (
            "a wasteful length",
            0x81,
            vec![0x30, 5, 0, 1, b'a', 0x80, 0],
        ),
        ("a wasteful packet length", 0x81, vec![0xC0, 0x80, 0]),
        (
            "too large a packet",
            0x95,
            vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F],
        ),
    ]
}

fn broken_subscriptions() -> Vec<Broken> {
    let subscribe = |properties: &[u8], options| wire5::subscribe(1, properties, &[("a", options)]);
    vec![
        (
            "no UTF-8 in a filter",
            0x81,
            vec![0x82, 7, 0, 1, 0, 0, 1, 0xFF, 0],
        ),
        (
            "no UTF-8 in a filter to leave",
            0x81,
            vec![0xA2, 6, 0, 1, 0, 0, 1, 0xFF],
        ),
        ("no filter", 0x82, wire5::subscribe(1, &[], &[])),
        ("no filter to leave", 0x82, wire5::unsubscribe(1, &[])),
        ("options of QoS 3", 0x81, subscribe(&[], 3)),
        ("retain handling 3", 0x81, subscribe(&[], 0x30)),
        ("reserved options", 0x81, subscribe(&[], 0x40)),
        (
            "subscription identifier 0",
            0x82,
            subscribe(&wire5::subscription_id(0), 0),
        ),
        (
            "two identifiers",
            0x82,
            subscribe(&wire5::subscription_id(1).repeat(2), 0),
        ),
        (
            "SUBSCRIBE of 0",
            0x81,
            wire5::subscribe(0, &[], &[("a", 0)]),
        ),
        ("UNSUBSCRIBE of 0", 0x81, wire5::unsubscribe(0, &["a"])),
        (
            "no local in a group",
            0x82,
            wire5::subscribe(1, &[], &[("$share/g/a", 4)]),
        ),
    ]
}

fn broken_others() -> Vec<Broken> {
    vec![
        ("a second CONNECT", 0x82, connect("c", true, &[], None)),
        ("AUTH", 0x82, vec![0xF0, 2, 0x18, 0]),
        ("flags of AUTH", 0x81, vec![0xF1, 2, 0x18, 0]),
        ("a CONNACK", 0x81, vec![0x20, 3, 0, 0, 0]),
        ("flags of PUBACK", 0x81, vec![0x42, 2, 0, 1]),
        ("flags of PUBREC", 0x81, vec![0x51, 2, 0, 1]),
        ("flags of PUBREL", 0x81, vec![0x60, 2, 0, 1]),
        ("flags of PUBCOMP", 0x81, vec![0x78, 2, 0, 1]),
        ("flags of PINGREQ", 0x81, vec![0xC1, 0]),
        (
            "flags of SUBSCRIBE",
            0x81,
            vec![0x80, 7, 0, 1, 0, 0, 1, b'a', 0],
        ),
        (
            "flags of UNSUBSCRIBE",
            0x81,
            vec![0xA0, 6, 0, 1, 0, 0, 1, b'a'],
        ),
        ("flags of DISCONNECT", 0x81, vec![0xE1, 0]),
        ("a reason of nobody", 0x81, wire5::because(0x40, 1, 0x8E)),
        ("a DISCONNECT of nobody", 0x81, vec![0xE0, 1, 0x8E]),
        ("a late wish", 0x82, disconnect(0, &session_expiry(9))),
    ]
}

#[tokio::test(start_paused = true)]
async fn whoever_breaks_the_protocol_is_told_how() {
    let bench = Bench::new();
    let all = [broken_messages(), broken_subscriptions(), broken_others()].concat();
    for (what, reason, bytes) in all {
        let mut client = bench.client5("c").await;
        client.send(&bytes).await;
        let answer = timeout(Duration::from_secs(1), read_packet(&mut client.stream)).await;
        assert_eq!(answer.expect(what), Some(disconnected(reason)), "{what}");
        client.expect_closed().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_outlives_its_connection_for_as_long_as_the_client_asked() {
    let bench = Bench::new();
    let keep = connect("c", false, &session_expiry(100), None);
    for (away_s, present) in [(99, true), (101, false)] {
        let mut client = bench.connect5(&keep).await.0;
        client.subscribe5(&[], "a", 1).await;
        client.ended().await.unwrap();
        tokio::time::sleep(Duration::from_secs(away_s)).await;
        let (_, connack) = bench.connect5(&keep).await;
        assert_eq!(connack[2], u8::from(present), "after {away_s} s");
    }
    assert_eq!(bench.counters.sessions_discarded.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_disconnect_may_change_how_long_the_session_stays() {
    let bench = Bench::new();
    let keep = connect("c", false, &session_expiry(100), None);
    for (expiry_s, present) in [(0, false), (1_000, true), (u32::MAX, true)] {
        let mut client = bench.connect5(&keep).await.0;
        client.send(&disconnect(0, &session_expiry(expiry_s))).await;
        client.expect_closed().await;
        tokio::time::sleep(Duration::from_mins(15)).await;
        let (_, connack) = bench.connect5(&keep).await;
        assert_eq!(connack[2], u8::from(present), "{expiry_s}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clean_start_forgets_a_session_and_may_begin_one_that_stays() {
    let bench = Bench::new();
    let begin = connect("c", true, &session_expiry(100), None);
    let go_on = connect("c", false, &session_expiry(100), None);
    for (connect, present) in [(&begin, 0), (&go_on, 1), (&begin, 0)] {
        let (client, connack) = bench.connect5(connect).await;
        assert_eq!(connack[2], present);
        client.ended().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_is_taken_over_or_outlived_by_the_relay_is_told_so() {
    let bench = Bench::new();
    let mut first = bench.client5("c").await;
    let mut second = bench.client5("c").await;
    first.expect(&disconnected(0x8E)).await;
    first.expect_closed().await;
    bench.shutdown.cancel();
    second.expect(&disconnected(0x8B)).await;
    second.expect_closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_delayed_will_is_published_after_its_delay_or_with_the_end_of_its_session() {
    let bench = Bench::new();
    let mut watcher = bench.subscriber("w", "wills", 0).await;
    for (delay_s, expiry_s, published_after_s) in [(10, 100, 10), (100, 20, 20), (50, 0, 0)] {
        let delay = will_delay(delay_s);
        let expiry = session_expiry(expiry_s);
        let mortal = connect("c", true, &expiry, Some(will("died", &delay)));
        let client = bench.connect5(&mortal).await.0;
        let start = Instant::now();
        client.ended().await.unwrap();
        watcher
            .expect_in_time(&publish4("wills", "died", 0, 0))
            .await;
        assert_eq!(start.elapsed().as_secs(), published_after_s);
        tokio::time::sleep(Duration::from_secs(200)).await;
        watcher.expect_nothing().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_back_in_time_takes_its_delayed_will_back() {
    let bench = Bench::new();
    let mut watcher = bench.subscriber("w", "wills", 0).await;
    let (delay, expiry) = (will_delay(10), session_expiry(100));
    let mortal = connect("c", false, &expiry, Some(will("died", &delay)));
    let client = bench.connect5(&mortal).await.0;
    client.ended().await.unwrap();
    tokio::time::sleep(Duration::from_secs(9)).await;
    let mut client = bench.connect5(&mortal).await.0;
    // And so does one that takes over before the first has gone.
    let _second = bench.connect5(&mortal).await;
    client.expect(&disconnected(0x8E)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    watcher.expect_nothing().await;
    // One that starts anew has ended the session, and so the wait.
    let _third = bench.connect5(&connect("c", true, &[], None)).await;
    watcher.expect(&publish4("wills", "died", 0, 0)).await;
}

#[tokio::test(start_paused = true)]
async fn a_good_bye_takes_the_will_back_unless_it_asks_for_it() {
    let bench = Bench::new();
    let mut watcher = bench.subscriber("w", "wills", 0).await;
    let mortal = connect("c", true, &[], Some(will("died", &[])));
    for (goodbye, published) in [
        (wire::DISCONNECT.to_vec(), false),
        (vec![0xE0, 1, 0], false),
        (vec![0xE0, 1, 4], true),
        (disconnect(4, &[]), true),
    ] {
        let mut client = bench.connect5(&mortal).await.0;
        client.send(&goodbye).await;
        client.expect_closed().await;
        if published {
            watcher.expect(&publish4("wills", "died", 0, 0)).await;
        }
        watcher.expect_nothing().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_delayed_will_for_the_cloud_is_spooled_when_its_time_comes() {
    let bench = Bench::new();
    let (delay, expiry) = (will_delay(10), session_expiry(100));
    let will = Will {
        topic: ROUTED,
        payload: "died",
        properties: &delay,
    };
    let client = bench
        .connect5(&connect("c", true, &expiry, Some(will)))
        .await
        .0;
    client.ended().await.unwrap();
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(bench.spool.stored().is_empty());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bench.spool.payloads(), ["died"]);
}

#[tokio::test(start_paused = true)]
async fn versions_share_a_session_by_its_client_identifier() {
    let bench = Bench::new();
    let mut four = bench.connect(Connect::persistent("c")).await;
    four.subscribe("a", 1).await;
    four.ended().await.unwrap();
    let mut publisher = bench.client("p").await;
    publisher.send(&publish4("a", "x", 1, 1)).await;
    publisher.expect(&puback(1)).await;
    let (mut five, connack) = bench.connect5(&connect("c", false, &[], None)).await;
    assert_eq!(connack[2], 1);
    five.expect(&publish((1, 1), "a", &[], "x")).await;
}
