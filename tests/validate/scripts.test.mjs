// Every shell script of the repository, read by shellcheck; it is also shown a fault in each, which it must find.

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import test from 'node:test'

import { root, run } from './files.mjs'

// What is built or installed, not kept.
const FOREIGN = new Set(['.git', '.tools', 'node_modules', 'target'])

/** The paths of the files under `directory` that a shell runs. */
function* scripts(directory) {
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    const path = `${directory}/${entry.name}`
    if (FOREIGN.has(entry.name)) continue
    if (entry.isDirectory()) yield* scripts(path)
    else if (entry.isFile() && /^#!.*\b(bash|dash|sh)\n/.test(readFileSync(path, 'latin1'))) yield path
  }
}

/** What shellcheck says about a script's text; empty if nothing. */
function lint(script) {
  const { stdout, stderr } = run('shellcheck', ['--format=gcc', '-'], script)
  return stdout + stderr
}

test('shellcheck has nothing to say about the scripts', () => {
  const found = [...scripts(fileURLToPath(root).replace(/\/$/, ''))]
  for (const known of ['.ci/run', 'tests/image/check', 'examples/fleet/sensor/sensor.sh']) {
    assert.ok(found.some((path) => path.endsWith(`/${known}`)), `${known} is not among ${found}`)
  }
  for (const path of found) {
    const script = readFileSync(path, 'utf8')
    assert.equal(lint(script), '', path)
    assert.match(lint(`${script}\ncat $1\n`), /SC2086/, path)
  }
})
