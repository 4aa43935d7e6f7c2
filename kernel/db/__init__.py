"""The database: connection pool, capabilities of the server, named queries and migrations."""
