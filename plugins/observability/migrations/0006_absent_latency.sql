-- A request whose latency nobody measured has none: NULL, not 0. In new databases the column is made so: before 2.18,
-- TimescaleDB cannot change it once chunks are stored as columns.
DO $$
BEGIN
    IF (SELECT attnotnull FROM pg_attribute
        WHERE attrelid = 'observability.event'::regclass AND attname = 'latency_ms') THEN
        ALTER TABLE observability.event ALTER COLUMN latency_ms DROP NOT NULL;
    END IF;
EXCEPTION WHEN feature_not_supported THEN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
        MESSAGE = 'this version of TimescaleDB cannot drop NOT NULL from a column of a hypertable with a columnstore: '
                  'update the extension to 2.18 or later (ALTER EXTENSION timescaledb UPDATE)';
END
$$;

-- Requests with a latency and requests without one are series apart. So every row of a rollup is of one kind only: where
-- latency_sum_ms is NULL, none of its hits has a latency, elsewhere all of them have one. Continuous aggregates, which
-- can be neither altered nor computed again once retention has removed their events, know this already.
ALTER TABLE observability.series
    ADD COLUMN timed boolean NOT NULL DEFAULT true,
    DROP CONSTRAINT series_account_site_service_endpoint_method_key,
    ADD UNIQUE (account, site, service, endpoint, method, timed);

DO $$
DECLARE
    latency_hits constant text := 'CASE WHEN latency_sum_ms IS NULL THEN 0 ELSE hits END AS latency_hits';
    is_table     constant boolean := (
        SELECT relkind = 'r' FROM pg_class WHERE oid = 'observability.rollup_hour'::regclass);
    unit text;
    name text;
    kind text;
BEGIN
    FOREACH unit IN ARRAY ARRAY['hour', 'day'] LOOP
        IF is_table THEN
            EXECUTE format($table$
                ALTER TABLE observability.coarse_%1$s
                    ADD COLUMN timed boolean NOT NULL DEFAULT true,
                    DROP CONSTRAINT coarse_%1$s_pkey,
                    ADD PRIMARY KEY (account, service, method, bucket, timed) $table$, unit);
            FOREACH name IN ARRAY ARRAY['rollup', 'coarse'] LOOP
                EXECUTE format($table$
                    ALTER TABLE observability.%1$s_%2$s
                        ALTER COLUMN latency_sum_ms DROP NOT NULL,
                        ALTER COLUMN latency_min_ms DROP NOT NULL,
                        ALTER COLUMN latency_max_ms DROP NOT NULL $table$, name, unit);
                FOREACH kind IN ARRAY ARRAY['cells', 'both'] LOOP
                    EXECUTE format('CREATE OR REPLACE VIEW observability.%1$s%2$s_%3$s AS
                        SELECT *, %4$s FROM observability.%5$s_%3$s',
                        kind, CASE name WHEN 'coarse' THEN '_coarse' END, unit, latency_hits, name);
                END LOOP;
            END LOOP;
        ELSE
            EXECUTE format($view$
                DROP VIEW observability.both_%1$s, observability.both_coarse_%1$s;
                CREATE OR REPLACE VIEW observability.cells_%1$s AS
                SELECT bucket, series, hits, latency_sum_ms, latency_max_ms,
                       ARRAY[status_code] AS status_codes, ARRAY[hits] AS status_ends, latency_min_ms, %2$s
                FROM observability.rollup_%1$s;
                CREATE OR REPLACE VIEW observability.cells_coarse_%1$s AS
                SELECT bucket, account, service, method, hits, latency_sum_ms, latency_max_ms, status_codes, status_ends,
                       latency_min_ms, latency_hits
                FROM observability.cells_%1$s JOIN observability.series ON id = series WHERE site = 0;
                CREATE VIEW observability.both_%1$s AS
                SELECT *, NULL::numeric[] AS histograms FROM observability.cells_%1$s
                UNION ALL
                SELECT bucket, series, NULL, NULL, NULL, NULL, NULL, NULL, NULL, histograms
                FROM observability.histograms_%1$s;
                CREATE VIEW observability.both_coarse_%1$s AS
                SELECT *, NULL::numeric[] AS histograms FROM observability.cells_coarse_%1$s
                UNION ALL
                SELECT bucket, account, service, method, NULL, NULL, NULL, NULL, NULL, NULL, NULL, histograms
                FROM observability.histograms_coarse_%1$s $view$, unit, latency_hits);
        END IF;
    END LOOP;
END
$$;
