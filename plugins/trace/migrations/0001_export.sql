-- What was read from Notion last, so that an export need only read what has changed since.
CREATE SCHEMA trace;

-- One row for each source of the configuration that was exported.
CREATE TABLE trace.source (
    name          text        PRIMARY KEY,
    mapping       bytea       NOT NULL,          -- a digest: under another mapping the rows say nothing
    rows          bytea       NOT NULL,          -- as JSON
    schemas       jsonb       NOT NULL,          -- of its data sources: finds columns again that were renamed
    read_at       timestamptz NOT NULL,          -- what was edited before is in the rows
    reconciled_at timestamptz NOT NULL           -- when every row was read, not only those that had changed
);

-- How far ahead the requests of everybody with one token are, by a digest of it.
CREATE UNLOGGED TABLE trace.request_budget (
    name   bytea       PRIMARY KEY,
    due_at timestamptz NOT NULL
);
