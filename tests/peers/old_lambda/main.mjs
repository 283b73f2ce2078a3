// The cloud function that fleets use today, unchanged: `aws-iot-provision` 0.5.0 from npm, behind an HTTP endpoint
// on 127.0.0.1, as API Gateway would call it. moto stands in for AWS, balena_api.mjs for balenaCloud.
//
//   node tests/peers/old_lambda/main.mjs [--uuid UUID] [--service NAME] [--event-format 1.0|2.0]
//
// The first line on stdout is `listening 127.0.0.1:PORT`; the Lambda's own log goes to stderr. `GET /recorded` tells
// which variables and which requests balenaCloud has got. Ends on SIGTERM, on SIGINT, or when stdin closes: the caller
// keeps a pipe open. Needs `tests/setup/install`.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

import { BalenaApi, body, listen } from './balena_api.mjs'

const TOOLS = new URL('../../../.tools/', import.meta.url)
// The SDK must be the very instance that the Lambda requires, or its API address would not be shared.
const require = createRequire(new URL('node/node_modules/aws-iot-provision/index.js', TOOLS))

const { values: options } = parseArgs({
  options: {
    uuid: { type: 'string', default: '5ce5d4f5a1b44d2b9f2f34a4dfa1c0de' },
    service: { type: 'string', default: 'cloud-relay' },
    'event-format': { type: 'string', default: '2.0' },
  },
})

/** Starts moto; it ends with us, because its stdin is ours to hold. Returns its address. */
async function startAws() {
  const python = fileURLToPath(new URL('venv/bin/python', TOOLS))
  const script = fileURLToPath(new URL('aws.py', import.meta.url))
  const aws = spawn(python, [script], { stdio: ['pipe', 'pipe', 'inherit'] })
  const failed = new Promise((_, reject) => {
    aws.once('error', reject)
    aws.once('exit', (code) => reject(new Error(`aws.py ended with ${code} before it listened`)))
  })
  const [line] = await Promise.race([once(createInterface(aws.stdout), 'line'), failed])
  failed.catch(() => {})
  return line
}

/** The request as API Gateway hands it to a Lambda. */
function gatewayEvent(method, text) {
  const requestContext = options['event-format'] === '1.0' ? { httpMethod: method } : { http: { method } }
  return { version: options['event-format'], requestContext, body: text }
}

/** Loads the Lambda with its environment and its balenaCloud in place. */
function loadLambda(awsUrl, balenaUrl, dataDirectory) {
  Object.assign(process.env, {
    AWS_ENDPOINT_URL_IOT: awsUrl,
    AWS_REGION: 'us-east-1',
    AWS_ACCESS_KEY_ID: 'loopback',
    AWS_SECRET_ACCESS_KEY: 'loopback',
    AWS_IOT_POLICY: 'cloud-relay',
    BALENA_API_KEY: 'loopback',
  })
  console.log = console.debug = console.error // stdout carries the address only
  require('balena-sdk').setSharedOptions({ apiUrl: balenaUrl, dataDirectory })
  return require('aws-iot-provision').handler
}

async function main() {
  const dataDirectory = mkdtempSync(join(tmpdir(), 'old-lambda-'))
  process.on('exit', () => rmSync(dataDirectory, { recursive: true, force: true }))
  for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(0))
  process.stdin.resume().on('end', () => process.exit(0))

  const balena = new BalenaApi(options.uuid, options.service)
  const balenaUrl = await listen(createServer((request, response) => balena.answer(request, response)))
  const handler = loadLambda(await startAws(), balenaUrl, dataDirectory)

  const endpoint = createServer(async (request, response) => {
    if (request.method === 'GET' && request.url === '/recorded') {
      response.setHeader('Content-Type', 'application/json')
      return response.end(JSON.stringify(balena.recorded()))
    }
    const answer = await handler(gatewayEvent(request.method, await body(request)), {})
    response.statusCode = answer.statusCode
    response.end(typeof answer.body === 'string' ? answer.body : JSON.stringify(answer.body))
  })
  process.stdout.write(`listening ${(await listen(endpoint)).replace('http://', '')}\n`)
}

await main()
