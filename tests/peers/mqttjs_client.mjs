// A foreign client of MQTT 3.1.1 or 5, MQTT.js, that plays one scene against a broker on 127.0.0.1.
//
//   node tests/peers/mqttjs_client.mjs PORT SCENE [--topic T] [--count N] [--qos Q] [--client-id ID]
//       [--mqtt 5] [--over ws] [--user NAME:PASSWORD] [--expiry S]
//       [--repeats] [--comebacks N]
//
// Prints one line of JSON and exits 0, or says on stderr what was wrong and exits 1. Scenes: see SCENES at the end;
// paho_client.py has the same ones. `subscribe` prints the line `ready` first, once it is subscribed; `stream` prints `heard N`
// every ten messages.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createRequire } from 'node:module'
import { parseArgs } from 'node:util'

const mqtt = createRequire(new URL('../../.tools/node/', import.meta.url))('mqtt')

/** How long one step may take before the scene has failed. */
const PATIENCE_MS = 20_000

const { positionals, values: options } = parseArgs({
  allowPositionals: true,
  options: {
    topic: { type: 'string', default: 'sensors' },
    count: { type: 'string', default: '10' },
    qos: { type: 'string', default: '1' },
    'client-id': { type: 'string' },
    mqtt: { type: 'string', default: '3.1.1' },
    over: { type: 'string', default: 'mqtt' },
    user: { type: 'string', default: ':' },
    expiry: { type: 'string', default: '3600' },
    repeats: { type: 'boolean', default: false },
    comebacks: { type: 'string', default: '0' },
  },
})
const port = Number(positionals[0])
const is5 = options.mqtt === '5'
const [username, password] = options.user.split(':').map((part) => part || undefined)
const way = { host: '127.0.0.1', port, protocol: options.over, username, password }
const count = Number(options.count)
const scratch = `mqttjs/${process.pid}`
const numbered = Array.from({ length: count }, (_, number) => `message ${number}`)

/** Waits for `promise`, but not for ever. */
async function soon(promise, what) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing for ${PATIENCE_MS / 1000} s`)), PATIENCE_MS)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

/** One connection, with what it hears in a queue. It comes back only if told to: `reconnectPeriod`. */
class Peer {
  #client
  #messages = []
  #arrived = () => {}
  #comebacks = 0

  static async connect(settings = {}) {
    const peer = new Peer()
    const { properties = {}, ...others } = settings
    if (is5) others.properties = { sessionExpiryInterval: settings.clean === false ? 60 : 0, ...properties }
    const version = is5 ? 5 : 4
    const client = mqtt.connect({ ...way, protocolVersion: version, reconnectPeriod: 0, ...others })
    peer.#client = client
    client.on('message', (_topic, _payload, packet) => {
      peer.#messages.push(packet)
      peer.#arrived()
    })
    peer.lost = new Promise((resolve) => client.once('close', resolve))
    const [connack] = await soon(once(client, 'connect'), 'CONNACK')
    client.on('error', () => {}) // a connection that ends is for `lost` to tell
    peer.sessionPresent = connack.sessionPresent
    client.on('connect', () => (peer.#comebacks += 1))
    return peer
  }

  async subscribe(filter, qos, more = {}) {
    const [granted] = await soon(this.#client.subscribeAsync(filter, { qos, ...more }), 'SUBACK')
    assert.equal(granted.qos, qos, 'granted QoS')
  }

  async unsubscribe(filter) {
    await soon(this.#client.unsubscribeAsync(filter), 'UNSUBACK')
  }

  /** Returns when every message has its PUBACK or PUBCOMP. */
  async publish(topic, payloads, qos, retain = false) {
    const sent = payloads.map((payload) => this.#client.publishAsync(topic, payload, { qos, retain }))
    await soon(Promise.all(sent), `acknowledgements at QoS ${qos}`)
  }

  /** Publishes with properties of MQTT 5. Returns with the PUBACK. */
  async publishWith(topic, payload, properties) {
    return soon(this.#client.publishAsync(topic, payload, { qos: 1, properties }), 'PUBACK')
  }

  async receive() {
    while (this.#messages.length === 0) {
      await soon(new Promise((resolve) => (this.#arrived = resolve)), 'message')
    }
    return this.#messages.shift()
  }

  async expectPayloads(wanted, what) {
    const payloads = []
    for (const _ of wanted) payloads.push((await this.receive()).payload.toString())
    assert.deepEqual(payloads, wanted, what)
  }

  /** Waits until it has connected so often since it was made. */
  async comeBack(times) {
    while (this.#comebacks < times) await soon(once(this.#client, 'connect'), 'connection')
  }

  /** Says DISCONNECT. */
  async close() {
    await soon(this.#client.endAsync(), 'end of the connection')
  }

  /** Goes without DISCONNECT, as a process that is killed does. */
  async vanish() {
    this.#client.stream.destroy()
    await soon(this.lost, 'end of the connection')
  }
}

async function publish() {
  const peer = await Peer.connect({ clientId: options['client-id'] })
  await peer.publish(options.topic, numbered, Number(options.qos))
  await peer.close()
  return { published: count, qos: Number(options.qos) }
}

async function subscribe() {
  const peer = await Peer.connect({ clientId: options['client-id'] })
  await peer.subscribe(options.topic, Number(options.qos))
  console.log('ready')
  const received = []
  while (received.length < count) {
    const { topic, payload, qos, retain } = await peer.receive()
    received.push({ topic, payload: payload.toString(), qos, retain })
  }
  await peer.close()
  return { received }
}

/** Every pair of publish and subscription QoS: the lower one counts, and order is kept. */
async function qos() {
  const publisher = await Peer.connect()
  for (const granted of [0, 1, 2]) {
    const subscriber = await Peer.connect()
    const topic = `${scratch}/qos/${granted}`
    await subscriber.subscribe(topic, granted)
    for (const published of [0, 1, 2]) {
      await publisher.publish(topic, numbered, published)
      for (const wanted of numbered) {
        const message = await subscriber.receive()
        assert.equal(message.payload.toString(), wanted, `order at QoS ${published} to ${granted}`)
        assert.equal(message.qos, Math.min(published, granted), `QoS of a QoS ${published} message to ${granted}`)
      }
    }
    await subscriber.close()
  }
  await publisher.close()
  return { pairs: 9, messages: 9 * count }
}

async function retained() {
  const topic = `${scratch}/retained`
  const [publisher, early] = [await Peer.connect(), await Peer.connect()]
  await early.subscribe(topic, 1)
  await publisher.publish(topic, ['kept'], 1, true)
  assert.equal((await early.receive()).retain, false, 'retain flag at a subscription that was there before')
  const late = await Peer.connect()
  await late.subscribe(topic, 1)
  const message = await late.receive()
  assert.deepEqual([message.payload.toString(), message.retain], ['kept', true], 'retained message')
  await publisher.publish(topic, [''], 1, true)
  const after = await Peer.connect()
  await after.subscribe(topic, 1)
  await publisher.publish(topic, ['live'], 1)
  await after.expectPayloads(['live'], 'first message after the retained one was deleted')
  return { retained: true }
}

async function will() {
  const topic = `${scratch}/will`
  const leaving = (payload) => Peer.connect({ will: { topic, payload, qos: 1, retain: false } })
  const watcher = await Peer.connect()
  await watcher.subscribe(topic, 1)
  await (await leaving('polite')).close()
  await (await leaving('vanished')).vanish()
  await watcher.expectPayloads(['vanished'], 'first will heard; a client that says DISCONNECT leaves none')
  return { will: true }
}

async function session() {
  const [topic, clientId] = [`${scratch}/session`, `session-${process.pid}`]
  const first = await Peer.connect({ clientId, clean: false })
  assert.equal(first.sessionPresent, false, 'session present at the first connection')
  await first.subscribe(topic, 1)
  await first.close()
  const publisher = await Peer.connect()
  await publisher.publish(topic, numbered, 1)
  const again = await Peer.connect({ clientId, clean: false })
  assert.equal(again.sessionPresent, true, 'session present at the second connection')
  await again.expectPayloads(numbered, 'messages that came while the subscriber was away')
  await again.close()
  assert.equal((await Peer.connect({ clientId, clean: true })).sessionPresent, false, 'session after clean session')
  return { queued: count }
}

/**
 * Sends and hears a stream at one QoS with kept sessions, whatever happens to the connections meanwhile, and until the
 * subscriber has come back so often. Each message comes once and in order; with --repeats, some may come again.
 */
async function stream() {
  const keep = (name) => ({ clientId: `${name}-${process.pid}`, clean: false, reconnectPeriod: 200 })
  const subscriber = await Peer.connect(keep('hears'))
  await subscriber.subscribe(options.topic, Number(options.qos))
  const publisher = await Peer.connect(keep('sends'))
  const sent = publisher.publish(options.topic, numbered, Number(options.qos))
  const heard = []
  let again = 0
  while (heard.length < count) {
    const payload = (await subscriber.receive()).payload.toString()
    if (options.repeats && heard.includes(payload)) again += 1
    else if (heard.push(payload) % 10 === 0) console.log(`heard ${heard.length}`)
  }
  assert.deepEqual(heard, numbered, 'messages, in their order')
  await sent
  await subscriber.comeBack(Number(options.comebacks))
  await publisher.publish(options.topic, ['that was all'], Number(options.qos))
  while ((await subscriber.receive()).payload.toString() !== 'that was all') again += 1
  if (!options.repeats) assert.equal(again, 0, 'messages that came again')
  return { streamed: count, again }
}

async function takeover() {
  const clientId = `takeover-${process.pid}`
  const first = await Peer.connect({ clientId })
  const second = await Peer.connect({ clientId })
  await soon(first.lost, 'end of the connection that was taken over')
  const topic = `${scratch}/takeover`
  await second.subscribe(topic, 1)
  await second.publish(topic, ['still here'], 1)
  await second.expectPayloads(['still here'], 'message to the client that took over')
  return { takeover: true }
}

/** Wildcards match whole levels, and UNSUBSCRIBE ends a subscription. */
async function filters() {
  const [peer, publisher] = [await Peer.connect(), await Peer.connect()]
  await peer.subscribe(`${scratch}/+/end`, 1)
  await peer.subscribe(`${scratch}/tree/#`, 0)
  for (const level of ['one/end', 'one/two/end', 'tree', 'tree/deep/er', 'é/end']) {
    await publisher.publish(`${scratch}/${level}`, [level], 1)
  }
  await peer.expectPayloads(['one/end', 'tree', 'tree/deep/er', 'é/end'], 'messages that match the filters')
  await peer.unsubscribe(`${scratch}/+/end`)
  await publisher.publish(`${scratch}/one/end`, ['gone'], 1)
  await publisher.publish(`${scratch}/tree/last`, ['last'], 1)
  await peer.expectPayloads(['last'], 'messages after UNSUBSCRIBE')
  return { filters: true }
}

/** What only MQTT 5 has: properties, subscription options, expiry, aliases, delayed wills, shared subscriptions. */
async function five() {
  const topic = `${scratch}/five`
  const [peer, reader] = [await Peer.connect(), await Peer.connect({ properties: { receiveMaximum: 1 } })]
  await reader.subscribe(topic, 1, { properties: { subscriptionIdentifier: 7 } })
  const named = {
    contentType: 'text/plain',
    responseTopic: 'answers',
    correlationData: Buffer.from('42'),
    userProperties: { b: ['1', '2'], a: '3' },
    payloadFormatIndicator: true,
  }
  await peer.publishWith(topic, 'alias', { ...named, topicAlias: 1, messageExpiryInterval: 100 })
  const { properties } = await reader.receive()
  for (const [name, value] of Object.entries(named)) {
    assert.equal(JSON.stringify(properties[name]), JSON.stringify(value), name)
  }
  assert.deepEqual([properties.subscriptionIdentifier].flat(), [7])
  assert.ok(properties.messageExpiryInterval > 0 && properties.messageExpiryInterval <= 100, 'time that is left')
  await peer.subscribe(topic, 0, { nl: true })
  await peer.publishWith('', 'by alias', { topicAlias: 1 })
  assert.equal((await reader.receive()).topic, topic, 'topic of a message that was sent by alias')
  await reader.publishWith(topic, 'from another')
  await peer.expectPayloads(['from another'], 'messages to a subscription with No Local')
  const members = [await Peer.connect(), await Peer.connect()]
  for (const member of members) await member.subscribe(`$share/group/${topic}/shared`, 1)
  await peer.publish(`${topic}/shared`, ['1', '2', '3', '4'], 1)
  const heard = []
  for (const member of [...members, ...members]) heard.push((await member.receive()).payload.toString())
  assert.deepEqual(heard.sort(), ['1', '2', '3', '4'], 'messages to a shared subscription, two for each member')
  const will = { topic: `${topic}/will`, payload: 'died', qos: 1, retain: false, properties: { willDelayInterval: 1 } }
  await reader.subscribe(will.topic, 1)
  await (await Peer.connect({ will, clean: false, clientId: `five-${process.pid}` })).vanish()
  await reader.receive() // what it said itself
  await reader.expectPayloads(['died'], 'a delayed will')
  return { five: true }
}

/** Messages with everything that MQTT 5 lets a publisher say, sent under a topic alias. */
async function annotated() {
  const peer = await Peer.connect()
  const properties = {
    contentType: 'text/plain',
    responseTopic: 'answers',
    correlationData: Buffer.from([0, 255]),
    userProperties: { b: ['1', '1'], a: '2' },
    payloadFormatIndicator: true,
    topicAlias: 1,
    messageExpiryInterval: Number(options.expiry),
  }
  for (const payload of numbered) await peer.publishWith(options.topic, payload, properties)
  return { annotated: count }
}

const SCENES = { publish, subscribe, qos, retained, will, session, takeover, filters, five, annotated, stream }

const scene = positionals[1]
try {
  assert.ok(Number.isInteger(port) && scene in SCENES, `usage: PORT ${Object.keys(SCENES).join('|')}`)
  process.stdout.write(`${JSON.stringify({ scene, ...(await SCENES[scene]()) })}\n`, () => process.exit(0))
} catch (error) {
  console.error(`${scene}: ${error.message}`)
  process.exit(1)
}
