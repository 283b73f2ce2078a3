//! What becomes of a message on which the cloud closes the connection.

use bytes::Bytes;

use super::bed::*;
use super::*;

#[tokio::test(start_paused = true)]
async fn a_message_that_ends_connections_is_convicted_while_others_are_accepted() {
    for version in VERSIONS {
        let mut bed = Bed::new(TOPIC);
        for payload in ["one", "bad", "two", "three"] {
            bed.append(payload.as_bytes());
        }
        let mut accepted = Vec::new();
        for _ in 0..7 {
            let does = |payload: &Bytes| match payload.as_ref() {
                b"bad" => Close,
                _ => Accept,
            };
            accepted.extend(bed.connection(version, MINUTE, does).await);
        }
        assert_eq!(accepted, ["one", "two", "three"]);
        assert_eq!((bed.convicting, bed.ledger()), (1, (3, 1, 0)));
        assert_eq!(bed.letters()[0].why, "ends-connections");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cloud_that_closes_on_every_message_convicts_none() {
    let mut bed = Bed::new(TOPIC);
    for payload in ["one", "two", "three"] {
        bed.append(payload.as_bytes());
    }
    for _ in 0..50 {
        bed.connection(MqttVersion::V311, MINUTE, |_| Close).await;
    }
    assert_eq!((bed.convicting, bed.ledger()), (0, (0, 0, 3)));
    let time = 3 * MINUTE;
    let accepted = bed.connection(MqttVersion::V311, time, |_| Accept).await;
    assert_eq!((accepted.len(), bed.ledger()), (3, (3, 0, 0)));
}
