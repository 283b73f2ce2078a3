//! An errand that the cloud does not take must not stop relaying.

use super::bed::*;
use super::*;

#[tokio::test(start_paused = true)]
async fn whatever_the_cloud_says_when_it_ends_connections_for_an_errand_relaying_goes_on() {
    for code in [0x81, 0x82, 0x87, 0x90, 0x95, 0x99, 0x9A, 0x9B, 0xA2] {
        let mut bed = Bed::new(TOPIC);
        bed.session.aside = Aside::new(&extras().0);
        bed.append(b"x");
        for _ in 0..2 {
            let (connection, mut cloud) = connection(MqttVersion::V5, Terms::default());
            let refuse = async {
                cloud.read_u8().await.unwrap();
                cloud.write_all(&[0xE0, 1, code]).await.unwrap();
            };
            let stop = CancellationToken::new();
            let (ended, ()) = tokio::join!(bed.session.run(connection, &stop), refuse);
            let Ended::Lost(lost) = ended else {
                panic!("the connection was not lost");
            };
            let text = lost.reason.to_string();
            assert!(text.contains("subscription to cmd/#"), "{text}");
        }
        let accepted = bed.connection(MqttVersion::V5, MINUTE, |_| Accept).await;
        assert_eq!(accepted, ["x"], "{code:#X}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_cloud_says_of_an_errand_is_told_with_it() {
    let mut running = Running::start_for(MqttVersion::V5, 1, &extras().0);
    running.cloud.read_u8().await.unwrap();
    running.send(&[0xE0, 1, 0x90]).await;
    let text = running.lost().await.0.to_string();
    assert!(
        text.starts_with("the cloud closed the connection (topic name invalid) instead of taking"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_the_will_is_made_anew_after_the_pause_when_nothing_is_in_flight() {
    const PAUSE_S: u64 = 3_600;
    let (extras, _stopped) = extras();
    let mut bed = Bed::new(TOPIC);
    bed.session.aside = Aside::new(&Extras {
        subscriptions: None,
        ..extras
    });
    bed.session.aside.errands.refused_on_connect(true);
    let (connection, mut cloud) = connection(MqttVersion::V311, Terms::default());
    let store = bed.store.clone();
    let publishes = async {
        sleep(Duration::from_secs(PAUSE_S - 2)).await;
        store.append(&message(b"x")).unwrap();
    };
    let start = Instant::now();
    let answers = async {
        let mut received = BytesMut::new();
        while cloud.read_buf(&mut received).await.unwrap() > 0 {
            while let Some(packet) = take_packet(&mut received) {
                if packet[..] == PINGREQ {
                    cloud.write_all(&PINGRESP).await.unwrap();
                } else {
                    sleep(Duration::from_secs(5)).await;
                    cloud.write_all(&[0x40, 2, 0, 1]).await.unwrap();
                }
            }
        }
        start.elapsed()
    };
    let stop = CancellationToken::new();
    let all = async { tokio::join!(bed.session.run(connection, &stop), answers, publishes) };
    let all = tokio::time::timeout(Duration::from_secs(2 * PAUSE_S), all).await;
    let (ended, time, ()) = all.expect("the connection ends by itself");
    let Ended::Lost(lost) = ended else {
        panic!("the connection was not lost");
    };
    assert!(matches!(lost.reason, LostReason::WillNeeded), "{lost:?}");
    assert_eq!((time.as_secs(), bed.ledger()), (PAUSE_S + 3, (1, 0, 0)));
}
