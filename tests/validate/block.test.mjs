// balena.yml, read by balena's contract library, and what else a block's repository has.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import test from 'node:test'

import { ARCHITECTURES, read, require, root } from './files.mjs'

const { Contract } = require('@balena/contrato')
const yaml = require('js-yaml')

const block = yaml.safeLoad(read('balena.yml'))
const [, version] = read('Cargo.toml').match(/^version = "(.+)"/m)

/** Whether a device with this block is one for an application that wants Cloud Relay of `range`. */
function provides(contract, range) {
  const requires = [{ type: 'sw.block', slug: 'cloud-relay', version: range }]
  const application = new Contract({ type: 'sw.application', slug: 'app', requires })
  const children = [{ ...contract, slug: contract.name }]
  return new Contract({ type: 'sw.os', slug: 'device', children }).satisfiesChildContract(application)
}

test("balena's contract library takes balena.yml as the block of this version", () => {
  assert.ok(provides(block, `=${version}`))
  assert.ok(!provides(block, `<${version}`))
  for (const fault of [{ type: 'sw.application' }, { version: 'one' }, { version: undefined }, { name: 'relay' }]) {
    assert.ok(!provides({ ...block, ...fault }, `=${version}`), JSON.stringify(fault))
  }
})

test('balena.yml has what the hub shows', () => {
  assert.ok(block.description.length > 20)
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

test('a block is released for every architecture, under the name that the example pulls', () => {
  const flowzone = yaml.safeLoad(read('.github/workflows/flowzone.yml')).jobs.flowzone
  const slugs = flowzone.with.balena_slugs.split(',').map((slug) => slug.trim())
  assert.deepEqual(slugs, ARCHITECTURES.map((architecture) => `balena_io_examples/cloud-relay-${architecture}`))
  assert.match(read('examples/fleet/cloud-relay/Dockerfile.template'), /^FROM bh\.cr\/balena_io_examples\/cloud-relay-%%BALENA_ARCH%%\//m)
})
