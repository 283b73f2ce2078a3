"""A foreign client of MQTT 3.1.1 or 5, Eclipse Paho for Python, that plays one scene against a broker on 127.0.0.1.

    .tools/venv/bin/python tests/peers/paho_client.py PORT SCENE [--topic T] [--count N] [--qos Q] [--client-id ID]
        [--mqtt 5] [--expiry S] [--repeats] [--comebacks N]

Prints one line of JSON and exits 0, or says on stderr what was wrong and exits 1. Scenes: see SCENES at the end;
mqttjs_client.mjs has the same ones. `subscribe` prints the line `ready` first, once it is subscribed; `stream` prints
`heard N` every ten messages.
"""

import argparse
import json
import os
import queue
import socket
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

# How long one step may take before the scene has failed, in seconds.
PATIENCE_S = 20


# What connections speak, 3.1.1 unless told otherwise.
PROTOCOL = mqtt.MQTTv311


class Wrong(Exception):
    """The broker did what it should not."""


def expect(actual, wanted, what):
    if actual != wanted:
        raise Wrong(f"{what}: expected {wanted!r}, got {actual!r}")


class Peer:
    """One connection, with what it hears in queues. It comes back only if told to."""

    def __init__(self, port, client_id="", clean=True, will=None, comes_back=False):
        self.messages, self._acks = queue.Queue(), queue.Queue()
        self._connected, self._lost = queue.Queue(), queue.Queue()
        is_5 = PROTOCOL == mqtt.MQTTv5
        self._client = client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if is_5 else clean,
            protocol=PROTOCOL,
            reconnect_on_failure=comes_back,
        )
        client.reconnect_delay_set(min_delay=1, max_delay=1)
        if will:
            client.will_set(*will)
        client.on_connect = lambda _c, _u, flags, reason, _p: self._connected.put((flags.session_present, str(reason)))
        client.on_disconnect = lambda *_args: self._lost.put(True)
        client.on_message = lambda _c, _u, message: self.messages.put(message)
        client.on_subscribe = lambda _c, _u, _mid, reasons, _p: self._acks.put([r.value for r in reasons])
        self.published = queue.Queue()
        client.on_publish = lambda *_args: self.published.put(True)
        client.on_unsubscribe = lambda *_args: self._acks.put("unsubscribed")
        kept = {}
        if is_5:
            expiry = 0 if clean else 60
            kept = {"clean_start": clean, "properties": properties(PacketTypes.CONNECT, SessionExpiryInterval=expiry)}
        client.connect("127.0.0.1", port, keepalive=60, **kept)
        client.loop_start()
        self.session_present, reason = self._connected.get(timeout=PATIENCE_S)
        expect(reason, "Success", "CONNACK")

    def subscribe(self, *filters):
        self._client.subscribe(list(filters))
        expect(self._acks.get(timeout=PATIENCE_S), [qos for _, qos in filters], "granted QoS")

    def subscribe_with(self, topic_filter, options, **named):
        """Subscribes in MQTT 5, with subscription options and properties."""
        self._client.subscribe(topic_filter, options=options, properties=properties(PacketTypes.SUBSCRIBE, **named))
        expect(self._acks.get(timeout=PATIENCE_S), [options.QoS], "granted QoS")

    def publish_with(self, topic, payload, **named):
        """Publishes in MQTT 5, with properties. Returns when the message has its PUBACK."""
        info = self._client.publish(topic, payload, 1, properties=properties(PacketTypes.PUBLISH, **named))
        info.wait_for_publish(PATIENCE_S)

    def unsubscribe(self, topic_filter):
        self._client.unsubscribe(topic_filter)
        expect(self._acks.get(timeout=PATIENCE_S), "unsubscribed", "UNSUBACK")

    def publish(self, topic, payloads, qos, retain=False):
        """Returns when every message has its PUBACK or PUBCOMP."""
        sent = [self._client.publish(topic, payload, qos, retain) for payload in payloads]
        for info in sent:
            info.wait_for_publish(PATIENCE_S)
            expect(info.is_published(), True, f"acknowledgement of message {info.mid}")

    def begin_to_publish(self, topic, payloads, qos):
        """Each goes when it can; what is acknowledged to the end comes into `published`."""
        for payload in payloads:
            self._client.publish(topic, payload, qos)

    def come_back(self, times):
        """Waits until it has connected so often since it was made."""
        for _ in range(times):
            self._connected.get(timeout=PATIENCE_S)

    def receive(self):
        return self.messages.get(timeout=PATIENCE_S)

    def expect_payloads(self, wanted, what):
        expect([self.receive().payload.decode() for _ in wanted], wanted, what)

    def wait_until_lost(self):
        self._lost.get(timeout=PATIENCE_S)

    def close(self):
        """Says DISCONNECT."""
        self._client.disconnect()
        self.wait_until_lost()
        self._client.loop_stop()

    def vanish(self):
        """Goes without DISCONNECT, as a process that is killed does."""
        self._client.socket().shutdown(socket.SHUT_RDWR)
        self.wait_until_lost()


def properties(packet, **named):
    found = Properties(packet)
    for name, value in named.items():
        setattr(found, name, value)
    return found


def numbered(count):
    return [f"message {number}" for number in range(count)]


def publish(a):
    peer = Peer(a.port, a.client_id)
    peer.publish(a.topic, numbered(a.count), a.qos)
    peer.close()
    return {"published": a.count, "qos": a.qos}


def subscribe(a):
    peer = Peer(a.port, a.client_id)
    peer.subscribe((a.topic, a.qos))
    print("ready", flush=True)
    received = [peer.receive() for _ in range(a.count)]
    peer.close()
    return {"received": [{"topic": m.topic, "payload": m.payload.decode(), "qos": m.qos, "retain": m.retain} for m in received]}


def qos(a):
    """Every pair of publish and subscription QoS: the lower one counts, and order is kept."""
    publisher = Peer(a.port)
    for granted in (0, 1, 2):
        subscriber = Peer(a.port)
        topic = f"{a.scratch}/qos/{granted}"
        subscriber.subscribe((topic, granted))
        for published in (0, 1, 2):
            publisher.publish(topic, numbered(a.count), published)
            for wanted in numbered(a.count):
                message = subscriber.receive()
                expect(message.payload.decode(), wanted, f"order at QoS {published} to {granted}")
                expect(message.qos, min(published, granted), f"QoS of a QoS {published} message at a QoS {granted} subscription")
        subscriber.close()
    publisher.close()
    return {"pairs": 9, "messages": 9 * a.count}


def retained(a):
    topic = f"{a.scratch}/retained"
    publisher, early = Peer(a.port), Peer(a.port)
    early.subscribe((topic, 1))
    publisher.publish(topic, ["kept"], 1, retain=True)
    expect(early.receive().retain, False, "retain flag at a subscription that was there before")
    late = Peer(a.port)
    for attempt in ("first", "repeated"):
        late.subscribe((topic, 1))
        message = late.receive()
        expect((message.payload, message.retain), (b"kept", True), f"retained message at the {attempt} SUBSCRIBE")
    publisher.publish(topic, [""], 1, retain=True)
    after = Peer(a.port)
    after.subscribe((topic, 1))
    publisher.publish(topic, ["live"], 1)
    expect(after.receive().payload, b"live", "first message after the retained one was deleted")
    return {"retained": True}


def will(a):
    topic = f"{a.scratch}/will"
    watcher, polite = Peer(a.port), Peer(a.port, will=(topic, "polite", 1))
    watcher.subscribe((topic, 1))
    polite.close()
    Peer(a.port, will=(topic, "vanished", 1)).vanish()
    expect(watcher.receive().payload, b"vanished", "first will heard; a client that says DISCONNECT leaves none")
    return {"will": True}


def session(a):
    topic, client_id = f"{a.scratch}/session", f"session-{os.getpid()}"
    first = Peer(a.port, client_id, clean=False)
    expect(first.session_present, False, "session present at the first connection")
    first.subscribe((topic, 1))
    first.close()
    publisher = Peer(a.port)
    publisher.publish(topic, numbered(a.count), 1)
    again = Peer(a.port, client_id, clean=False)
    expect(again.session_present, True, "session present at the second connection")
    again.expect_payloads(numbered(a.count), "messages that came while the subscriber was away")
    again.close()
    expect(Peer(a.port, client_id, clean=True).session_present, False, "session present after clean session")
    return {"queued": a.count}


def stream(a):
    """Sends and hears a stream at one QoS with kept sessions, whatever happens to the connections meanwhile, and until
    the subscriber has come back so often. Each message comes once and in order; with --repeats, some may come again."""
    subscriber = Peer(a.port, f"hears-{os.getpid()}", clean=False, comes_back=True)
    subscriber.subscribe((a.topic, a.qos))
    publisher = Peer(a.port, f"sends-{os.getpid()}", clean=False, comes_back=True)
    publisher.begin_to_publish(a.topic, numbered(a.count), a.qos)
    heard, wanted, again = [], numbered(a.count), 0
    while len(heard) < a.count:
        payload = subscriber.receive().payload.decode()
        if a.repeats and payload in heard:
            again += 1
            continue
        heard.append(payload)
        if len(heard) % 10 == 0:
            print(f"heard {len(heard)}", flush=True)
    expect(heard, wanted, "messages, in their order")
    for _ in wanted:
        publisher.published.get(timeout=PATIENCE_S)
    subscriber.come_back(a.comebacks)
    publisher.begin_to_publish(a.topic, ["that was all"], a.qos)
    rest = []
    while rest[-1:] != ["that was all"]:
        rest.append(subscriber.receive().payload.decode())
    again += len(rest) - 1
    if not a.repeats:
        expect(again, 0, "messages that came again")
    return {"streamed": a.count, "again": again}


def takeover(a):
    client_id = f"takeover-{os.getpid()}"
    first = Peer(a.port, client_id)
    second = Peer(a.port, client_id)
    first.wait_until_lost()
    topic = f"{a.scratch}/takeover"
    second.subscribe((topic, 1))
    second.publish(topic, ["still here"], 1)
    second.expect_payloads(["still here"], "message to the client that took over")
    return {"takeover": True}


def filters(a):
    """Wildcards match whole levels, and UNSUBSCRIBE ends a subscription."""
    peer, publisher, base = Peer(a.port), Peer(a.port), a.scratch
    peer.subscribe((f"{base}/+/end", 1), (f"{base}/tree/#", 0))
    for level in ("one/end", "one/two/end", "tree", "tree/deep/er", "é/end"):
        publisher.publish(f"{base}/{level}", [level], 1)
    peer.expect_payloads(["one/end", "tree", "tree/deep/er", "é/end"], "messages that match the filters")
    peer.unsubscribe(f"{base}/+/end")
    publisher.publish(f"{base}/one/end", ["gone"], 1)
    publisher.publish(f"{base}/tree/last", ["last"], 1)
    peer.expect_payloads(["last"], "messages after UNSUBSCRIBE")
    return {"filters": True}


def five(a):
    """What only MQTT 5 has: properties, subscription options, expiry, aliases, shared subscriptions."""
    subject = f"{a.scratch}/five"
    peer, reader = Peer(a.port), Peer(a.port)
    named = {"ContentType": "text/plain", "ResponseTopic": "answers", "CorrelationData": b"42"}
    named["UserProperty"] = [("b", "1"), ("a", "2"), ("b", "1")]
    reader.subscribe_with(subject, SubscribeOptions(qos=1), SubscriptionIdentifier=7)
    peer.publish_with(subject, "alias", TopicAlias=1, MessageExpiryInterval=100, PayloadFormatIndicator=1, **named)
    got = reader.receive().properties
    for name, value in named.items():
        expect(getattr(got, name), value, name)
    expect((got.SubscriptionIdentifier, got.PayloadFormatIndicator), ([7], 1), "subscription identifier and format")
    expect(0 < got.MessageExpiryInterval <= 100, True, "time that is left")
    expect(hasattr(got, "TopicAlias"), False, "the publisher's alias at the subscriber")
    peer.subscribe_with(subject, SubscribeOptions(qos=0, noLocal=True))
    peer.publish_with("", "by alias", TopicAlias=1)
    expect(reader.receive().topic, subject, "topic of a message that was sent by alias")
    reader.publish_with(subject, "from another")
    peer.expect_payloads(["from another"], "messages to a subscription with No Local")
    members = [Peer(a.port), Peer(a.port)]
    for member in members:
        member.subscribe(("$share/group/" + subject + "/shared", 1))
    peer.publish(subject + "/shared", numbered(4), 1)
    heard = sorted(member.receive().payload.decode() for member in members * 2)
    expect(heard, numbered(4), "messages to a shared subscription, two for each member")
    return {"five": True}


def annotated(a):
    """Messages with everything that MQTT 5 lets a publisher say, sent under a topic alias."""
    named = {"ContentType": "text/plain", "ResponseTopic": "answers", "CorrelationData": b"\x00\xff"}
    named["UserProperty"] = [("b", "1"), ("a", "2"), ("b", "1")]
    peer = Peer(a.port)
    for payload in numbered(a.count):
        peer.publish_with(a.topic, payload, TopicAlias=1, MessageExpiryInterval=a.expiry, PayloadFormatIndicator=1, **named)
    peer.close()
    return {"annotated": a.count}


SCENES = [publish, subscribe, qos, retained, will, session, takeover, filters, five, annotated, stream]


def main():
    scenes = {scene.__name__: scene for scene in SCENES}
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("scene", choices=scenes)
    parser.add_argument("--topic", default="sensors")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--qos", type=int, default=1)
    parser.add_argument("--client-id", default="")
    parser.add_argument("--expiry", type=int, default=3600)
    parser.add_argument("--repeats", action="store_true")
    parser.add_argument("--comebacks", type=int, default=0)
    parser.add_argument("--mqtt", choices=["3.1.1", "5"], default="3.1.1")
    arguments = parser.parse_args()
    global PROTOCOL
    PROTOCOL = mqtt.MQTTv5 if arguments.mqtt == "5" else mqtt.MQTTv311
    arguments.scratch = f"paho/{os.getpid()}"
    try:
        result = scenes[arguments.scene](arguments)
    except queue.Empty:
        sys.exit(f"{arguments.scene}: the broker was silent for {PATIENCE_S} s")
    except (Wrong, OSError) as error:
        sys.exit(f"{arguments.scene}: {error}")
    print(json.dumps({"scene": arguments.scene, **result}), flush=True)
    os._exit(0)  # connections that a scene left open must not keep the process


main()
