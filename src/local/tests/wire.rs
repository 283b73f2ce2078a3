//! Packets as a client writes them, independent of the broker's own codec.

pub(super) const PINGREQ: [u8; 2] = [0xC0, 0];
pub(super) const PINGRESP: [u8; 2] = [0xD0, 0];
pub(super) const DISCONNECT: [u8; 2] = [0xE0, 0];

#[derive(Clone, Copy)]
pub(super) struct Connect<'a> {
    pub(super) id: &'a str,
    pub(super) clean: bool,
    pub(super) keep_alive_s: u16,
    /// Topic, payload, `QoS`, retain.
    pub(super) will: Option<(&'a str, &'a str, u8, bool)>,
}

impl<'a> Connect<'a> {
    pub(super) fn clean(id: &'a str) -> Self {
        Connect {
            id,
            clean: true,
            keep_alive_s: 0,
            will: None,
        }
    }

    pub(super) fn persistent(id: &'a str) -> Self {
        Connect {
            clean: false,
            ..Connect::clean(id)
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.bytes_as("MQTT", 4)
    }

    pub(super) fn bytes_as(&self, name: &str, level: u8) -> Vec<u8> {
        let mut flags = u8::from(self.clean) << 1;
        if let Some((_, _, qos, retain)) = self.will {
            flags |= 0x04 | qos << 3 | u8::from(retain) << 5;
        }
        let mut body = string(name);
        body.extend([level, flags]);
        body.extend(self.keep_alive_s.to_be_bytes());
        body.extend(string(self.id));
        if let Some((topic, payload, ..)) = self.will {
            body.extend(string(topic));
            body.extend(string(payload));
        }
        packet(0x10, &body)
    }
}

pub(super) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = body.len();
    loop {
        let more = if length > 127 { 0x80 } else { 0 };
        packet.push(u8::try_from(length % 128).unwrap() | more);
        length /= 128;
        if length == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

fn string(string: &str) -> Vec<u8> {
    let mut bytes = u16::try_from(string.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(string.as_bytes());
    bytes
}

pub(super) const DUP: u8 = 0x08;
pub(super) const RETAIN: u8 = 0x01;

/// A PUBLISH; `id` is left out for `QoS` 0.
pub(super) fn publish(topic: &str, payload: &str, qos: u8, id: u16) -> Vec<u8> {
    publish_with(0, topic, payload, qos, id)
}

pub(super) fn publish_with(flags: u8, topic: &str, payload: &str, qos: u8, id: u16) -> Vec<u8> {
    let mut body = string(topic);
    if qos > 0 {
        body.extend(id.to_be_bytes());
    }
    body.extend(payload.as_bytes());
    packet(0x30 | flags | qos << 1, &body)
}

pub(super) fn subscribe(id: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    for (filter, qos) in filters {
        body.extend(string(filter));
        body.push(*qos);
    }
    packet(0x82, &body)
}

pub(super) fn unsubscribe(id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    for filter in filters {
        body.extend(string(filter));
    }
    packet(0xA2, &body)
}

fn only_id(first: u8, id: u16) -> Vec<u8> {
    packet(first, &id.to_be_bytes())
}

pub(super) fn puback(id: u16) -> Vec<u8> {
    only_id(0x40, id)
}

pub(super) fn pubrec(id: u16) -> Vec<u8> {
    only_id(0x50, id)
}

pub(super) fn pubrel(id: u16) -> Vec<u8> {
    only_id(0x62, id)
}

pub(super) fn pubcomp(id: u16) -> Vec<u8> {
    only_id(0x70, id)
}

pub(super) fn unsuback(id: u16) -> Vec<u8> {
    only_id(0xB0, id)
}
