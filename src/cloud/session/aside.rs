//! What a session does besides relaying, all of it optional: its errands, and what the cloud sends to the device.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{Link, LostReason};
use crate::attributes::Attributes;
use crate::clock;
use crate::cloud::Extras;
use crate::cloud::connect::KEEP_ALIVE_S;
use crate::cloud::downlink::Downlink;
use crate::cloud::errands::{Errand, Errands};
use crate::cloud::packet::{self, Greeting, Incoming, Publish};
use crate::cloud::status::{self, Status};
use crate::routes::Routes;

/// How long the cloud keeps subscriptions and messages while we are away, in seconds: for a short outage or an update.
/// It is AWS IoT Core's default; a command that is older should not surprise anybody.
const SESSION_EXPIRY_S: u32 = 3_600;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::cloud) struct Aside {
    pub(in crate::cloud) errands: Errands,
    downlink: Option<Downlink>,
    status_topic: Option<String>,
}

impl Aside {
    pub(in crate::cloud) fn new(extras: &Extras) -> Self {
        let filters = extras.subscriptions.iter().flat_map(Routes::as_slice);
        let filters: Vec<String> = filters.map(|route| route.filter().to_owned()).collect();
        let publisher = extras.publisher.clone();
        let subscriptions = extras.subscriptions.clone();
        Aside {
            errands: Errands::new(extras.status_topic.is_some(), &filters),
            downlink: subscriptions.map(|routes| Downlink::new(routes, publisher)),
            status_topic: extras.status_topic.clone(),
        }
    }

    /// What the next CONNECT says. Only who subscribes keeps a session: redelivery of what we send is the spool's.
    pub(in crate::cloud) fn greeting<'a>(&self, client_id: &'a str, now: Instant) -> Greeting<'a> {
        let topic = self.status_topic.as_deref();
        let topic = topic.filter(|_| self.errands.wants_will(now));
        Greeting {
            client_id,
            keep_alive_s: KEEP_ALIVE_S,
            session_expiry_s: if self.downlink.is_some() {
                SESSION_EXPIRY_S
            } else {
                0
            },
            will: topic.map(status::will),
        }
    }
}

/// What the cloud sends to the device.
impl Aside {
    /// Resolves when [`Link::acknowledge_messages`] may have something to do.
    pub(super) async fn kept(&mut self) {
        match &mut self.downlink {
            Some(downlink) => downlink.kept().await,
            None => std::future::pending().await,
        }
    }

    /// Whether a message is not acknowledged.
    pub(super) fn owes(&self) -> bool {
        self.downlink.as_ref().is_some_and(Downlink::owes)
    }

    /// Whether so many are not that no more should come.
    pub(super) fn is_congested(&self) -> bool {
        self.downlink.as_ref().is_some_and(Downlink::is_congested)
    }

    /// A connection begins: the cloud sends again what the last one did not acknowledge.
    pub(super) fn forget_owed(&mut self) {
        if let Some(downlink) = &mut self.downlink {
            downlink.forget_owed();
        }
    }
}

impl<S: AsyncRead + AsyncWrite> Link<'_, S> {
    /// Writes the next errand's packet, if one is due and nothing is in flight.
    pub(super) fn run_errand(&mut self, now: Instant) -> Result<(), LostReason> {
        if !self.window.is_empty() {
            return Ok(());
        }
        if self.session.aside.errands.need_will(now) {
            return Err(LostReason::WillNeeded);
        }
        match self.session.aside.errands.next(now) {
            None => return Ok(()),
            Some((Errand::Subscribe(filters), packet_id)) => {
                packet::write_subscribe(self.version, &mut self.unsent, packet_id, filters)?;
            }
            Some((Errand::SayOnline, packet_id)) => self.say(Status::Online, packet_id),
        }
        self.last_sent = now;
        Ok(())
    }

    /// Says that the device stops, which the will says only of a connection that is lost. Returns whether it did.
    pub(super) fn say_stopped(&mut self, now: Instant) -> bool {
        let says = self.session.aside.errands.stop(now);
        if let Some(packet_id) = says {
            self.say(Status::Stopped, packet_id);
        }
        says.is_some()
    }

    fn say(&mut self, status: Status, packet_id: u16) {
        let Some(topic) = &self.session.aside.status_topic else {
            return;
        };
        Publish {
            topic,
            payload: &status.payload(clock::now()),
            attributes: Attributes::default(),
            expiry_s: None,
            packet_id,
            dup: false,
        }
        .write_retained(self.version, &mut self.unsent);
    }

    /// Hands a message from the cloud to the local clients, and acknowledges it as soon as they have it for good; one
    /// without a way too, for it would come again for ever. `None` if none were subscribed to.
    pub(super) fn take_message(&mut self, incoming: &Incoming) -> Option<()> {
        self.session.aside.downlink.as_mut()?.deliver(incoming);
        self.acknowledge_messages();
        Some(())
    }

    /// Writes the acknowledgements that may be sent.
    pub(super) fn acknowledge_messages(&mut self) {
        let Some(downlink) = &mut self.session.aside.downlink else {
            return;
        };
        while let Some(packet_id) = downlink.due() {
            packet::write_puback(&mut self.unsent, packet_id);
            self.last_sent = Instant::now();
        }
    }
}
