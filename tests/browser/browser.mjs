// Debian's Chromium without a window, and what the tests of the page look at.

import { createRequire } from 'node:module'
import { existsSync } from 'node:fs'

export const root = new URL('../../', import.meta.url)
export const require = createRequire(new URL('.tools/node/', root))
const { chromium } = require('playwright-core')

/** How long anything may take that should take moments. Long, for a busy machine. */
export const PATIENCE_MS = 60_000

export async function launch() {
  const executablePath = '/usr/bin/chromium'
  if (!existsSync(executablePath)) throw new Error('Chromium is missing: run tests/setup/install')
  // Chromium's own sandbox needs a user other than root, and containers give it too little /dev/shm.
  return chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-dev-shm-usage'] })
}

/** Notes what a page asks for elsewhere and what it complains about, for as long as it lives. */
export function watch(page, origin) {
  const strange = []
  const complaints = []
  page.on('request', (request) => {
    const url = request.url()
    if (!url.startsWith(origin) && !url.startsWith('data:')) strange.push(url)
  })
  page.on('pageerror', (error) => complaints.push(String(error)))
  page.on('console', (message) => {
    // A relay that is being restarted cannot be reached: Chromium notes it, the page shows it.
    const restart = /Failed to load resource: net::ERR_/.test(message.text()) && message.location().url.endsWith('/api/events')
    if (['error', 'warning'].includes(message.type()) && !restart) complaints.push(message.text())
  })
  return { strange, complaints }
}
