// The Dockerfiles, read by hadolint and by balena's template parser. Each check is also shown a fault that it must
// find: a validator that accepts everything proves nothing.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import test from 'node:test'

import { ARCHITECTURES, plant, read, require, root, run } from './files.mjs'

const template = require('dockerfile-template')

const RELAY = 'Dockerfile.template'
const EXAMPLE_RELAY = 'examples/fleet/cloud-relay/Dockerfile.template'
const EXAMPLE_SENSOR = 'examples/fleet/sensor/Dockerfile.template'

/** What hadolint says about a Dockerfile's text; empty if nothing. */
function lint(dockerfile) {
  const { stdout, stderr } = run('hadolint', ['--no-color', '-'], dockerfile)
  return stdout + stderr
}

/** The image names that a Dockerfile builds on, stage by stage. */
const bases = (dockerfile) => [...dockerfile.matchAll(/^FROM\s+(\S+)/gm)].map((match) => match[1])

test('hadolint has nothing to say about the Dockerfiles', () => {
  for (const name of [RELAY, EXAMPLE_RELAY, EXAMPLE_SENSOR]) {
    assert.equal(lint(read(name)), '', name)
  }
  const dockerfile = read(RELAY)
  assert.match(lint(plant(dockerfile, ' && rm -rf /var/lib/apt/lists/*', ' && true')), /DL3009/)
  assert.match(lint(plant(dockerfile, 'WORKDIR /data', 'WORKDIR data')), /DL3000/)
  assert.match(lint(plant(dockerfile, 'ENTRYPOINT ["/usr/local/bin/cloud-relay"]', 'ENTRYPOINT cloud-relay')), /DL3025/)
})

for (const architecture of ARCHITECTURES) {
  test(`the templates become Dockerfiles for ${architecture}`, () => {
    const render = (name) => template.process(read(name), { BALENA_ARCH: architecture })
    const dockerfile = render(RELAY)
    assert.deepEqual(bases(dockerfile), [
      `balenalib/${architecture}-debian:bookworm-build`,
      `balenalib/${architecture}-debian:bookworm-build`,
      `balenalib/${architecture}-debian:bookworm-run`,
    ])
    assert.doesNotMatch(dockerfile.replace(/^#.*$/gm, ''), /%%/)
    assert.match(dockerfile, new RegExp(`^ +${architecture}\\) host=\\S+ ;;`, 'm'), 'a Rust host triple is chosen')
    const [, version] = read('Cargo.toml').match(/^version = "(.+)"/m)
    assert.deepEqual(bases(render(EXAMPLE_RELAY)), [
      `bh.cr/balena_io_examples/cloud-relay-${architecture}/${version}`,
    ])
    assert.deepEqual(bases(render(EXAMPLE_SENSOR)), [`balenalib/${architecture}-debian:bookworm-run`])
  })
}

test('an architecture that the relay is not built for ends the build at once and is named', () => {
  const [, choice] = read(RELAY).match(/^RUN (case [^]*?esac)/m)
  const choose = (architecture) => spawnSync('sh', ['-c', choice], { env: { BALENA_ARCH: architecture }, encoding: 'utf8' })
  for (const architecture of ARCHITECTURES) assert.equal(choose(architecture).status, 0, architecture)
  const { status, stderr } = choose('i386')
  assert.equal(status, 1)
  assert.match(stderr, /not built for the architecture i386/)
})

test("README.md's line moves the image to official bases", () => {
  const [, line] = read('README.md').match(/^sed -i '(.+)' Dockerfile\.template$/m)
  const moved = spawnSync('sed', [line], { input: read(RELAY), encoding: 'utf8' }).stdout
  assert.deepEqual(bases(moved), ['buildpack-deps:bookworm', 'buildpack-deps:bookworm', 'debian:bookworm-slim'])
})

test('a variable that balena does not know is refused', () => {
  const dockerfile = plant(read(RELAY), 'BALENA_ARCH=%%BALENA_ARCH%%', 'BALENA_ARCH=%%BALENA_CPU%%')
  assert.throws(() => template.process(dockerfile, { BALENA_ARCH: 'amd64' }), /BALENA_CPU/)
})

test("the image's toolchain is one that the crate allows", () => {
  const [, toolchain] = read(RELAY).match(/RUST_VERSION=(\d+\.\d+)\.\d+/)
  const [, oldest] = read('Cargo.toml').match(/^rust-version = "(\d+\.\d+)"/m)
  assert.equal(toolchain, oldest)
})

test("the image's version label is the crate's", () => {
  const [, label] = read(RELAY).match(/image\.version="(.+)"/)
  const [, version] = read('Cargo.toml').match(/^version = "(.+)"/m)
  assert.equal(label, version)
})

test('the builder uses nothing that only BuildKit knows', () => {
  const foreign = /--mount|BUILDPLATFORM|TARGETARCH|^ARG\b|<<[A-Z]/m
  assert.doesNotMatch(read(RELAY), foreign)
  assert.match(plant(read(RELAY), 'RUN apt-get update', 'RUN --mount=type=cache,target=/var apt-get update'), foreign)
})

test('the builder gets the manifest of every workspace member and the sources of none but the relay', () => {
  const [, list] = read('Cargo.toml').match(/^members = \[([^\]]*)\]/m)
  const members = [...list.matchAll(/"([^"]+)"/g)].map((match) => match[1])
  assert.ok(members.includes('sandbox'), list)
  const sent = read('.dockerignore').split('\n')
  for (const member of members) {
    for (const line of [`!${member}`, `${member}/*`, `!${member}/Cargo.toml`]) {
      assert.ok(sent.includes(line), `.dockerignore lacks ${line}`)
    }
  }
})

test('cargo reads the workspace of manifests that the dependencies are built from', () => {
  const [, script] = read(RELAY).match(/^FROM \S+ AS manifests$[^]*?^RUN ([^]*?[^\\])\n\n/m)
  const manifests = (shell) => {
    const place = mkdtempSync(join(tmpdir(), 'cloud-relay-manifests-'))
    try {
      for (const [, name] of read('.dockerignore').matchAll(/^!(\S+)$/gm)) {
        if (statSync(new URL(name, root)).isFile()) {
          mkdirSync(dirname(join(place, name)), { recursive: true })
          copyFileSync(new URL(name, root), join(place, name))
        }
      }
      const made = spawnSync('sh', ['-ec', shell], { cwd: place, encoding: 'utf8' })
      assert.equal(made.status, 0, made.stderr)
      return spawnSync('cargo', ['tree', '--locked', '--package=cloud-relay', '--edges=normal'], { cwd: place, encoding: 'utf8' })
    } finally {
      rmSync(place, { recursive: true })
    }
  }
  const workspace = manifests(script)
  assert.equal(workspace.status, 0, workspace.stderr)
  assert.match(workspace.stdout, /^cloud-relay v[^]*── tokio v/)
  // without the stubs' sources there is nothing to read
  assert.notEqual(manifests(plant(script, 'touch', 'true')).status, 0)
})

test('the relay is nobody, is asked for its health and stops as the engine asks', () => {
  const dockerfile = read(RELAY)
  assert.match(dockerfile, /^USER 10001:10001$/m)
  assert.match(dockerfile, /^HEALTHCHECK [^]*?CMD \["\/usr\/local\/bin\/cloud-relay", "health"\]$/m)
  assert.match(dockerfile, /^STOPSIGNAL SIGTERM$/m)
  assert.match(dockerfile, /^ENTRYPOINT \["\/usr\/local\/bin\/cloud-relay"\]$/m)
})
