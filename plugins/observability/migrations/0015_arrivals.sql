-- In which transaction the events of an entry were stored, and between which times they are: what arrived since somebody
-- looked is found by the snapshots that a transaction is visible in, however late it commits. An event's own time tells
-- nothing about that, nor does that of an entry, which is when its transaction began.
-- NULL in entries from before, and in those that were summed up.
ALTER TABLE observability.ingest_ledger
    ADD COLUMN xid       xid8,
    ADD COLUMN from_time timestamptz,
    ADD COLUMN to_time   timestamptz;
-- Also for processes of the version before, which know no times.
ALTER TABLE observability.ingest_ledger ALTER COLUMN xid SET DEFAULT pg_current_xact_id();
CREATE INDEX ingest_ledger_xid ON observability.ingest_ledger (account, xid) WHERE xid IS NOT NULL AND stored > 0;
