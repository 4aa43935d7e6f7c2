"""Backups of the database: copies of the embedded server's files, or dumps of any server; made, verified, restored."""
