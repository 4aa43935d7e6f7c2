-- What was read from Notion last, so that an export need only read what has changed since.
-- earlier-checksum: e4b53de8c806de31c34f8bd3ba237993d094e45e30799d5f88b7ac4bc3fdd507
DO $$
BEGIN
    -- Not IF NOT EXISTS: that needs the privilege to create schemas even where somebody else created this one.
    IF to_regnamespace('trace') IS NULL THEN
        CREATE SCHEMA trace;
    END IF;
END
$$;

-- One row for each source of the configuration that was exported.
CREATE TABLE trace.source (
    name          text        PRIMARY KEY,
    mapping       bytea       NOT NULL,          -- a digest: under another mapping the rows say nothing
    trashed       text[]      NOT NULL,          -- pages that were in the trash: tells those that came out of it
    columns       jsonb       NOT NULL,          -- what configured names were: finds columns that were renamed
    read_at       timestamptz NOT NULL,          -- what was edited before is in the rows
    reconciled_at timestamptz NOT NULL           -- when every row was read, not only those that had changed
);

-- Their rows. In parts: whoever holds a connection keeps room for the longest value that came over it.
CREATE TABLE trace.source_rows (
    name text    NOT NULL REFERENCES trace.source ON DELETE CASCADE,
    part integer NOT NULL,
    rows bytea   NOT NULL,                       -- as JSON
    PRIMARY KEY (name, part)
);

-- How far ahead the requests of everybody with one token are, by a digest of it.
CREATE UNLOGGED TABLE trace.request_budget (
    name   bytea       PRIMARY KEY,
    due_at timestamptz NOT NULL
);

-- Verification tokens of new webhooks, until one is in the configuration.
CREATE TABLE trace.webhook_offer (
    token      text        PRIMARY KEY,
    offered_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Pages that were moved since the last export, as Notion told: where they were they leave no trace.
CREATE TABLE trace.moved_page (
    id       text        PRIMARY KEY,
    moved_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
