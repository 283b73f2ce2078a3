//! A session that lives through several connections, and a cloud that answers as each test says.

use std::path::PathBuf;

use bytes::{Buf, Bytes};

use super::*;
use crate::dead_letters::{Header, Shelf};
use crate::routes::{Names, Rulebook};
use crate::spool::ledger::Ledger;

/// How long a topic may be denied.
pub(super) const HOLD: Duration = Duration::from_mins(10);
pub(super) const TOPIC: &str = "site/data";
pub(super) const MINUTE: Duration = Duration::from_mins(1);
pub(super) const VERSIONS: [MqttVersion; 2] = [MqttVersion::V5, MqttVersion::V311];
const UNLIMITED: Quota = Quota {
    publishes_per_s: None,
    bytes_per_s: None,
};

/// What the cloud does with a PUBLISH.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Does {
    Accept,
    Refuse(u8),
    Close,
}
pub(super) use Does::{Accept, Close, Refuse};

pub(super) struct Bed {
    pub(super) session: Session,
    pub(super) store: Store,
    /// How many connections ended so that a message was convicted of it.
    pub(super) convicting: u32,
    directory: TempDir,
}

impl Bed {
    pub(super) fn new(cloud_topic: &str) -> Self {
        Self::with(Routes::new("sensors", cloud_topic))
    }

    pub(super) fn with(routes: Routes) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&directory.path().join("spool"), Options::default()).unwrap();
        let source = Source {
            store: store.clone(),
            routes: Arc::new(routes),
            dead_letters: DeadLetters::new(directory.path().join("letters"), 1 << 30),
        };
        Bed {
            session: Session::new(source, UNLIMITED, HOLD, Aside::default()),
            store,
            convicting: 0,
            directory,
        }
    }

    /// With these rules.
    pub(super) fn of_rules(rules: &str) -> Self {
        let names = Names::default();
        Self::with(Routes::parse(rules, None, names, Rulebook::Aws).unwrap())
    }

    pub(super) fn append(&self, payload: &[u8]) -> Seq {
        self.store.append(&message(payload)).unwrap()
    }

    pub(super) fn append_to(&self, topic: &str, payload: &[u8]) -> Seq {
        let message = message(payload);
        self.store.append(&Message { topic, ..message }).unwrap()
    }

    /// One connection to a cloud that does with each payload what `does` says, and closes it after `time`. Returns
    /// what it accepted.
    pub(super) async fn connection(
        &mut self,
        version: MqttVersion,
        time: Duration,
        does: impl FnMut(&Bytes) -> Does,
    ) -> Vec<Bytes> {
        let (connection, cloud) = connection(version, Terms::default());
        let stop = CancellationToken::new();
        let cloud = serve(cloud, version, Instant::now() + time, does);
        let (ended, accepted) = tokio::join!(self.session.run(connection, &stop), cloud);
        let Ended::Lost(lost) = ended else {
            panic!("the connection was not lost");
        };
        self.convicting += u32::from(lost.convicted);
        accepted
    }

    /// The same to MQTT 5 for `time`; `count` times "good" comes `after` a while. Returns the ledger before that, too.
    pub(super) async fn connection_with_more(
        &mut self,
        time: Duration,
        (after, count): (Duration, u64),
        does: impl FnMut(&Bytes) -> Does,
    ) -> (Ledger, Vec<Bytes>) {
        let store = self.store.clone();
        let later = async {
            sleep(after).await;
            let before = store.ledger();
            for _ in 0..count {
                store.append(&message(b"good")).unwrap();
            }
            before
        };
        tokio::join!(later, self.connection(MqttVersion::V5, time, does))
    }

    pub(super) fn letters_path(&self) -> PathBuf {
        self.directory.path().join("letters")
    }

    pub(super) fn letters(&self) -> Vec<Header> {
        let reader = Shelf::new(&self.letters_path());
        let entries = reader.entries().unwrap();
        let opened = entries.iter().map(|entry| reader.read(entry).unwrap());
        opened.map(|opened| opened.unwrap().header).collect()
    }

    /// Delivered, dead-lettered, spooled.
    pub(super) fn ledger(&self) -> (u64, u64, u64) {
        let ledger = self.store.ledger();
        (ledger.delivered, ledger.dead_lettered, ledger.spooled)
    }
}

/// Answers publishes, each as `does` says, until `deadline`.
async fn serve(
    mut cloud: DuplexStream,
    version: MqttVersion,
    deadline: Instant,
    mut does: impl FnMut(&Bytes) -> Does,
) -> Vec<Bytes> {
    let mut accepted = Vec::new();
    let mut received = BytesMut::new();
    loop {
        while let Some(mut packet) = take_packet(&mut received) {
            if packet[0] == PINGREQ[0] {
                cloud.write_all(&PINGRESP).await.unwrap();
                continue;
            }
            let [id_high, id_low, payload] = parse(version, &mut packet);
            let what = does(&payload);
            match what {
                Close => return accepted,
                Accept => accepted.push(payload.clone()),
                Refuse(_) => {}
            }
            let puback = match what {
                Refuse(reason) => vec![0x40, 3, id_high[0], id_low[0], reason],
                _ => vec![0x40, 2, id_high[0], id_low[0]],
            };
            cloud.write_all(&puback).await.unwrap();
        }
        let read = cloud.read_buf(&mut received);
        match tokio::time::timeout_at(deadline, read).await {
            Ok(read) => assert!(read.unwrap() > 0, "the session is gone"),
            Err(_) => return accepted,
        }
    }
}

/// The next whole packet, if there is one.
pub(super) fn take_packet(received: &mut BytesMut) -> Option<Bytes> {
    let mut len = 0;
    for (index, byte) in received.iter().skip(1).take(4).enumerate() {
        len |= usize::from(byte & 127) << (7 * index);
        if byte & 128 == 0 {
            let whole = 2 + index + len;
            return (received.len() >= whole).then(|| received.split_to(whole).freeze());
        }
    }
    None
}

/// The two bytes of a PUBLISH's identifier, and its payload.
pub(super) fn parse(version: MqttVersion, packet: &mut Bytes) -> [Bytes; 3] {
    let length_bytes = packet.iter().skip(1).position(|byte| byte & 128 == 0);
    packet.advance(2 + length_bytes.unwrap());
    let topic_len = packet.get_u16();
    packet.advance(usize::from(topic_len));
    let id = [packet.split_to(1), packet.split_to(1)];
    if version == MqttVersion::V5 {
        let properties_len = packet.get_u8();
        packet.advance(properties_len.into());
    }
    let [high, low] = id;
    [high, low, packet.clone()]
}
