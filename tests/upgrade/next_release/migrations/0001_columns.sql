-- Columns that code of the release before knows nothing of, in tables that it reads and writes all the time; and an index.
-- compatible: 0.1.0
-- rollback: loses what is in the new columns
-- locks: ACCESS EXCLUSIVE on observability.event, brief
-- locks: ACCESS EXCLUSIVE on observability.ingest_ledger, brief
-- locks: ACCESS EXCLUSIVE on accounts.session, brief
-- locks: ACCESS EXCLUSIVE on tiercel.job_run, brief
-- locks: SHARE on tiercel.usage, scan
ALTER TABLE observability.event ADD COLUMN region text;
ALTER TABLE observability.ingest_ledger ADD COLUMN region text;
ALTER TABLE accounts.session ADD COLUMN region text NOT NULL DEFAULT 'unknown';
ALTER TABLE tiercel.job_run ADD COLUMN region text;
CREATE INDEX usage_used ON tiercel.usage (used);
