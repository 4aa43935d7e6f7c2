"""The embedded PostgreSQL: its server, the account that runs it, and its watchdog. Nothing else knows its internals."""
