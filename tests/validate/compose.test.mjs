// The compose files, read by balena's own parser and by Docker's. Each check is also shown a fault that it must find.

import assert from 'node:assert/strict'
import test from 'node:test'

import { plant, read, require, run } from './files.mjs'

const parser = require('resin-compose-parse')
const yaml = require('js-yaml')

const FILES = ['docker-compose.yml', 'examples/fleet/docker-compose.yml']

/** balena's reading of a compose file: throws on what its builder and Supervisor do not take. */
const normalize = (text) => parser.normalize(yaml.safeLoad(text))

/** Docker's reading of it; throws what Compose complains of. `version`, which balena wants, it calls obsolete. */
function config(text) {
  const { stdout, stderr } = run('docker-compose', ['--file', '-', '--project-name', 'check', 'config', '--format', 'json'], text)
  const complaint = stderr.split('\n').find((line) => line !== '' && !line.includes('`version` is obsolete'))
  if (complaint !== undefined) throw new Error(complaint)
  return JSON.parse(stdout)
}

for (const name of FILES) {
  test(`balena's parser takes ${name}`, () => {
    const text = read(name)
    const relay = normalize(text).services['cloud-relay']
    assert.deepEqual(relay.volumes, ['cloud-relay-data:/data'])
    assert.equal(relay.labels['io.balena.features.supervisor-api'], '1')
    assert.throws(() => normalize(plant(text, 'cloud-relay-data:/data', './data:/data')))
    assert.throws(() => normalize(plant(text, 'stop_grace_period: 10s', 'secrets: [key]')))
  })

  test(`Docker Compose takes ${name}`, () => {
    const text = read(name)
    const relay = config(text).services['cloud-relay']
    assert.equal(relay.stop_grace_period, '10s')
    assert.deepEqual(relay.volumes.map(({ type, target }) => [type, target]), [['volume', '/data']])
    assert.throws(() => config(plant(text, 'stop_grace_period', 'stop_grace_span')), /stop_grace_span/)
    assert.throws(() => config(plant(text, 'cloud-relay-data:/data', 'cloud-relay-dta:/data')), /cloud-relay-dta/)
  })

  test(`no service of ${name} has privileges`, () => {
    for (const [service, its] of Object.entries(normalize(read(name)).services)) {
      assert.equal(its.privileged, undefined, service)
      assert.equal(its.cap_add, undefined, service)
      assert.equal(its.devices, undefined, service)
      assert.deepEqual(its.cap_drop, ['ALL'], service)
      assert.equal(its.read_only, true, service)
      assert.deepEqual(its.security_opt, ['no-new-privileges:true'], service)
    }
  })
}

test('the example runs the relay as the block itself does', () => {
  const [own, example] = FILES.map((name) => normalize(read(name)).services['cloud-relay'])
  assert.notDeepEqual(own.build, example.build)
  assert.deepEqual({ ...own, build: null }, { ...example, build: null })
})

test('the compose snippets in README.md are right', () => {
  const [whole, service, ...more] = [...read('README.md').matchAll(/```yaml\n([^]*?)```/g)].map((match) => match[1])
  assert.deepEqual(more, [])
  assert.deepEqual(normalize(whole).services['cloud-relay'].cap_drop, ['ALL'])
  config(whole)
  // one service to add to the first
  const added = plant(whole, 'services:\n', `services:\n${service}`)
  assert.deepEqual(normalize(added).services['volume-owner'].cap_add, ['CHOWN', 'DAC_READ_SEARCH'])
  config(added)
})
