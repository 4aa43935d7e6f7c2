-- transactional: false
-- How rollups and events lie on disk on TimescaleDB with its community licence, as questions and late events want it.
-- Elsewhere nothing of this is made. Every statement may be run again.
-- compatible: 0.1.0
-- rollback: safe
-- locks: ACCESS EXCLUSIVE on observability.event, brief

-- Rollups by service and method are made of those by series: an hour of a method is one histogram, where it was a row for
-- each bin, and its totals are a row for each status, where they were summed over all of its series. They are made beside
-- those that are read until they are complete; refreshes keep both up to date.
DO $make$
DECLARE
    aggregate constant text := 'CREATE MATERIALIZED VIEW observability.%1$I
        WITH (timescaledb.continuous, timescaledb.materialized_only = true, timescaledb.create_group_indexes = false)
        AS %2$s WITH NO DATA';
    refresh   constant oid  := to_regprocedure('observability.refresh_day(timestamptz, timestamptz[])');
    name      text;
BEGIN
    IF refresh IS NULL OR to_regclass('observability.coarse_totals_day') IS NOT NULL THEN
        RETURN;
    END IF;
    EXECUTE format(aggregate, 'coarse_histogram_hour',
        'SELECT time_bucket(interval ''1 hour'', h.bucket) AS bucket, s.account, s.service, s.method,
                sum(observability.histogram_of(h.hits, h.bin)) AS histogram
         FROM observability.histogram_hour AS h JOIN observability.series AS s ON s.id = h.series
         GROUP BY 1, 2, 3, 4');
    EXECUTE format(aggregate, 'coarse_histogram_day',
        'SELECT time_bucket(interval ''1 day'', bucket) AS bucket, account, service, method, sum(histogram) AS histogram
         FROM observability.coarse_histogram_hour GROUP BY 1, 2, 3, 4');
    EXECUTE format(aggregate, 'coarse_totals_hour',
        -- Of the hits in a row of rollup_hour, all have a latency or none; see 0006.
        'SELECT time_bucket(interval ''1 hour'', r.bucket) AS bucket, s.account, s.service, s.method, r.status_code,
                sum(r.hits)::bigint AS hits, sum(r.latency_sum_ms)::bigint AS latency_sum_ms,
                min(r.latency_min_ms) AS latency_min_ms, max(r.latency_max_ms) AS latency_max_ms,
                sum(CASE WHEN r.latency_sum_ms IS NULL THEN 0 ELSE r.hits END)::bigint AS latency_hits
         FROM observability.rollup_hour AS r JOIN observability.series AS s ON s.id = r.series
         GROUP BY 1, 2, 3, 4, 5');
    EXECUTE format(aggregate, 'coarse_totals_day',
        'SELECT time_bucket(interval ''1 day'', bucket) AS bucket, account, service, method, status_code,
                sum(hits)::bigint AS hits, sum(latency_sum_ms)::bigint AS latency_sum_ms,
                min(latency_min_ms) AS latency_min_ms, max(latency_max_ms) AS latency_max_ms,
                sum(latency_hits)::bigint AS latency_hits
         FROM observability.coarse_totals_hour GROUP BY 1, 2, 3, 4, 5');
    FOREACH name IN ARRAY ARRAY['coarse_histogram_hour', 'coarse_histogram_day', 'coarse_totals_hour', 'coarse_totals_day']
    LOOP
        EXECUTE format('CREATE INDEX ON observability.%I (account, service, method, bucket)', name);
    END LOOP;
    -- Each is made of one that comes before it.
    CREATE FUNCTION observability.aggregate_kinds() RETURNS text[] LANGUAGE sql STABLE AS
        $$ SELECT ARRAY['rollup', 'histogram', 'coarse', 'coarse_histogram', 'coarse_totals'] $$;
    EXECUTE replace(pg_get_functiondef(refresh), $$ARRAY['rollup', 'histogram', 'coarse']$$,
                    'observability.aggregate_kinds()');
    IF pg_get_functiondef(refresh) NOT LIKE '%aggregate_kinds()%' THEN
        RAISE EXCEPTION 'observability.refresh_day is not the procedure that migrations made';
    END IF;
END
$make$;

-- What rollups know already, also of events that retention has removed.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['coarse_histogram_hour', 'coarse_histogram_day', 'coarse_totals_hour', 'coarse_totals_day']
    LOOP
        CONTINUE WHEN to_regclass('observability.coarse_histogram_day') IS NULL;
        CALL refresh_continuous_aggregate(to_regclass('observability.' || name), NULL, NULL);
    END LOOP;
END
$$;

-- Read them, under the names of those before.
DO $make$
DECLARE
    unit text;
BEGIN
    IF to_regclass('observability.coarse_histogram_day') IS NULL THEN
        RETURN;
    END IF;
    DROP VIEW observability.both_coarse_hour, observability.both_coarse_day,
              observability.histograms_coarse_hour, observability.histograms_coarse_day,
              observability.cells_coarse_hour, observability.cells_coarse_day;
    DROP MATERIALIZED VIEW observability.coarse_day;
    DROP MATERIALIZED VIEW observability.coarse_hour;
    FOREACH unit IN ARRAY ARRAY['hour', 'day'] LOOP
        EXECUTE format('ALTER MATERIALIZED VIEW observability.coarse_histogram_%1$s RENAME TO coarse_%1$s', unit);
        -- There is no row-level security for continuous aggregates; see 0011.
        EXECUTE format($view$
            CREATE VIEW observability.cells_coarse_%1$s AS
            SELECT bucket, account, service, method, hits, latency_sum_ms, latency_max_ms,
                   ARRAY[status_code] AS status_codes, ARRAY[hits] AS status_ends, latency_min_ms, latency_hits
            FROM observability.coarse_totals_%1$s WHERE %2$s;
            CREATE VIEW observability.histograms_coarse_%1$s AS
            SELECT bucket, account, service, method, ARRAY[histogram] AS histograms
            FROM observability.coarse_%1$s WHERE %2$s;
            CREATE VIEW observability.both_coarse_%1$s AS
            SELECT *, NULL::numeric[] AS histograms FROM observability.cells_coarse_%1$s
            UNION ALL
            SELECT bucket, account, service, method, NULL, NULL, NULL, NULL, NULL, NULL, NULL, histograms
            FROM observability.histograms_coarse_%1$s $view$,
            unit, 'CASE WHEN (SELECT tiercel.current_account()) IS NULL THEN true
                        ELSE account = (SELECT tiercel.current_account()) END');
    END LOOP;
    CREATE OR REPLACE FUNCTION observability.aggregate_kinds() RETURNS text[] LANGUAGE sql STABLE AS
        $$ SELECT ARRAY['rollup', 'histogram', 'coarse', 'coarse_totals'] $$;
END
$make$;

-- Rollups by series as columns, a tenth of their size, those of a series together. Without the indexes by status and by
-- bin, which nothing reads.
DO $$
DECLARE
    name  text;
    keys  text;
    index regclass;
BEGIN
    IF to_regclass('observability.coarse_totals_day') IS NULL THEN
        RETURN;
    END IF;
    FOR index IN
        SELECT format('%I.%I', i.schemaname, i.indexname)::regclass
        FROM timescaledb_information.continuous_aggregates AS c
        JOIN pg_indexes AS i
            ON i.schemaname = c.materialization_hypertable_schema AND i.tablename = c.materialization_hypertable_name
        WHERE c.view_schema = 'observability' AND i.indexdef ~ '\((status_code|bin), '
    LOOP
        EXECUTE format('DROP INDEX %s', index);
    END LOOP;
    FOR name, keys IN VALUES ('rollup_hour', 'series, bucket'), ('histogram_hour', 'series, bucket, bin'),
                             ('rollup_day', 'series, bucket')
    LOOP
        CONTINUE WHEN EXISTS (
            SELECT FROM timescaledb_information.continuous_aggregates
            WHERE view_schema = 'observability' AND view_name = name AND compression_enabled);
        EXECUTE format('ALTER MATERIALIZED VIEW observability.%I SET
            (timescaledb.compress, timescaledb.compress_segmentby = '''', timescaledb.compress_orderby = %L)', name, keys);
    END LOOP;
END
$$;

-- Events as columns in the order of time, all series together: a list reads the rows that it shows, and a late event is
-- compared with those of its time, where it was with one batch of each series.
DO $$
BEGIN
    IF to_regclass('observability.coarse_totals_day') IS NOT NULL THEN
        ALTER TABLE observability.event SET (timescaledb.compress, timescaledb.compress_segmentby = '',
            timescaledb.compress_orderby = 'time DESC, id');
    END IF;
EXCEPTION WHEN feature_not_supported THEN
    -- Before 2.15, all chunks of a table have one layout.
    RAISE NOTICE 'columnar chunks of observability.event keep their layout: %', SQLERRM;
END
$$;

-- What no policy of TimescaleDB does: makes columns of rollups, for which it wants a policy of its own that refreshes them,
-- and makes columns anew of events that are in the former layout. Chunk by chunk, so that nobody waits for long.
DO $make$
BEGIN
    IF to_regclass('observability.coarse_totals_day') IS NULL
        OR to_regprocedure('observability.columnstore_policy(integer, jsonb)') IS NOT NULL THEN
        RETURN;
    END IF;
    CREATE PROCEDURE observability.columnstore_policy(job_id integer, config jsonb) LANGUAGE plpgsql AS $$
    DECLARE
        name  text;
        chunk regclass;
    BEGIN
        FOREACH name IN ARRAY ARRAY['rollup_hour', 'histogram_hour', 'rollup_day'] LOOP
            FOR chunk IN
                SELECT show_chunks(format('observability.%I', name)::regclass, older_than => interval '7 days')
            LOOP
                PERFORM compress_chunk(chunk, if_not_compressed => true);
                COMMIT;
            END LOOP;
        END LOOP;
        IF (SELECT coalesce(segmentby, '') = '' FROM timescaledb_information.hypertable_compression_settings
            WHERE hypertable = 'observability.event'::regclass) THEN
            FOR chunk IN
                SELECT settings.chunk FROM timescaledb_information.chunk_compression_settings AS settings
                WHERE settings.hypertable = 'observability.event'::regclass AND settings.segmentby = 'series'
            LOOP
                PERFORM decompress_chunk(chunk, if_compressed => true);
                PERFORM compress_chunk(chunk, if_not_compressed => true);
                COMMIT;
            END LOOP;
        END IF;
    END
    $$;
    PERFORM add_job('observability.columnstore_policy', interval '12 hours');
END
$make$;
