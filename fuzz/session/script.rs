//! The script: which bytes are which step, and what a client sends for it.

use std::time::Duration;

use super::client::Reading;
use super::memory::Published;
use super::wire::{self, Ack};
use super::{CLIENTS, Journal, ROUTED_TOPIC, SLOTS, WITNESS, World};

/// Steps of one script, at most.
const STEPS_MAX: usize = 150;

pub(super) const TOPICS: [&[u8]; 8] = [
    b"a",
    b"a/b",
    ROUTED_TOPIC.as_bytes(),
    b"b/\xC3\xA9",
    b"/",
    b"$SYS/x",
    b"cloud-relay/state",
    b"a/#",
];
/// Those of them that go to whoever subscribes to everything.
const LOCAL: &[&[u8]] = TOPICS.split_at(5).0;
const FILTERS: [&[u8]; 14] = [
    b"#",
    b"a",
    b"a/#",
    b"+/b",
    b"+",
    b"a/c",
    b"$SYS/#",
    b"$share/g/#",
    b"$share/g/a/+",
    b"$share/h/a",
    b"cloud-relay/state",
    b"$share/g/$SYS/#",
    b"a#",
    b"$share//a",
];
const EXPIRIES_S: [u32; 4] = [0, 3, 60, u32::MAX];
/// How long time passes.
const WAITS_MS: [u64; 6] = [1, 900, 2_000, 12_000, 31_000, 70_000];

struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// Carries out a script. After a step with the highest bit, the next one comes at once.
pub(super) async fn play(world: &mut World, input: &[u8]) {
    let mut script = Script(input);
    for _ in 0..STEPS_MAX {
        if script.0.is_empty() {
            return;
        }
        let step = script.byte();
        let slot = usize::from(step >> 5 & 3) % SLOTS;
        match step & 0x1F {
            0..=2 => connect(world, slot, &mut script),
            3..=6 => subscribe(world, slot, &mut script),
            7 => unsubscribe(world, slot, &mut script),
            8..=14 => publish(world, slot, &mut script),
            15 => repeat(world, slot),
            16..=17 => release(world, slot, &mut script),
            18..=21 => acknowledge(world, slot, &mut script),
            22 => acknowledge_wrongly(world, slot, &mut script),
            23 => disconnect(world, slot, &mut script),
            24 => world.lose(slot),
            25 => {
                let wait = script.one(&WAITS_MS);
                world.wait(Duration::from_millis(wait)).await;
            }
            26 => raw(world, slot, &mut script),
            27 => world.spool.sync(u64::from(script.byte())),
            28 => world.spool.set_full(script.byte() % 4 == 0),
            29 => match script.byte() % 4 {
                0 => world.fail_journal(),
                1 => world.journal = Journal::Slow,
                2 => world.journal = Journal::Quick,
                _ => {
                    world.bench().sync_journal();
                }
            },
            30 => match script.byte() % 4 {
                0 => world.restart().await,
                1 => world.call_witness().await,
                _ => ping(world, slot),
            },
            _ => stall(world, slot),
        }
        if step & 0x80 == 0 {
            world.settle().await;
        }
    }
}

fn connect(world: &mut World, slot: usize, script: &mut Script<'_>) {
    let [who, flags, more, will] = [(); 4].map(|()| script.byte());
    let is_v5 = flags & 1 != 0;
    let client = usize::from(who) % (WITNESS + 1);
    let client = (client < WITNESS).then_some(client);
    let id = client.map_or("", |client| CLIENTS[client]);
    let mut connect_flags = flags & 0b10; // clean start
    if will & 1 != 0 {
        connect_flags |= 0x04 | ((will >> 1 & 3) % 3) << 3 | (will >> 3 & 1) << 5;
    }
    let level = if is_v5 { 5 } else { 4 };
    let mut body = wire::text(b"MQTT");
    body.extend([level, connect_flags]);
    let keep_alive_s = if more & 0xC0 == 0xC0 { 10_u16 } else { 0 };
    body.extend(keep_alive_s.to_be_bytes());
    let receive_max = [u16::MAX, 1, 2, 5][usize::from(more & 3)];
    let packet_bytes_max = [None, None, Some(64_u32), Some(90)][usize::from(more >> 2 & 3)];
    let mut properties = Vec::new();
    properties.push(0x11);
    let mut expiry_s = EXPIRIES_S[usize::from(flags >> 2 & 3)];
    if client.is_none() {
        expiry_s = expiry_s.min(60); // nobody could come back to end it
    }
    properties.extend(expiry_s.to_be_bytes());
    properties.push(0x21);
    properties.extend(receive_max.to_be_bytes());
    if let Some(bytes) = packet_bytes_max {
        properties.push(0x27);
        properties.extend(bytes.to_be_bytes());
    }
    body.extend(wire::properties(is_v5, &properties));
    body.extend(wire::text(id.as_bytes()));
    if will & 1 != 0 {
        let delay_s = [0_u32, 2, 30, 80][usize::from(will >> 6)];
        let delay = [&[0x18][..], &delay_s.to_be_bytes()].concat();
        body.extend(wire::properties(is_v5, &delay));
        body.extend(wire::text(TOPICS[usize::from(will >> 4 & 3)]));
        world.messages += 1;
        body.extend(wire::text(format!("will {}", world.messages).as_bytes()));
    }
    let connection = world.open(slot, client, is_v5);
    if is_v5 {
        connection.receive_max = receive_max.into();
        connection.packet_bytes_max = packet_bytes_max.map_or(usize::MAX, |max| max as usize);
    }
    connection.send(&wire::packet(0x10, &body));
}

fn subscribe(world: &mut World, slot: usize, script: &mut Script<'_>) {
    let Some((connection, mut memory)) = world.client(slot) else {
        return;
    };
    let is_v5 = connection.is_v5;
    let how = script.byte();
    let mut properties = Vec::new();
    if how & 0x0C != 0 {
        properties = [&[0x0B][..], &wire::number(usize::from(how >> 2 & 3) * 100)].concat();
    }
    let id = connection.free_id(u16::from(how >> 4) + 1);
    let mut body = id.to_be_bytes().to_vec();
    body.extend(wire::properties(is_v5, &properties));
    let count = usize::from(how % 3) + 1;
    for _ in 0..count {
        let (filter, options) = (script.one(&FILTERS), script.byte());
        let qos = options % 3;
        // No local makes no sense in a group, and closes the connection.
        let no_local = if filter.starts_with(b"$share") && options & 0xC0 != 0xC0 {
            0
        } else {
            options & 4
        };
        let retained = (options >> 4 & 3).min(2) << 4;
        let options = if is_v5 {
            qos | no_local | options & 8 | retained
        } else {
            qos
        };
        body.extend(wire::text(filter));
        body.push(options);
        connection.may_receive(filter, memory.as_deref_mut());
    }
    connection.send(&wire::packet(0x82, &body));
    connection.expect_codes(true, id, count);
}

fn unsubscribe(world: &mut World, slot: usize, script: &mut Script<'_>) {
    let Some((connection, _)) = world.client(slot) else {
        return;
    };
    let filter = script.one(&FILTERS);
    let id = connection.free_id(7);
    let mut body = id.to_be_bytes().to_vec();
    body.extend(wire::properties(connection.is_v5, &[]));
    body.extend(wire::text(filter));
    connection.send(&wire::packet(0xA2, &body));
    connection.expect_codes(false, id, 1);
}

fn publish(world: &mut World, slot: usize, script: &mut Script<'_>) {
    let (how, what) = (script.byte(), script.byte());
    world.messages += 1;
    let (number, has_witness) = (world.messages, world.has_witness());
    let Some((connection, memory)) = world.client(slot) else {
        return;
    };
    let is_v5 = connection.is_v5;
    let topic = TOPICS[usize::from(how % 8)];
    let (qos, retain) = ((how >> 3 & 3) % 3, how >> 5 & 1);
    let mut payload = format!("{number}").into_bytes();
    match what & 3 {
        0 if topic != ROUTED_TOPIC.as_bytes() => payload.clear(),
        1 => payload.resize(usize::from(what).max(payload.len()), b'x'),
        _ => {}
    }
    // 1 and 2 may be set and used, 3 may not; a topic may be left out where there is an alias.
    let alias = if is_v5 { how >> 6 & 3 } else { 0 };
    let by_alias = alias != 0 && what & 0x40 != 0;
    if by_alias && memory.is_some() {
        // Which topic it is then is not known here.
        payload.insert(0, b'?');
    }
    let mut body = wire::text(if by_alias { b"" } else { topic });
    let mut id = 0;
    if qos > 0 {
        id = connection.unused_id(memory.as_deref());
        body.extend(id.to_be_bytes());
    }
    body.extend(wire::properties(is_v5, &of_message(what, alias)));
    body.extend(&payload);
    let packet = wire::packet(0x30 | qos << 1 | retain, &body);
    connection.send(&packet);
    let is_known = !by_alias && !payload.is_empty();
    let is_plain = what & 4 == 0 && LOCAL.contains(&topic) && !connection.is_wild;
    let message = Published {
        payload,
        is_routed: is_known && topic == ROUTED_TOPIC.as_bytes(),
        is_for_all: is_known && is_plain && has_witness,
    };
    match (qos, memory) {
        (0, _) => {}
        (1, _) => connection.expect(Ack::PubAck, id, message),
        (_, Some(memory)) if connection.accepted.is_some() => {
            memory
                .unreleased
                .insert(id, (packet, is_v5, message.clone()));
            connection.expect(Ack::PubRec, id, message);
        }
        _ => {
            connection.early.push(id);
            connection.expect(Ack::PubRec, id, message);
        }
    }
}

/// The properties of a PUBLISH.
fn of_message(what: u8, alias: u8) -> Vec<u8> {
    let mut properties = Vec::new();
    if what & 4 != 0 {
        properties.push(0x02);
        properties.extend([0_u32, 1, 5, u32::MAX][usize::from(what >> 3 & 3)].to_be_bytes());
    }
    if what & 0x80 != 0 {
        properties.extend(b"\x26\0\x01n\0\x01v");
    }
    if alias != 0 {
        properties.extend([0x23, 0, alias]);
    }
    properties
}

/// A PUBLISH of `QoS` 2 that was not released, again.
fn repeat(world: &mut World, slot: usize) {
    if let Some((connection, Some(memory))) = world.client(slot)
        && connection.accepted.is_some()
        && memory.connection == connection.number
        && let Some((id, (packet, is_v5, message))) = memory.unreleased.first_key_value()
        && *is_v5 == connection.is_v5
    {
        let mut packet = packet.clone();
        packet[0] |= 8;
        connection.send(&packet);
        connection.expect(Ack::PubRec, *id, message.clone());
    }
}

/// PUBREL, for what was published or for nothing.
fn release(world: &mut World, slot: usize, script: &mut Script<'_>) {
    let Some((connection, memory)) = world.client(slot) else {
        return;
    };
    let id = u16::from(script.byte());
    let mut memory = memory.filter(|memory| memory.connection == connection.number);
    let first = memory
        .as_ref()
        .and_then(|memory| memory.unreleased.keys().next());
    let id = if id > 0 && id < 16 {
        id
    } else {
        first.copied().unwrap_or(1)
    };
    let released = memory.as_mut().and_then(|memory| memory.release(id));
    let message = released.unwrap_or_default();
    connection.send(&wire::ack(Ack::PubRel, id, None));
    connection.expect(Ack::PubComp, id, message);
}

/// Acknowledges something that was received as it has to be.
fn acknowledge(world: &mut World, slot: usize, script: &mut Script<'_>) {
    let Some((connection, memory)) = world.client(slot) else {
        return;
    };
    let how = script.byte();
    if let Some((kind, id)) = connection.next_ack(how & 1 != 0) {
        let refused = connection.is_v5 && kind == Ack::PubRec && how & 0xF0 == 0xF0;
        connection.send(&wire::ack(kind, id, refused.then_some(0x80)));
        connection.has_acknowledged((kind, id, refused), memory);
    }
}

fn acknowledge_wrongly(world: &mut World, slot: usize, script: &mut Script<'_>) {
    let Some((connection, memory)) = world.client(slot) else {
        return;
    };
    let kind = Ack::ALL[script.below(4)];
    let id = u16::from(script.byte()).max(1);
    if kind != Ack::PubRel {
        connection.send(&wire::ack(kind, id, None));
        connection.has_acknowledged((kind, id, false), memory);
    }
}

fn disconnect(world: &mut World, slot: usize, script: &mut Script<'_>) {
    let Some((connection, _)) = world.client(slot) else {
        return;
    };
    let how = script.byte();
    if connection.is_v5 && how & 1 != 0 {
        let mut body = vec![if how & 2 != 0 { 4 } else { 0 }];
        let mut expiry_s = EXPIRIES_S[usize::from(how >> 2 & 3)];
        if connection.client.is_none() {
            expiry_s = expiry_s.min(60); // as above
        }
        let expiry = [&[0x11][..], &expiry_s.to_be_bytes()].concat();
        body.extend(wire::properties(true, &expiry));
        connection.send(&wire::packet(0xE0, &body));
    } else {
        connection.send(&[0xE0, 0]);
    }
}

fn ping(world: &mut World, slot: usize) {
    if let Some((connection, _)) = world.client(slot) {
        connection.send(&[0xC0, 0]);
        connection.expect_pong();
    }
}

/// The client reads no more, or again.
fn stall(world: &mut World, slot: usize) {
    if let Some((connection, _)) = world.client(slot) {
        match connection.reading {
            Reading::No => connection.reads_again(),
            Reading::Always | Reading::Again => connection.reading = Reading::No,
        }
    }
}

/// Bytes of the script itself; as the first bytes of a connection if there is none.
fn raw(world: &mut World, slot: usize, script: &mut Script<'_>) {
    let len = usize::from(script.byte());
    let bytes = script.bytes(len);
    if world.client(slot).is_none() {
        world.open(slot, None, false);
        world.is_wild = true;
        for memory in &mut world.memories {
            memory.is_wild = true; // for it may call itself anything
        }
    }
    world.spool.may_repeat();
    if let Some((connection, memory)) = world.client(slot) {
        connection.is_wild = true;
        connection.send(bytes);
        if let Some(memory) = memory {
            memory.is_wild = true;
        }
    }
}
