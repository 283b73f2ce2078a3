//! The journal, split by question; and a broker that comes back from it.

mod bytes;
mod disk;
mod retained;
mod sessions;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::change::Clocks;
use super::image::KeptMessage;
use super::place::Place;
use super::recorder::Work;
use super::start::keep_at;
use super::*;
use crate::clock::Timestamp;
use crate::local::broker::{Broker, SessionRequest};
use crate::local::counters::Counters;
use crate::local::limits::Limits;
use crate::local::link::Link;
use crate::local::packet::{Filter, Publish};
use crate::local::publication::{Delivery, Publication, QoS};
use crate::local::session::Outgoing;
use crate::spool::storage::Storage;
use crate::spool::tests::model::Model;

fn clocks(unix_ms: u64) -> Clocks {
    Clocks {
        now: Instant::now(),
        wall: Timestamp {
            unix_ms,
            clock_set: unix_ms > 0,
        },
    }
}

fn delivery(payload: &str) -> Delivery {
    Delivery {
        publication: Publication::restored("a/b", b"", payload.as_bytes(), None),
        qos: QoS::ExactlyOnce,
        retain: true,
        subscription_ids: [7, 9].into(),
    }
}

/// A broker with a journal.
struct Kept {
    broker: Arc<Mutex<Broker>>,
    counters: Arc<Counters>,
    keeper: Keeper,
}

fn open(storage: &Arc<dyn Storage>) -> Kept {
    open_retrying(place(storage), Duration::from_hours(1))
}

fn open_retrying(place: Place, retry_pause: Duration) -> Kept {
    let counters = Arc::<Counters>::default();
    let broker = Broker::new(Limits::default(), Arc::clone(&counters));
    let broker = Arc::new(Mutex::new(broker));
    let recorder = |is_something| Recorder::retrying(is_something, retry_pause);
    let keeper = keep_at(place, recorder, &broker, &counters);
    Kept {
        broker,
        counters,
        keeper: keeper.unwrap(),
    }
}

fn place(storage: &Arc<dyn Storage>) -> Place {
    let storage = Arc::clone(storage);
    Place::new(move || Ok(Arc::clone(&storage)))
}

/// What a journal says.
fn read(model: &Model) -> Image {
    let storage: Arc<dyn Storage> = Arc::new(model.clone());
    let image = place(&storage).read(&Clocks::read());
    image.unwrap().unwrap_or_default()
}

impl Kept {
    /// A session that is subscribed to everything and away.
    fn away(self) -> Self {
        let link = Arc::<Link>::default();
        let (session, _) = self.connect(&link);
        let filters = [Filter::plain("#", QoS::AtLeastOnce)];
        let mut broker = self.broker.lock().unwrap();
        broker.subscribe(session, &link, &filters, Instant::now());
        broker.disconnect(session, &link, None, Instant::now());
        drop(broker);
        self
    }

    fn connect(&self, link: &Arc<Link>) -> (u64, bool) {
        let request = SessionRequest {
            client_id: "c",
            clean_start: false,
            expiry_s: 1_000,
            receive_max: u16::MAX,
        };
        let connected = self
            .broker
            .lock()
            .unwrap()
            .connect(request, link, Instant::now());
        (connected.session, connected.session_present)
    }

    fn publish(&self, topic: &str, payload: &str, qos: QoS, retain: bool) {
        let publish = Publish::plain(topic, payload.as_bytes(), qos, retain);
        self.broker
            .lock()
            .unwrap()
            .publish(&publish, None, Instant::now());
    }

    fn retain(&self, topic: &str, payload: &str, qos: QoS) {
        self.publish(topic, payload, qos, true);
    }

    /// Waits until everything that was recorded is kept, or nothing has to wait.
    fn settle(&self) {
        let recorder = &self.keeper.recorder;
        let number = recorder.next();
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while number > 0 && !recorder.is_kept(number - 1) {
            assert!(
                std::time::Instant::now() < deadline,
                "the journal is not written"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn next(&self, session: u64, link: &Arc<Link>) -> Option<(u16, bool, Vec<u8>)> {
        let mut broker = self.broker.lock().unwrap();
        let session = broker.session(session, link).unwrap();
        match session.next(&Limits::default(), Instant::now())? {
            Outgoing::Publish {
                delivery,
                id,
                duplicate,
            } => Some((id, duplicate, delivery.publication.parts().1.to_vec())),
            Outgoing::PubRel(id) => Some((id, true, b"PUBREL".to_vec())),
            Outgoing::Expired => None,
        }
    }
}

/// The messages of the only session in a journal.
fn payloads(model: &Model) -> Vec<String> {
    let image = read(model);
    assert_eq!(image.damaged, 0);
    payloads_of(image)
}

fn payloads_of(image: Image) -> Vec<String> {
    let messages = image.sessions.into_values().flat_map(|one| one.messages);
    let payload = |message: KeptMessage| {
        let delivery = message.delivery.unwrap();
        String::from_utf8(delivery.publication.parts().1.to_vec()).unwrap()
    };
    messages.map(payload).collect()
}

/// The retained messages in a journal.
fn retained(image: &Image) -> Vec<(&str, &str)> {
    let all = image.retained.values();
    all.map(|(publication, _)| {
        let payload = std::str::from_utf8(publication.parts().1);
        (publication.topic(), payload.unwrap())
    })
    .collect()
}

fn wait_until(is_so: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "it does not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}
