// What the tests of the container files share: the files, the tools that read them, and planted faults.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

export const root = new URL('../../', import.meta.url)
/** npm packages of .tools/node. */
export const require = createRequire(new URL('.tools/node/', root))

export const ARCHITECTURES = ['rpi', 'armv7hf', 'aarch64', 'amd64']

export const read = (name) => readFileSync(new URL(name, root), 'utf8')

/** Runs a program of .tools/venv on `input`; what it says on both outputs. */
export function run(program, args, input) {
  const path = fileURLToPath(new URL(`.tools/venv/bin/${program}`, root))
  const ended = spawnSync(path, args, { input, encoding: 'utf8', cwd: fileURLToPath(root) })
  assert.ifError(ended.error)
  return ended
}

/** Replaces exactly one piece of text, so that a planted fault cannot silently miss. */
export function plant(text, sound, fault) {
  assert.equal(text.split(sound).length, 2, `${JSON.stringify(sound)} should occur once`)
  return text.replace(sound, fault)
}
