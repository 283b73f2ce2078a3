//! Who gets in? CONNACK codes of both versions, and what is counted.

use super::wire::{packet, publish};
use super::wire5::text;
use super::*;
use crate::config::LocalLogin;
use crate::secret::Secret;

/// A broker with one user.
fn bench() -> Bench {
    let login = LocalLogin {
        user: "app".to_owned(),
        password: Secret::new("geheim"),
    };
    let access = Access::new(Some(&login), None).unwrap();
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
        client.expect(&[0x20, 2, 0, code]).await;
        client.expect_closed().await;
        let mut client = bench.open();
        client.send(&connect(5, user, password)).await;
        client.expect(&[0x20, 3, 0, code5, 0]).await;
        client.expect_closed().await;
    }
    assert_eq!(bench.counters.logins_failed.get(), 8);
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
    thief.expect(&[0x20, 2, 0, 4]).await;
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
}
