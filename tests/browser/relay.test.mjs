// The page of a real relay in a real browser, while the sandbox plays a device's first hour: one page, never
// reloaded, sees the relay provision, be started anew, connect, lose the cloud, find it again, and end.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { spawn, spawnSync } from 'node:child_process'
import { createInterface } from 'node:readline'
import { join } from 'node:path'
import test from 'node:test'
import { fileURLToPath } from 'node:url'

import { PATIENCE_MS, launch, require, root, watch } from './browser.mjs'

const mqtt = require('mqtt')
const cwd = fileURLToPath(root)
const programs = join(process.env.CARGO_TARGET_DIR ?? join(cwd, 'target'), 'debug')
/** As hostile as a client id can be. */
const HOSTILE_ID = '<img src=x onerror="document.title=1"><script>alert(1)</script>'

// Before the clock of any test runs.
const built = spawnSync('cargo', ['build', '--locked', '--quiet', '-p', 'cloud-relay', '-p', 'cloud-relay-sandbox'], { cwd, stdio: 'inherit' })
assert.equal(built.status, 0, 'the sandbox and the relay are built')

/** Starts the demo; resolves to where the page and the broker are, as soon as it says so. */
async function sandbox(t) {
  const relay = join(programs, 'cloud-relay')
  const child = spawn(join(programs, 'sandbox'), ['demo', '--relay', relay, '--outage'], { cwd, stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = once(child, 'exit')
  const stop = async () => {
    child.kill('SIGTERM')
    await ended
  }
  t.after(stop)
  const lines = []
  const found = (pattern) => lines.map((line) => line.match(pattern)?.[1]).find(Boolean)
  const waiting = new Set()
  createInterface(child.stdout).on('line', (line) => {
    lines.push(line)
    for (const look of waiting) look()
  })
  const says = (pattern) => new Promise((resolve, reject) => {
    const timer = setTimeout(() => done(reject, new Error(`no ${pattern} in\n${lines.join('\n')}`)), PATIENCE_MS)
    const done = (settle, value) => {
      clearTimeout(timer)
      waiting.delete(look)
      settle(value)
    }
    const look = () => found(pattern) && done(resolve, found(pattern))
    waiting.add(look)
    look()
  })
  return { says, stop }
}

/** Opens the page as soon as there is one. */
async function open(page, url) {
  const deadline = Date.now() + PATIENCE_MS
  for (;;) {
    try {
      return await page.goto(url)
    } catch (error) {
      if (Date.now() > deadline) throw error
      await page.waitForTimeout(50)
    }
  }
}

const shown = async (page, id) => Number((await page.locator(`#${id}`).textContent()).replaceAll(',', ''))

/** Waits until the number in `id` is above `number`; returns it. */
async function grows(page, id, number) {
  const deadline = Date.now() + PATIENCE_MS
  for (;;) {
    const now = await shown(page, id)
    if (now > number) return now
    assert.ok(Date.now() < deadline, `#${id} stays at ${now}`)
    await page.waitForTimeout(50)
  }
}

test('the page shows a device’s first hour as it happens', { timeout: 4 * PATIENCE_MS }, async (t) => {
  const browser = await launch()
  t.after(() => browser.close())
  const page = await browser.newPage()
  // Notes every state that is shown, so that none is missed however slow this test is.
  await page.addInitScript(() => {
    window.seen = []
    new MutationObserver(() => {
      const text = (id) => document.getElementById(id)?.textContent
      const now = { name: text('name'), remedy: text('remedy') }
      if (window.seen.at(-1)?.name !== now.name) window.seen.push(now)
    }).observe(document, { subtree: true, childList: true, characterData: true })
  })
  const { says, stop } = await sandbox(t)
  const url = await says(/status page, to look at meanwhile: (\S+)/)
  const noticed = watch(page, url)
  await open(page, url)

  await says(/(Your turn)/)
  await page.locator('#name', { hasText: 'Connected' }).waitFor({ timeout: PATIENCE_MS })
  const delivered = await grows(page, 'delivered', 0)
  await grows(page, 'delivered', delivered)

  const seen = await page.evaluate(() => window.seen)
  const names = seen.map((state) => state.name)
  const order = ['Provisioning', 'Connected', 'Disconnected', 'Connected']
  let place = 0
  for (const name of names) if (name === order[place]) place += 1
  assert.equal(place, order.length, `${order} should be among ${names}`)
  assert.match(seen.find((state) => state.name === 'Disconnected').remedy, /messages are kept/)

  await t.test('what an app calls itself is text and never markup', async () => {
    const port = await says(/mosquitto_pub -h 127\.0\.0\.1 -p (\d+)/)
    const client = await mqtt.connectAsync(`mqtt://127.0.0.1:${port}`, { clientId: HOSTILE_ID })
    try {
      await page.locator('#list li', { hasText: HOSTILE_ID }).waitFor({ timeout: PATIENCE_MS })
      assert.equal(await page.locator('main img, main script').count(), 0)
    } finally {
      await client.endAsync()
    }
  })

  await stop()
  await page.locator('#gone').waitFor({ timeout: PATIENCE_MS })
  assert.deepEqual(noticed, { strange: [], complaints: [] })
})
