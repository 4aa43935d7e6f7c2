-- The ingest ledger also says how many stored events were deleted on request, so that it agrees with the events.
ALTER TABLE observability.ingest_ledger ADD COLUMN deleted integer NOT NULL DEFAULT 0;
