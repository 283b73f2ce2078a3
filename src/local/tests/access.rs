//! Who gets in? CONNACK codes of both versions, and what is counted.

use super::wire::{packet, publish};
use super::wire5::text;
use super::*;
use crate::local::LocalLogin;
use crate::secret::Secret;

fn login() -> LocalLogin {
    LocalLogin {
        user: "app".to_owned(),
        password: Secret::new("geheim"),
    }
}

/// A broker with one user.
fn bench() -> Bench {
    let access = Access::new(Some(&login()), None).unwrap();
    Bench::guarded(ROUTED, Limits::default(), access)
}

/// CONNECT of client `c` with a clean session.
fn connect(level: u8, user: Option<&str>, password: Option<&str>) -> Vec<u8> {
    let flags = 0x02 | u8::from(user.is_some()) << 7 | u8::from(password.is_some()) << 6;
    let mut body = text("MQTT");
    body.extend([level, flags, 0, 0]);
    body.extend((level == 5).then_some(0));
    for field in [Some("c"), user, password].into_iter().flatten() {
        body.extend(text(field));
    }
    packet(0x10, &body)
}

#[tokio::test(start_paused = true)]
async fn the_right_password_opens_and_anything_else_is_told_why_and_counted() {
    let bench = bench();
    for level in [4, 5] {
        let mut client = bench.open();
        client
            .send(&connect(level, Some("app"), Some("geheim")))
            .await;
        assert_eq!(client.receive().await[3], 0);
    }
    assert_eq!(bench.counters.logins_failed.get(), 0);
    for (user, password, code, code5) in [
        (None, None, 5, 0x87),
        (Some("app"), Some("Geheim"), 4, 0x86),
        (Some("app"), None, 4, 0x86),
        (Some("nobody"), Some("geheim"), 4, 0x86),
    ] {
        let mut client = bench.open();
        client.send(&connect(4, user, password)).await;
        client.expect_in_time(&[0x20, 2, 0, code]).await;
        client.expect_closed().await;
        let mut client = bench.open();
        client.send(&connect(5, user, password)).await;
        client.expect_in_time(&[0x20, 3, 0, code5, 0]).await;
        client.expect_closed().await;
    }
    assert_eq!(bench.counters.logins_failed.get(), 8);
}

#[tokio::test(start_paused = true)]
async fn each_wrong_password_is_answered_later_and_a_right_one_at_once() {
    let bench = bench();
    for delay_ms in [100, 200, 400] {
        let start = Instant::now();
        let mut guesser = bench.open();
        guesser.send(&connect(4, Some("app"), Some("wrong"))).await;
        guesser.expect_in_time(&[0x20, 2, 0, 4]).await;
        assert_eq!(start.elapsed().as_millis(), delay_ms);
    }
    let mut client = bench.open();
    let start = Instant::now();
    client.send(&connect(4, Some("app"), Some("geheim"))).await;
    client.expect(&[0x20, 2, 0, 0]).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn who_is_not_let_in_takes_over_no_session_and_is_not_heard() {
    let bench = bench();
    let mut owner = bench.open();
    owner.send(&connect(4, Some("app"), Some("geheim"))).await;
    owner.expect(&[0x20, 2, 0, 0]).await;
    let mut thief = bench.open();
    thief.send(&connect(4, Some("app"), Some("wrong"))).await;
    thief.send(&publish(ROUTED, "x", 1, 1)).await;
    thief.expect_in_time(&[0x20, 2, 0, 4]).await;
    thief.expect_closed().await;
    owner.ping().await;
    assert_eq!(bench.counters.messages_received.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn without_users_any_name_opens() {
    let bench = Bench::new();
    let mut client = bench.open();
    client.send(&connect(4, Some("any"), Some("one"))).await;
    client.expect(&[0x20, 2, 0, 0]).await;
    // A password is bytes.
    let mut client = bench.open();
    let mut bytes = connect(4, Some("any"), Some("one"));
    let end = bytes.len();
    bytes[end - 3..].copy_from_slice(b"\xFF\0\xC3");
    client.send(&bytes).await;
    client.expect(&[0x20, 2, 0, 0]).await;
}

#[tokio::test(start_paused = true)]
async fn the_fields_of_connect_are_read_in_their_order() {
    for level in [4, 5] {
        let bench = bench();
        let mut watcher = bench.open();
        let mut login = connect(4, Some("app"), Some("geheim"));
        login[14] = b'w'; // another client identifier
        watcher.send(&login).await;
        watcher.receive().await;
        watcher.subscribe("will topic", 0).await;
        let no_properties = vec![0; usize::from(level == 5)];
        let mut body = [&text("MQTT")[..], &[level, 0xC6, 0, 0]].concat();
        body.extend(&no_properties);
        body.extend(text("identifier"));
        body.extend(&no_properties);
        for field in ["will topic", "will payload", "app", "geheim"] {
            body.extend(text(field));
        }
        let mut client = bench.open();
        client.send(&packet(0x10, &body)).await;
        assert_eq!(client.receive().await[3], 0);
        let listed = bench.counters.clients.list(2);
        assert_eq!(listed[1].id, "identifier");
        client.ended().await.unwrap();
        watcher
            .expect(&publish("will topic", "will payload", 0, 0))
            .await;
    }
}

/// A broker whose clients may write `up/#` and `sensors`, and read `down/#`.
fn limited() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rules");
    let rules =
        "topic write up/#\ntopic write sensors\ntopic read down/#\ntopic deny down/secret\n";
    std::fs::write(&path, rules).unwrap();
    let access = Access::default().with_rules(Some(&path)).unwrap();
    Bench::guarded(ROUTED, Limits::default(), access)
}

#[tokio::test(start_paused = true)]
async fn a_client_of_3_1_1_that_publishes_what_it_may_not_is_closed_without_an_acknowledgement() {
    let bench = limited();
    let mut client = bench.client("c").await;
    client.send(&publish("up/a", "x", 1, 1)).await;
    client.expect(&wire::puback(1)).await;
    client.send(&publish("down/a", "x", 0, 0)).await;
    client.ping().await; // QoS 0 promises nothing
    for qos in [1, 2] {
        let mut client = bench.client("c").await;
        client.send(&publish("down/a", "x", qos, 1)).await;
        client.expect_closed().await;
    }
    assert_eq!(bench.counters.publishes_denied.get(), 3);
    assert_eq!(bench.counters.messages_received.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_of_5_is_told_for_each_message_and_goes_on() {
    let bench = limited();
    let mut client = bench.client5("c").await;
    for _ in 0..Limits::default().unreleased_max {
        client
            .send(&wire5::publish((1, 1), "down/a", &[], "x"))
            .await;
        client.expect(&wire5::because(0x40, 1, 0x87)).await;
        client
            .send(&wire5::publish((2, 2), "down/a", &[], "x"))
            .await;
        client.expect(&wire5::because(0x50, 2, 0x87)).await;
    }
    client.send(&wire5::publish((1, 3), "up/a", &[], "x")).await;
    client.expect(&wire5::because(0x40, 3, 0x10)).await;
    assert_eq!(bench.counters.messages_received.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_is_refused_if_it_can_match_what_may_not_be_read() {
    const FILTERS: [(&str, u8); 6] = [
        ("down/a", 1),
        ("#", 1),
        ("down/#", 1),
        ("$share/g/down/a", 1),
        ("$share/g/up/a", 1),
        ("up/a", 1),
    ];
    let bench = limited();
    let mut client = bench.client("c").await;
    client.send(&wire::subscribe(7, &FILTERS)).await;
    client
        .expect(&[0x90, 8, 0, 7, 1, 0x80, 0x80, 1, 0x80, 0x80])
        .await;
    let mut client = bench.client5("d").await;
    client.send(&wire5::subscribe(7, &[], &FILTERS)).await;
    let codes = [1, 0x87, 0x87, 1, 0x87, 0x87];
    client.expect(&wire5::suback(7, &codes)).await;
    assert_eq!(bench.counters.subscriptions_denied.get(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_will_that_may_not_be_published_is_refused_at_connect() {
    let bench = limited();
    for (topic, code) in [("up/a", 0), ("down/a", 5)] {
        let will = Some((topic, "gone", 0, false));
        let connect = Connect {
            will,
            ..Connect::clean("c")
        };
        let mut client = bench.open();
        client.send(&connect.bytes()).await;
        client.expect(&[0x20, 2, 0, code]).await;
    }
    assert_eq!(bench.counters.publishes_denied.get(), 1);
}

/// A broker with two users, `app` and `other`, of which only the first one may do anything: `app/#`.
fn bench_of_two_users() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    std::fs::write(file("rules"), "user app\ntopic readwrite app/#\n").unwrap();
    let made = std::process::Command::new("mosquitto_passwd")
        .args(["-H", "sha512", "-c", "-b"])
        .arg(file("users"))
        .args(["other", "geheim"])
        .status();
    assert!(made.unwrap().success());
    let access = Access::new(Some(&login()), Some(&file("users"))).unwrap();
    let access = access.with_rules(Some(&file("rules"))).unwrap();
    Bench::guarded(ROUTED, Limits::default(), access)
}

/// CONNECT of client `c` with a session that is kept.
fn connect_kept(user: &str) -> Vec<u8> {
    let mut connect = connect(4, Some(user), Some("geheim"));
    connect[9] &= !0x02;
    connect
}

#[tokio::test(start_paused = true)]
async fn a_kept_session_is_resumed_only_by_who_may_read_all_its_topics() {
    let bench = bench_of_two_users();
    for (user, present) in [("app", 0), ("app", 1), ("other", 0), ("other", 1)] {
        let mut client = bench.open();
        client.send(&connect_kept(user)).await;
        client.expect(&[0x20, 2, present, 0]).await;
        let code = if user == "app" { 1 } else { 0x80 };
        client.send(&wire::subscribe(1, &[("app/#", 1)])).await;
        client.expect(&[0x90, 3, 0, 1, code]).await;
        client.send(&wire::DISCONNECT).await;
        client.expect_closed().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_in_a_kept_session_is_not_given_to_who_may_not_read_it() {
    let bench = bench_of_two_users();
    let mut app = bench.open();
    app.send(&connect_kept("app")).await;
    app.expect(&[0x20, 2, 0, 0]).await;
    app.subscribe("app/#", 1).await;
    app.send(&publish("app/a", "x", 1, 7)).await;
    app.expect(&wire::puback(7)).await;
    app.expect(&publish("app/a", "x", 1, 1)).await;
    app.send(&wire::unsubscribe(2, &["app/#"])).await;
    app.expect(&wire::unsuback(2)).await;
    app.ended().await.unwrap();
    let mut app = bench.open();
    app.send(&connect_kept("app")).await;
    app.expect(&[0x20, 2, 1, 0]).await;
    let again = wire::publish_with(wire::DUP, "app/a", "x", 1, 1);
    app.expect(&again).await;
    app.ended().await.unwrap();
    let mut other = bench.open();
    other.send(&connect_kept("other")).await;
    other.expect(&[0x20, 2, 0, 0]).await;
    other.expect_nothing().await;
}
