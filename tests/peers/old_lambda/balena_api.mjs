// balenaCloud's API as far as the old Lambda calls it (balena-sdk 16, API v6): one device, two services, and the
// variables that are written. What it is not asked for it answers with 404, and records.

import { once } from 'node:events'

const DEVICE_ID = 1001
const FLEET_ID = 2001
// The relay's service comes first: the Lambda takes the *last* one when it finds no match.
const RELAY = { serviceId: 3001, installId: 4001 }
const SENSOR = { serviceId: 3002, installId: 4002, name: 'sensor' }

/** Starts a server on a free port of 127.0.0.1 and returns its URL. */
export async function listen(server) {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return `http://127.0.0.1:${server.address().port}`
}

/** A request's body as text. */
export async function body(request) {
  const chunks = []
  for await (const chunk of request) chunks.push(chunk)
  return Buffer.concat(chunks).toString()
}

export class BalenaApi {
  #uuid
  #services
  #requests = []
  // owner ("service NAME" or "device") → variable → value
  #variables = new Map()

  constructor(uuid, relayService) {
    this.#uuid = uuid
    this.#services = [{ ...RELAY, name: relayService }, SENSOR]
  }

  /** What was asked and what was written, for the test to look at. */
  recorded() {
    const variables = {}
    for (const [owner, values] of this.#variables) variables[owner] = Object.fromEntries(values)
    return { requests: this.#requests, variables }
  }

  async answer(request, response) {
    const url = decodeURIComponent(request.url)
    const text = await body(request)
    this.#requests.push(`${request.method} ${url}`)
    const [status, result] = this.#route(request.method, url, text ? JSON.parse(text) : {})
    response.writeHead(status, { 'Content-Type': 'application/json' })
    response.end(JSON.stringify(result))
  }

  #route(method, url, sent) {
    const resource = url.match(/^\/v6\/(\w+)/)?.[1]
    if (resource?.endsWith('environment_variable')) return this.#variable(method, url, sent)
    if (method !== 'GET') return [404, 'not part of this stub']
    switch (resource) {
      case 'device':
        return [200, { d: url.includes(`uuid='${this.#uuid}'`) ? [this.#device()] : [] }]
      case 'application':
        return [200, { d: [{ id: FLEET_ID }] }]
      case 'service':
        return [200, { d: this.#services.map(({ serviceId, name }) => ({ id: serviceId, service_name: name })) }]
      case 'service_install': {
        const install = this.#services.find(({ serviceId }) => url.includes(`installs__service eq ${serviceId}`))
        return [200, { d: install ? [{ id: install.installId }] : [] }]
      }
      default:
        return [404, 'not part of this stub']
    }
  }

  #device() {
    return { id: DEVICE_ID, uuid: this.#uuid, belongs_to__application: { __id: FLEET_ID } }
  }

  #variable(method, url, sent) {
    const values = this.#valuesOf(url, sent)
    const name = sent.name ?? url.match(/name eq '(\w+)'/)?.[1]
    if (!values || !name) return [400, 'no such device or service, or no name']
    switch (method) {
      case 'POST':
        if (values.has(name)) return [409, 'Unique key constraint violated']
        values.set(name, sent.value)
        return [201, { id: 1, name, value: sent.value }]
      case 'PATCH':
        values.set(name, sent.value)
        return [200, 'OK']
      case 'DELETE':
        values.delete(name)
        return [200, 'OK']
      default:
        return [200, { d: [] }]
    }
  }

  /** The variables that a request is about: a POST names its owner in the body, the others in the filter. */
  #valuesOf(url, sent) {
    let owner
    if (url.includes('device_service_environment_variable')) {
      const service = this.#services.find(
        ({ serviceId, installId }) =>
          sent.service_install === installId ||
          url.includes(`service_install eq ${installId}`) ||
          url.includes(`si/service eq ${serviceId}`),
      )
      owner = service && `service ${service.name}`
    } else if (sent.device === DEVICE_ID || url.includes(`device eq ${DEVICE_ID}`)) {
      owner = 'device'
    }
    if (!owner) return undefined
    if (!this.#variables.has(owner)) this.#variables.set(owner, new Map())
    return this.#variables.get(owner)
  }
}
