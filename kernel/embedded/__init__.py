"""The embedded PostgreSQL: its server process, the account it runs as, and the thread that restarts it."""
