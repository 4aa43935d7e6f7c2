"""The database: embedded server, engine, pool, named queries and migrations."""
