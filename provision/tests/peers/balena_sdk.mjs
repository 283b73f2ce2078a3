// balena's own SDK (22) on a device's variables: balena_sdk.mjs API_URL KEY UUID SERVICE get|set|remove NAME [VALUE]
// SERVICE `-` means the whole device. `get` prints the value as JSON.

import { mkdtempSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const require = createRequire(new URL('../../../.tools/node/package.json', import.meta.url))
const { getSdk } = require('balena-sdk-22')

const [apiUrl, key, uuid, service, action, name, value] = process.argv.slice(2)
const dataDirectory = mkdtempSync(join(tmpdir(), 'balena-sdk-'))
try {
  const balena = getSdk({ apiUrl, dataDirectory })
  await balena.auth.loginWithToken(key)
  const { envVar, serviceVar } = balena.models.device
  const [variables, of] = service === '-' ? [envVar, [uuid]] : [serviceVar, [uuid, service]]
  const rest = value === undefined ? [name] : [name, value]
  const result = await variables[action](...of, ...rest)
  process.stdout.write(`${JSON.stringify(result ?? null)}\n`)
} finally {
  rmSync(dataDirectory, { recursive: true, force: true })
}
