//! Packets as a client writes them, and as a server must: independent of the broker's own codec.

/// What a client is sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet {
    Accepted {
        session_present: bool,
    },
    Refused,
    Publish(Publish),
    Ack {
        kind: Ack,
        id: u16,
        refused: bool,
    },
    SubAck {
        id: u16,
        codes: usize,
    },
    UnsubAck {
        id: u16,
        /// MQTT 3.1.1 has none.
        codes: Option<usize>,
    },
    Pong,
    Goodbye,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Publish {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) duplicate: bool,
    pub(super) id: u16,
}

/// The packets of a packet identifier and a reason, by their first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::enum_variant_names, reason = "the names of the standard")]
pub(super) enum Ack {
    PubAck = 0x40,
    PubRec = 0x50,
    PubRel = 0x62,
    PubComp = 0x70,
}

impl Ack {
    pub(super) const ALL: [Ack; 4] = [Ack::PubAck, Ack::PubRec, Ack::PubRel, Ack::PubComp];
}

pub(super) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first], &*number(body.len()), body].concat()
}

/// A variable byte integer.
pub(super) fn number(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(value % 128).expect("below 128");
        value /= 128;
        bytes.push(low | if value > 0 { 0x80 } else { 0 });
        if value == 0 {
            return bytes;
        }
    }
}

pub(super) fn text(text: &[u8]) -> Vec<u8> {
    let len = u16::try_from(text.len()).expect("it is short");
    [&len.to_be_bytes(), text].concat()
}

/// Properties with their length; nothing in MQTT 3.1.1.
pub(super) fn properties(is_v5: bool, properties: &[u8]) -> Vec<u8> {
    if is_v5 {
        [&*number(properties.len()), properties].concat()
    } else {
        Vec::new()
    }
}

pub(super) fn ack(kind: Ack, id: u16, refusal: Option<u8>) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend(refusal);
    packet(kind as u8, &body)
}

/// The length of the packet that `bytes` begin with, if all of it is there.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let mut remaining = 0;
    for (at, byte) in bytes.iter().enumerate().skip(1) {
        assert!(at <= 4, "a remaining length of five bytes");
        remaining |= usize::from(byte & 0x7F) << (7 * (at - 1));
        if byte & 0x80 == 0 {
            let length = at + 1 + remaining;
            return (length <= bytes.len()).then_some(length);
        }
    }
    None
}

/// Reads one packet from a server; panics unless it is sound to the last flag.
pub(super) fn read(is_v5: bool, bytes: &[u8]) -> Packet {
    let mut reader = Reader(bytes);
    let first = reader.byte();
    assert_eq!(reader.number(), reader.0.len());
    let packet = reader.packet(is_v5, first);
    assert!(reader.0.is_empty(), "bytes after the end of {packet:?}");
    packet
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn packet(&mut self, is_v5: bool, first: u8) -> Packet {
        match first {
            0x20 => {
                let (flags, code) = (self.byte(), self.byte());
                assert!(flags <= 1 && (flags == 0 || code == 0));
                let refusals = if is_v5 { 0x80..=0x9F } else { 1..=5 };
                assert!(code == 0 || refusals.contains(&code), "CONNACK {code}");
                self.properties(is_v5, &[0x12, 0x13, 0x21, 0x22, 0x27]);
                if code > 0 {
                    return Packet::Refused;
                }
                Packet::Accepted {
                    session_present: flags == 1,
                }
            }
            0x30..=0x3F => self.publish(is_v5, first),
            0x40 => self.ack(is_v5, Ack::PubAck),
            0x50 => self.ack(is_v5, Ack::PubRec),
            0x62 => self.ack(is_v5, Ack::PubRel),
            0x70 => self.ack(is_v5, Ack::PubComp),
            0x90 => {
                let id = self.id();
                self.properties(is_v5, &[]);
                let granted = |code: &u8| *code <= 2 || (is_v5 && *code > 0x80) || *code == 0x80;
                let codes = std::mem::take(&mut self.0);
                assert!(!codes.is_empty() && codes.iter().all(granted), "{codes:x?}");
                Packet::SubAck {
                    id,
                    codes: codes.len(),
                }
            }
            0xB0 => {
                let id = self.id();
                self.properties(is_v5, &[]);
                let codes = is_v5.then(|| std::mem::take(&mut self.0).len());
                assert_ne!(codes, Some(0));
                Packet::UnsubAck { id, codes }
            }
            0xD0 => Packet::Pong,
            0xE0 if is_v5 => {
                assert!(self.byte() >= 0x80, "a server leaves for a reason");
                Packet::Goodbye
            }
            _ => panic!("no packet of a server begins with {first:#x}"),
        }
    }

    fn publish(&mut self, is_v5: bool, first: u8) -> Packet {
        let (qos, duplicate) = (first >> 1 & 3, first & 8 != 0);
        assert!(qos < 3 && !(duplicate && qos == 0));
        let topic = self.text();
        assert!(!topic.is_empty() && !topic.contains(['+', '#', '\0']));
        let id = if qos > 0 { self.id() } else { 0 };
        self.properties(is_v5, &[0x01, 0x02, 0x03, 0x08, 0x09, 0x0B, 0x26]);
        Packet::Publish(Publish {
            topic,
            payload: std::mem::take(&mut self.0).to_vec(),
            qos,
            retain: first & 1 != 0,
            duplicate,
            id,
        })
    }

    fn ack(&mut self, is_v5: bool, kind: Ack) -> Packet {
        let id = self.id();
        let reason = if self.0.is_empty() { 0 } else { self.byte() };
        let known: &[u8] = match kind {
            Ack::PubAck | Ack::PubRec => &[0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
            Ack::PubRel | Ack::PubComp => &[0, 0x92],
        };
        assert!(known.contains(&reason) && (is_v5 || reason == 0));
        Packet::Ack {
            kind,
            id,
            refused: reason >= 0x80,
        }
    }

    fn bytes(&mut self, count: usize) -> &[u8] {
        let (bytes, rest) = self.0.split_at_checked(count).expect("it is cut short");
        self.0 = rest;
        bytes
    }

    fn byte(&mut self) -> u8 {
        self.bytes(1)[0]
    }

    fn id(&mut self) -> u16 {
        let id = u16::from(self.byte()) << 8 | u16::from(self.byte());
        assert_ne!(id, 0);
        id
    }

    fn number(&mut self) -> usize {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte();
            value |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return value;
            }
        }
        panic!("a number of five bytes");
    }

    fn text(&mut self) -> String {
        let len = usize::from(self.byte()) << 8 | usize::from(self.byte());
        String::from_utf8(self.bytes(len).to_vec()).expect("text is UTF-8")
    }

    /// Properties, of which these may be there; each once, but for subscription identifiers and user properties.
    fn properties(&mut self, is_v5: bool, allowed: &[u8]) {
        if !is_v5 {
            return;
        }
        let len = self.number();
        let mut inside = Reader(self.bytes(len));
        let mut had = Vec::new();
        while !inside.0.is_empty() {
            let id = inside.byte();
            assert!(allowed.contains(&id), "property {id:#x}");
            assert!(
                !had.contains(&id) || [0x0B, 0x26].contains(&id),
                "{id:#x} twice"
            );
            had.push(id);
            match id {
                0x01 => assert!(inside.byte() <= 1),
                0x02 | 0x27 => assert_eq!(inside.bytes(4).len(), 4),
                0x03 | 0x08 | 0x12 => assert!(inside.text().len() < 256),
                0x09 => {
                    let len = usize::from(inside.byte()) << 8 | usize::from(inside.byte());
                    inside.bytes(len);
                }
                0x0B => assert_ne!(inside.number(), 0),
                0x13 | 0x21 | 0x22 => assert_eq!(inside.bytes(2).len(), 2),
                _ => assert!(inside.text().len() + inside.text().len() < 256),
            }
        }
    }
}
