//! Packets of MQTT 3.1.1 as bare bytes, for clients that are simpler, or worse, than a publisher.

/// Connect flags (MQTT 3.1.2.3).
pub(crate) const CLEAN: u8 = 2;
pub(crate) const WILL: u8 = 4;

/// CONNECT of MQTT 3.1.1 without keep alive. `will` is its topic and message, if the flags say so.
pub(crate) fn connect(client_id: &str, flags: u8, will: &[u8]) -> Vec<u8> {
    let mut body = text("MQTT");
    body.extend([4, flags, 0, 0]);
    body.extend(text(client_id));
    body.extend(will);
    packet(0x10, &body)
}

/// SUBSCRIBE at `QoS` `qos`, with packet identifier 1.
pub(crate) fn subscribe(qos: u8, filters: impl IntoIterator<Item = String>) -> Vec<u8> {
    let mut body = vec![0, 1];
    for filter in filters {
        body.extend(text(&filter));
        body.push(qos);
    }
    packet(0x82, &body)
}

/// A string with its length.
pub(crate) fn text(text: &str) -> Vec<u8> {
    binary(text.as_bytes())
}

/// The same of any bytes.
pub(crate) fn binary(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&len, bytes].concat()
}

/// A packet by its first byte, and what follows its length.
pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let (mut packet, mut len) = (vec![first], body.len());
    loop {
        let more = u8::from(len >= 128) << 7;
        let low = u8::try_from(len % 128).expect("invariant: a remainder of 128 fits a byte");
        packet.push(low | more);
        len /= 128;
        if len == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}
