-- Request logs of accounts and of their sites. What was stored before belongs to the system account, and to no site of it.

-- Filters compare without case. These are columns because under row-level security no index is used for lower(): for all
-- that the planner knows, it might tell somebody what it was given.
ALTER TABLE observability.series
    ADD COLUMN service_lower  text GENERATED ALWAYS AS (lower(service)) STORED,
    ADD COLUMN endpoint_lower text GENERATED ALWAYS AS (lower(endpoint)) STORED,
    ADD COLUMN method_lower   text GENERATED ALWAYS AS (lower(method)) STORED;
DROP INDEX observability.series_lower;
CREATE INDEX series_lower ON observability.series (account, service_lower, endpoint_lower, method_lower);
-- Of all sites.
CREATE INDEX series_service ON observability.series (account, service, method);

-- The accounts that have had series. An account that is alone needs no condition on the account, which a scoped session
-- could not tell from the series that it sees.
CREATE TABLE observability.series_account (account integer PRIMARY KEY);
INSERT INTO observability.series_account SELECT DISTINCT account FROM observability.series;
CREATE FUNCTION observability.note_accounts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO observability.series_account SELECT DISTINCT account FROM inserted ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
CREATE TRIGGER note_accounts AFTER INSERT ON observability.series REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION observability.note_accounts();

-- Whose events of an hour rollups do not know yet: an account reads rollups whatever others write.
ALTER TABLE observability.rollup_touched ADD COLUMN account integer NOT NULL DEFAULT 0;
CREATE INDEX rollup_touched_account ON observability.rollup_touched (account, hour);

-- Events and rollups by series are not scoped: they are read by numbers of series, which a session gets from this table.
SELECT tiercel.scope_by_account('observability.series', true),
       tiercel.scope_by_account('observability.ingest_ledger', true),
       tiercel.scope_by_account('observability.rollup_touched');

DO $$
DECLARE
    visible constant text := 'CASE WHEN (SELECT tiercel.current_account()) IS NULL THEN true
        ELSE account = (SELECT tiercel.current_account()) END';
    name    text;
    unit    text;
BEGIN
    -- What is written by hand, or by a process of the version before, belongs to the system account.
    FOREACH name IN ARRAY ARRAY['series', 'ingest_ledger', 'rollup_touched'] LOOP
        EXECUTE format('ALTER TABLE observability.%I ALTER COLUMN account SET DEFAULT coalesce(tiercel.current_account(), 0)',
                       name);
    END LOOP;
    FOREACH unit IN ARRAY ARRAY['hour', 'day'] LOOP
        IF (SELECT relkind = 'r' FROM pg_class WHERE oid = format('observability.coarse_%s', unit)::regclass) THEN
            PERFORM tiercel.scope_by_account(format('observability.coarse_%s', unit)::regclass);
        ELSE
            -- No row-level security for continuous aggregates. And rollups by service and method are those of all sites.
            EXECUTE format($view$
                CREATE OR REPLACE VIEW observability.cells_coarse_%1$s AS
                SELECT bucket, account, service, method, hits, latency_sum_ms, latency_max_ms, status_codes, status_ends,
                       latency_min_ms, latency_hits
                FROM observability.cells_%1$s JOIN observability.series ON id = series
                WHERE %2$s;
                CREATE OR REPLACE VIEW observability.histograms_coarse_%1$s AS
                SELECT bucket, account, service, method, ARRAY[%3$s] AS histograms
                FROM observability.coarse_%1$s
                WHERE %2$s $view$,
                unit, visible, CASE unit WHEN 'hour' THEN 'observability.histogram_of(hits, bin)' ELSE 'histogram' END);
        END IF;
    END LOOP;
END
$$;
