//! The beginning of a connection: CONNECT and the answer to it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep};

use super::access::Rights;
use super::broker::SessionRequest;
use super::ending::End;
use super::large_packet::LargePacket;
use super::limits::Limits;
use super::link::Link;
use super::memory::Memory;
use super::packet::{self, Connect, Frame, Incoming, Reason, Terms, Version, Will};
use super::server::Shared;
use super::subscriptions::SessionKey;
use super::topic;
use crate::spool::Seq;
use crate::store::Ingress;

/// A client that was let in. Its CONNACK is written first of all, when the journal has what it `awaits`.
pub(super) struct Admitted {
    pub(super) version: Version,
    pub(super) client_id: String,
    pub(super) session: SessionKey,
    pub(super) link: Arc<Link>,
    /// The change of the journal that ended the session the client had before, or made it one that is not kept.
    pub(super) awaits: Option<Seq>,
    pub(super) keep_alive_s: u16,
    /// The largest packet the client takes.
    pub(super) packet_bytes_max: u32,
    /// Whether the session was to end with the connection.
    pub(super) ends_with_connection: bool,
    pub(super) will: Option<Will>,
    /// What the client may do.
    pub(super) rights: Rights,
}

/// Reads CONNECT into `input`, which may hold more afterwards, and opens the session. The CONNACK,
/// whichever it is, is put into `out`.
pub(super) async fn admit<I: Ingress>(
    shared: &Shared<I>,
    (reader, peer): (&mut (impl AsyncRead + Unpin), SocketAddr),
    input: &mut BytesMut,
    out: &mut BytesMut,
) -> Result<Admitted, End> {
    /// Most CONNECT packets are smaller.
    const FIRST_READ_BYTES: usize = 512;
    let mut large_packet = LargePacket::new(&shared.large_packets);
    let size = loop {
        match packet::frame(input, shared.limits.packet_bytes_max)? {
            Frame::Complete(size) => break size,
            Frame::Missing(missing) => {
                if input.len() + missing > shared.limits.buffer_bytes_max {
                    while !large_packet.has_room() {
                        large_packet.turn().await;
                    }
                }
                input.reserve(missing.max(FIRST_READ_BYTES));
            }
        }
        match reader.read_buf(input).await? {
            0 => return Err(End::Closed),
            count => shared.counters.bytes_received.add(count as u64),
        }
    };
    let bytes = input.split_to(size);
    shared.counters.packets_received.add(1);
    if bytes.first() != Some(&packet::CONNECT) {
        return Err(End::Protocol(
            Reason::ProtocolError,
            "its first packet is not CONNECT", // MQTT-3.1.0-1
        ));
    }
    let version = packet::version_of_connect(&bytes);
    let admitted = match packet::parse(version, &bytes) {
        Ok(Incoming::Connect(connect)) => let_in(shared, *connect, peer, out).await,
        Ok(_) => Err(End::Protocol(Reason::ProtocolError, "not a CONNECT")),
        Err(error) => Err(error.into()),
    };
    admitted.inspect_err(|end| {
        if let Some(reason) = end.reason()
            && packet::put_refused(out, version, reason)
        {
            shared.counters.packets_sent.add(1);
        }
    })
}

/// Opens the session that a well-formed CONNECT asks for, if it may be had.
async fn let_in<I: Ingress>(
    shared: &Shared<I>,
    mut connect: Connect,
    peer: SocketAddr,
    out: &mut BytesMut,
) -> Result<Admitted, End> {
    check(&connect, &shared.limits)?;
    let user = authenticate(shared, &mut connect, peer).await?;
    let (version, limits) = (connect.version, &shared.limits);
    let link = Arc::new(Link::default());
    let mut broker = shared.broker();
    let is_nameless = connect.client_id.is_empty();
    let mut client_id = connect.client_id;
    while client_id.is_empty() || (is_nameless && broker.knows(&client_id)) {
        client_id = format!("{GENERATED}{:016x}", fastrand::u64(..));
    }
    let asked_keep_alive_s = connect.keep_alive_s;
    let keep_alive_s = match (version, asked_keep_alive_s) {
        (Version::V5, 0) => limits.keep_alive_s_max,
        (Version::V5, asked) => asked.min(limits.keep_alive_s_max),
        (Version::V4, asked) => asked,
    };
    let rights = shared.access.rights(user.as_deref(), &client_id);
    let memory = broker.memory();
    let will = connect.will.map(|will| will.counted(&memory));
    if let Some(will) = &will {
        check_will(shared, will, (&client_id, &rights), &memory)?;
    }
    // A session that has or wants what its client may not read ends, with all that waits in it: the rights have changed,
    // or the client identifier was another user's.
    let may_read = |topic: &str| rights.may_subscribe(topic);
    let may_resume =
        broker.filters(&client_id).all(may_read) && broker.topics(&client_id).all(may_read);
    let terms = Terms {
        receive_max: limits.unreleased_max,
        packet_bytes_max: u32::try_from(limits.packet_bytes_max).unwrap_or(u32::MAX),
        topic_alias_max: limits.topic_aliases_max,
        keep_alive_s: (keep_alive_s != asked_keep_alive_s).then_some(keep_alive_s),
        client_id: is_nameless.then_some(&client_id),
    };
    let request = SessionRequest {
        client_id: &client_id,
        clean_start: connect.clean_start || !may_resume,
        expiry_s: connect.session_expiry_s,
        receive_max: connect.receive_max,
    };
    let (had_one, before) = (broker.knows(&client_id), broker.changes());
    let connected = broker.connect(request, &link, Instant::now());
    // A kill must not bring back what the client was told has ended. A session that goes on has nothing to wait for.
    let ends_one = had_one && !(connected.session_present && connect.session_expiry_s > 0);
    let awaits = broker.changed_since(before).filter(|_| ends_one);
    drop(broker);
    packet::put_accepted(out, version, connected.session_present, &terms);
    shared.counters.packets_sent.add(1);
    Ok(Admitted {
        version,
        session: connected.session,
        link,
        awaits,
        keep_alive_s,
        packet_bytes_max: connect.packet_bytes_max.unwrap_or(u32::MAX),
        ends_with_connection: connect.session_expiry_s == 0,
        will,
        rights,
        client_id,
    })
}

/// Whether the client may have its will published, and there is room for it.
fn check_will<I>(
    shared: &Shared<I>,
    will: &Will,
    (client_id, rights): (&str, &Rights),
    memory: &Memory,
) -> Result<(), End> {
    let limits = &shared.limits;
    if !rights.may_publish(&will.topic) {
        shared.counters.publishes_denied.add(1);
        let what = "have its will published";
        shared.access.denied(client_id, what, &will.topic);
        return Err(End::NotAllowed);
    }
    if will.bytes() > limits.session_bytes_sure && memory.kept_bytes() > limits.messages_bytes_max {
        return Err(End::Protocol(
            Reason::QuotaExceeded,
            "there is no room for its will: too much is kept for clients",
        ));
    }
    Ok(())
}

/// Whether the client may connect at all, and as which user.
async fn authenticate<I: Ingress>(
    shared: &Shared<I>,
    connect: &mut Connect,
    peer: SocketAddr,
) -> Result<Option<String>, End> {
    let login = connect.login.take();
    // `cloud-relay health` beside a password file has no login, and comes every half minute.
    let is_probe = login.is_none() && connect.client_id.is_empty() && peer.ip().is_loopback();
    let checked = shared.access.check(login).await;
    if let Err(reason) = checked
        && !is_probe
    {
        shared.counters.logins_failed.add(1);
        sleep(shared.access.refused(peer, reason)).await;
    }
    checked.map_err(End::LoginRefused)
}

/// Whether a well-formed CONNECT asks for nothing that cannot be had.
fn check(connect: &Connect, limits: &Limits) -> Result<(), End> {
    /// The largest CONNACK, and so room for every packet that has no list in it.
    const PACKET_BYTES_MIN: u32 = 64;
    let refuse = |reason, why| Err(End::Protocol(reason, why));
    let is_nameless = connect.client_id.is_empty();
    if connect.client_id.len() > limits.client_id_bytes_max
        || (is_nameless && connect.version == Version::V4 && !connect.clean_start)
    {
        return refuse(
            Reason::ClientIdInvalid, // MQTT-3.1.3-8
            "its client identifier is too long, or empty without clean session",
        );
    }
    if connect.authenticates {
        return refuse(
            Reason::BadAuthenticationMethod, // MQTT5-4.12.0-1
            "it asks for an authentication method, and there is none",
        );
    }
    if connect
        .packet_bytes_max
        .is_some_and(|max| max < PACKET_BYTES_MIN)
    {
        return refuse(
            Reason::PacketTooLarge,
            "it takes only packets that are too small for an answer",
        );
    }
    if let Some(will) = &connect.will
        && !topic::is_valid_name(&will.topic, limits)
    {
        return refuse(
            Reason::TopicNameInvalid,
            "its will topic is not a valid topic name",
        );
    }
    Ok(())
}

/// What the client identifiers begin with that the broker gives to clients without one.
pub(super) const GENERATED: &str = "auto-";
