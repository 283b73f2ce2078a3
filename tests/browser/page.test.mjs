// The page alone, with an hour that was made up: is it readable for everyone, in every light and size?
// With SCREENSHOTS=1 it renews the pictures in assets/ that the README shows.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import test from 'node:test'
import { fileURLToPath } from 'node:url'

import { launch, require, root, watch } from './browser.mjs'

const HTML = readFileSync(new URL('src/status/page.html', root), 'utf8')
const AXE = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8')
const ORIGIN = 'http://relay.test/'
const SIZES = { phone: { width: 390, height: 844 }, desktop: { width: 1180, height: 900 } }

/** An hour with an outage of twelve minutes, half an hour ago, and a backlog that has drained since. */
function hour() {
  const steps = [...Array(360).keys()]
  const wave = (n) => Math.round(80 + 25 * Math.sin(n / 23) + 12 * Math.sin(n / 3.1))
  const accepted = steps.map(wave)
  let waiting = 0
  const spooled = []
  const delivered = accepted.map((count, n) => {
    const sent = n >= 170 && n < 242 ? 0 : Math.min(waiting + count, 190)
    waiting += count - sent
    spooled.push(waiting)
    return sent
  })
  return { step_s: 10, accepted, delivered, spooled }
}

const SNAPSHOT = {
  version: '0.1.0',
  taken_unix_ms: 1_795_421_109_000,
  uptime_s: 266_400,
  health: { ok: true, state: 'connected', since_s: 1_180, reason: 'messages go to the cloud', remedy: null },
  setup: {
    device: '0c57d3e8a9f14b6d8e7f6a5b4c3d2e1f', broker: '127.0.0.1:1883', route: 'sensors => sensors', provider: 'AWS',
    cloud: 'xxxxxxxx-ats.iot.eu-west-1.amazonaws.com:8883 roots=built-in', certificate_expires_unix_s: 2_524_607_999,
  },
  ledger: { accepted: 1_904_311, delivered: 1_904_296, dead_lettered: 0, dropped_full: 0, dropped_damaged: 0, dropped_expired: 0, spooled: 15 },
  spool: { used_bytes: 2_310_144, limit_bytes: 268_435_456, when_full: 'block' },
  flow: { accepted_per_s: 8.4, delivered_per_s: 8.4, drained_after_s: null },
  local: {
    clients: 3, messages_received: 1_904_311, messages_sent: 0, connections_refused: 0, dropped: [],
    list: ['boiler', 'meter-2', 'weather'].map((id, n) => ({ id, peer: `127.0.0.1:${51_204 + 7 * n}`, connected_s: 266_390 - 70_000 * n })),
  },
  cloud: { connected: true, connections: 4, connections_lost: 3 },
  process: { memory_bytes: 9_437_184, written_bytes: 48_300_032, written_bytes_a_day: 15_664_875 },
  problems: [{
    text: 'disconnected: cannot reach xxxxxxxx-ats.iot.eu-west-1.amazonaws.com on port 8883: no route to host',
    is_error: false, count: 2, ago_s: 1_910,
  }],
  history: hour(),
}

const OUTAGE = {
  ...SNAPSHOT,
  health: {
    ok: true, state: 'disconnected', since_s: 725,
    reason: 'cannot reach xxxxxxxx-ats.iot.eu-west-1.amazonaws.com on port 8883: no route to host',
    remedy: 'Nothing for now: messages are kept, and it is tried again by itself.',
  },
  cloud: { ...SNAPSHOT.cloud, connected: false },
}
const UNSAFE = { ...SNAPSHOT, health: { ok: false, state: 'spool-full', since_s: 3, reason: 'the spool is full', remedy: 'Connect' } }

/** A page that is fed by the test instead of a relay. */
async function fed(browser, options, snapshot) {
  const context = await browser.newContext({ ...options, bypassCSP: true })
  const page = await context.newPage()
  const noticed = watch(page, ORIGIN)
  await page.route(`${ORIGIN}**`, (route) => route.fulfill({ contentType: 'text/html; charset=utf-8', body: HTML }))
  await page.addInitScript(() => {
    window.EventSource = class {
      constructor() { window.feed = this }
    }
  })
  await page.goto(ORIGIN)
  const feed = (data) => page.evaluate((data) => window.feed.onmessage({ data }), JSON.stringify(data))
  await feed(snapshot)
  return { page, feed, noticed, close: () => context.close() }
}

/** What axe finds that keeps people from using the page. */
async function faults(page) {
  await page.evaluate(AXE)
  const { violations } = await page.evaluate(() => window.axe.run())
  return violations.map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes.map((node) => node.html).join(' ')}`)
}

test('the page', async (t) => {
  const browser = await launch()
  t.after(() => browser.close())

  for (const [size, viewport] of Object.entries(SIZES)) {
    for (const colorScheme of ['light', 'dark']) {
      await t.test(`can be used by everyone: ${size}, ${colorScheme}`, async () => {
        const { page, feed, noticed, close } = await fed(browser, { viewport, colorScheme, reducedMotion: 'reduce' }, SNAPSHOT)
        const wide = await page.evaluate(() => document.documentElement.scrollWidth)
        assert.ok(wide <= viewport.width, `${wide} pixels wide`)
        if (process.env.SCREENSHOTS) {
          const path = fileURLToPath(new URL(`assets/status-${size}-${colorScheme}.png`, root))
          await page.screenshot({ path, fullPage: true })
        }
        for (const snapshot of [SNAPSHOT, OUTAGE, UNSAFE]) {
          await feed(snapshot)
          assert.deepEqual(await faults(page), [], snapshot.health.state)
        }
        assert.deepEqual(noticed, { strange: [], complaints: [] })
        await close()
      })
    }
  }

  await t.test('axe finds a fault that is planted', async () => {
    const { page, close } = await fed(browser, {}, SNAPSHOT)
    await page.evaluate(() => { document.getElementById('reason').style.color = '#eeeeee' })
    assert.match((await faults(page)).join('\n'), /serious color-contrast/)
    await close()
  })

  await t.test('an outage says what to do, and that data is not safe is said in words', async () => {
    const { page, feed, close } = await fed(browser, {}, OUTAGE)
    assert.match(await page.locator('#todo').innerText(), /^What to do: .*messages are kept/)
    assert.match(await page.locator('#since').innerText(), /12 min.*accepted and safe/)
    await feed(UNSAFE)
    assert.match(await page.locator('#since').innerText(), /not safe/)
    assert.equal(await page.title(), 'Spool full – Cloud Relay')
    await feed(SNAPSHOT)
    assert.equal(await page.locator('#todo').isVisible(), false)
    await close()
  })

  await t.test('that too many pages are open is not taken for a relay that is gone', async () => {
    const { page, close } = await fed(browser, {}, SNAPSHOT)
    for (const [answer, said] of [[{ status: 503, body: '' }, /Too many pages/], [null, /cannot be reached/]]) {
      await page.route(`${ORIGIN}api/events`, (route) => answer ? route.fulfill(answer) : route.abort())
      await page.evaluate(() => window.feed.onerror())
      await page.locator('#gone', { hasText: said }).waitFor()
    }
    await close()
  })

  await t.test('the ledger that is shown balances', async () => {
    const { page, close } = await fed(browser, {}, SNAPSHOT)
    const number = async (id) => Number((await page.locator(`#${id}`).textContent()).replaceAll(',', ''))
    const parts = await Promise.all(['delivered', 'waiting', 'dead', 'full', 'damaged', 'expired'].map(number))
    assert.equal(parts.reduce((sum, part) => sum + part), await number('accepted'))
    assert.equal(await number('accepted'), 1_904_311)
    await close()
  })
})
