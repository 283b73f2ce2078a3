//! The beginning of a connection: CONNECT and the answer to it.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::connection::End;
use super::packet::{self, ConnectReturn, Frame, Incoming, PacketError, Will};
use super::server::Shared;
use super::session::Link;
use super::subscriptions::SessionKey;
use super::topic;
use crate::store::Ingress;

/// A client that was let in. Its CONNACK is written first of all.
pub(super) struct Admitted {
    pub(super) client_id: String,
    pub(super) session: SessionKey,
    pub(super) link: Arc<Link>,
    pub(super) keep_alive_s: u16,
    pub(super) will: Option<Will>,
}

/// Reads CONNECT into `input`, which may hold more afterwards, and opens the session. The CONNACK,
/// whichever it is, is put into `out`.
pub(super) async fn admit<I: Ingress>(
    shared: &Shared<I>,
    reader: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
    out: &mut BytesMut,
) -> Result<Admitted, End> {
    /// Most CONNECT packets are smaller.
    const FIRST_READ_BYTES: usize = 512;
    let size = loop {
        match packet::frame(input, shared.limits.packet_bytes_max)? {
            Frame::Complete(size) => break size,
            Frame::Missing(missing) => input.reserve(missing.max(FIRST_READ_BYTES)),
        }
        if reader.read_buf(input).await? == 0 {
            return Err(End::Closed);
        }
    };
    let bytes = input.split_to(size);
    let Incoming::Connect(connect) = packet::parse(&bytes).inspect_err(|error| {
        if matches!(error, PacketError::UnsupportedLevel(_)) {
            packet::put_connack(out, ConnectReturn::UnacceptableProtocolVersion);
        }
    })?
    else {
        return Err(End::Protocol("its first packet is not CONNECT")); // MQTT-3.1.0-1
    };
    let limits = &shared.limits;
    if connect.client_id.len() > limits.client_id_bytes_max
        || (connect.client_id.is_empty() && !connect.clean_session)
    {
        packet::put_connack(out, ConnectReturn::IdentifierRejected); // MQTT-3.1.3-8
        return Err(End::Protocol(
            "its client identifier is too long, or empty without clean session",
        ));
    }
    if connect
        .will
        .as_ref()
        .is_some_and(|will| !topic::is_valid_name(&will.topic, limits))
    {
        return Err(End::Protocol("its will topic is not a valid topic name"));
    }
    let link = Arc::new(Link::default());
    let mut broker = shared.broker();
    let mut client_id = connect.client_id;
    while client_id.is_empty() || (client_id.starts_with(GENERATED) && broker.knows(&client_id)) {
        client_id = format!("{GENERATED}{:016x}", fastrand::u64(..));
    }
    let connected = broker.connect(&client_id, connect.clean_session, &link);
    drop(broker);
    let session_present = connected.session_present;
    packet::put_connack(out, ConnectReturn::Accepted { session_present });
    Ok(Admitted {
        client_id,
        session: connected.session,
        link,
        keep_alive_s: connect.keep_alive_s,
        will: connect.will,
    })
}

/// What the client identifiers begin with that the broker gives to clients without one.
const GENERATED: &str = "auto-";
