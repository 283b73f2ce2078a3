use std::net::Ipv4Addr;

use tokio::net::TcpListener;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// How the scripted broker treats publishes.
#[derive(Clone, Copy)]
struct Script {
    /// Closes the connection instead of answering this many-th publish, from 1; 0 = never.
    close_at: usize,
}

/// A broker for one connection; returns the payloads that it acknowledged.
async fn broker(listener: TcpListener, script: Script) -> Vec<Vec<u8>> {
    let (mut stream, _) = listener.accept().await.unwrap();
    let (mut inbox, mut taken) = (BytesMut::new(), Vec::new());
    loop {
        while let Ok(packet) = Packet::read(&mut inbox, 1 << 20) {
            let answer = match packet {
                Packet::Connect(_) => vec![0x20, 2, 0, 0],
                Packet::Publish(publish) => {
                    if taken.len() + 1 == script.close_at {
                        return taken;
                    }
                    taken.push(publish.payload.to_vec());
                    let [high, low] = publish.pkid.to_be_bytes();
                    match publish.qos as u8 {
                        0 => vec![],
                        1 => vec![0x40, 2, high, low],
                        _ => vec![0x50, 2, high, low],
                    }
                }
                Packet::PubRel(pubrel) => {
                    let [high, low] = pubrel.pkid.to_be_bytes();
                    vec![0x70, 2, high, low]
                }
                other => panic!("unexpected {other:?}"),
            };
            stream.write_all(&answer).await.unwrap();
        }
        if stream.read_buf(&mut inbox).await.unwrap_or(0) == 0 {
            return taken;
        }
    }
}

async fn started(script: Script) -> (SocketAddr, tokio::task::JoinHandle<Vec<Vec<u8>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    (addr, tokio::spawn(broker(listener, script)))
}

async fn published(load: &Load, script: Script) -> (Report, Vec<Vec<u8>>) {
    let (addr, broker) = started(script).await;
    let report = timeout(PATIENCE, publish_load(addr, load))
        .await
        .unwrap()
        .unwrap();
    (report, broker.await.unwrap())
}

fn ids(payloads: &[Vec<u8>]) -> Vec<MessageId> {
    payloads
        .iter()
        .filter_map(|payload| MessageId::of(payload))
        .collect()
}

#[tokio::test]
async fn a_load_is_acknowledged_message_by_message_at_each_qos() {
    for qos in [0, 1, 2] {
        let load = Load {
            qos,
            window: 7,
            record_latency: qos > 0,
            ..Load::new(3, "t", 100)
        };
        let (report, taken) = published(&load, Script { close_at: 0 }).await;
        assert!(report.is_complete(&load), "QoS {qos}: {report:?}");
        assert!(report.broken.is_none());
        assert_eq!(report.acked, ids(&taken));
        assert_eq!(report.latencies.len(), if qos > 0 { 100 } else { 0 });
        assert!(taken.iter().all(|payload| payload.len() == 256));
        assert!(
            taken
                .iter()
                .all(|payload| serde_json::from_slice::<serde_json::Value>(payload).is_ok())
        );
    }
}

#[tokio::test]
async fn a_lost_connection_ends_in_a_report_of_what_was_acknowledged() {
    for qos in [1, 2] {
        let load = Load {
            qos,
            first_seq: 1_000,
            ..Load::new(1, "t", 100)
        };
        let (report, taken) = published(&load, Script { close_at: 51 }).await;
        assert!(report.broken.is_some());
        assert!(report.sent > 50 && report.acked.len() <= 50, "{report:?}");
        // what was acknowledged was taken; the last answers may have been lost with the connection
        assert_eq!(report.acked, ids(&taken)[..report.acked.len()]);
    }
}

#[tokio::test]
async fn single_publishes_return_when_they_are_acknowledged() {
    let (addr, broker) = started(Script { close_at: 4 }).await;
    let mut publisher = Publisher::connect(addr, "single").await.unwrap();
    for qos in [0, 1, 2] {
        timeout(PATIENCE, publisher.publish("t", b"hello", qos))
            .await
            .unwrap()
            .unwrap();
    }
    let closed = timeout(PATIENCE, publisher.publish("t", b"hello", 1))
        .await
        .unwrap();
    assert!(matches!(
        closed,
        Err(PublishError::Closed { .. } | PublishError::Socket { .. })
    ));
    assert_eq!(broker.await.unwrap(), [b"hello"; 3]);
}

#[tokio::test]
async fn a_stopped_load_reports_and_a_paced_one_takes_its_time() {
    let load = Load {
        rate_per_second: Some(100.0),
        ..Load::new(1, "t", 11)
    };
    let (report, _) = published(&load, Script { close_at: 0 }).await;
    assert!(report.took >= Duration::from_millis(100), "{report:?}");

    let load = Load {
        rate_per_second: Some(0.001),
        ..Load::new(1, "t", 2)
    };
    let (addr, _broker) = started(Script { close_at: 0 }).await;
    let stop = load.stop.clone();
    let run = tokio::spawn(async move { publish_load(addr, &load).await });
    stop.cancel();
    let report = timeout(PATIENCE, run).await.unwrap().unwrap().unwrap();
    assert!(report.broken.is_none() && report.acked.len() < 2);
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_an_error_that_names_it() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let error = publish_load(addr, &Load::new(1, "t", 1)).await.unwrap_err();
    assert!(error.to_string().contains(&addr.to_string()), "{error}");
}
