// The container files, read by the tools that balena and Docker read them with. Each check is also shown a
// fault that it must find: a validator that accepts everything proves nothing.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import test from 'node:test'
import { fileURLToPath } from 'node:url'

const root = new URL('../../', import.meta.url)
const require = createRequire(new URL('.tools/node/', root))
const compose = require('resin-compose-parse')
const template = require('dockerfile-template')
const yaml = require('js-yaml')

const ARCHITECTURES = ['rpi', 'armv7hf', 'aarch64', 'amd64']
const HADOLINT = fileURLToPath(new URL('.tools/venv/bin/hadolint', root))

const read = (name) => readFileSync(new URL(name, root), 'utf8')

/** What hadolint says about a Dockerfile's text; empty if nothing. */
function lint(dockerfile) {
  const run = spawnSync(HADOLINT, ['--no-color', '-'], { input: dockerfile, encoding: 'utf8' })
  assert.ifError(run.error)
  return run.stdout + run.stderr
}

/** The image names that a Dockerfile builds on, stage by stage. */
function bases(dockerfile) {
  return [...dockerfile.matchAll(/^FROM\s+(\S+)/gm)].map((match) => match[1])
}

/** balena's own reading of a compose file: throws on what its builder and Supervisor do not take. */
const normalize = (text) => compose.normalize(yaml.safeLoad(text))

/** Replaces exactly one piece of text, so that a planted fault cannot silently miss. */
function plant(text, sound, fault) {
  assert.equal(text.split(sound).length, 2, `${JSON.stringify(sound)} should occur once`)
  return text.replace(sound, fault)
}

test('hadolint has nothing to say about the Dockerfile', () => {
  const dockerfile = read('Dockerfile.template')
  assert.equal(lint(dockerfile), '')
  assert.match(lint(plant(dockerfile, ' && rm -rf /var/lib/apt/lists/*', ' && true')), /DL3009/)
  assert.match(lint(plant(dockerfile, 'WORKDIR /src', 'WORKDIR src')), /DL3000/)
})

for (const architecture of ARCHITECTURES) {
  test(`the template becomes a Dockerfile on balena's base images for ${architecture}`, () => {
    const dockerfile = template.process(read('Dockerfile.template'), { BALENA_ARCH: architecture })
    assert.deepEqual(bases(dockerfile), [
      `balenalib/${architecture}-debian:bookworm-build`,
      `balenalib/${architecture}-debian:bookworm-run`,
    ])
    assert.doesNotMatch(dockerfile.replace(/^#.*$/gm, ''), /%%/)
    assert.match(dockerfile, new RegExp(`^ +${architecture}\\) host=\\S+ ;;`, 'm'), 'a Rust host triple is chosen')
  })
}

test('a variable that balena does not know is refused', () => {
  const dockerfile = plant(read('Dockerfile.template'), 'BALENA_ARCH=%%BALENA_ARCH%%', 'BALENA_ARCH=%%BALENA_CPU%%')
  assert.throws(() => template.process(dockerfile, { BALENA_ARCH: 'amd64' }), /BALENA_CPU/)
})

test("the image's toolchain is one that the crate allows", () => {
  const [, toolchain] = read('Dockerfile.template').match(/RUST_VERSION=(\d+\.\d+)\.\d+/)
  const [, oldest] = read('Cargo.toml').match(/^rust-version = "(\d+\.\d+)"/m)
  assert.equal(toolchain, oldest)
})

test('the builder uses nothing that only BuildKit knows', () => {
  const dockerfile = read('Dockerfile.template')
  assert.doesNotMatch(dockerfile, /--mount|BUILDPLATFORM|TARGETARCH|^ARG\b|<<[A-Z]/m)
})

test("balena's compose parser takes the compose file", () => {
  const text = read('docker-compose.yml')
  const relay = normalize(text).services['cloud-relay']
  assert.deepEqual(relay.volumes, ['cloud-relay-data:/data'])
  assert.equal(relay.labels['io.balena.features.supervisor-api'], '1')
  assert.throws(() => normalize(plant(text, 'cloud-relay-data:/data', './data:/data')))
  assert.throws(() => normalize(plant(text, 'read_only: true', 'secrets: [key]')))
})

test('the service has no privileges', () => {
  const relay = normalize(read('docker-compose.yml')).services['cloud-relay']
  assert.equal(relay.privileged, undefined)
  assert.equal(relay.cap_add, undefined)
  assert.equal(relay.devices, undefined)
  assert.deepEqual(relay.cap_drop, ['ALL'])
  assert.equal(relay.read_only, true)
  assert.match(read('Dockerfile.template'), /^USER 10001:10001$/m)
})

test('balena.yml describes a block of the version in Cargo.toml', () => {
  const block = yaml.safeLoad(read('balena.yml'))
  const [, version] = read('Cargo.toml').match(/^version = "(.+)"/m)
  assert.equal(block.type, 'sw.block')
  assert.equal(block.name, 'cloud-relay')
  assert.equal(block.version, version)
  assert.ok(block.data.supportedDeviceTypes.includes(block.data.defaultDeviceType))
  for (const asset of ['repository', 'logo']) {
    assert.equal(block.assets[asset].type, 'blob.asset')
    assert.ok(URL.canParse(block.assets[asset].data.url))
  }
})

test('the logo is a PNG of 512 by 512 pixels', () => {
  const png = readFileSync(new URL('assets/logo.png', root))
  assert.equal(png.subarray(1, 4).toString(), 'PNG')
  assert.deepEqual([png.readUInt32BE(16), png.readUInt32BE(20)], [512, 512])
})
