-- Rollups by series and hour as columns in the order of time, and those by day as rows, on TimescaleDB with its community
-- licence. Elsewhere nothing of this is made.
-- compatible: 0.1.0
-- rollback: safe
-- locks: none

-- A refresh replaces rows of one day. In the order of time it decompresses these and no others, so that it takes as long
-- whatever else is in the chunk; by series first, it was all of the chunk.
DO $$
DECLARE
    name text;
    keys text;
BEGIN
    FOR name, keys IN VALUES ('rollup_hour', 'bucket, series'), ('histogram_hour', 'bucket, series, bin') LOOP
        CONTINUE WHEN to_regprocedure('observability.size_rollup_chunks(timestamptz)') IS NULL;
        EXECUTE format('ALTER MATERIALIZED VIEW observability.%I SET
            (timescaledb.compress, timescaledb.compress_segmentby = '''', timescaledb.compress_orderby = %L)', name, keys);
    END LOOP;
EXCEPTION WHEN feature_not_supported THEN
    -- Before 2.15, all chunks of a table have one layout.
    RAISE NOTICE 'columnar chunks of rollups keep their layout: %', SQLERRM;
END
$$;

-- Chunks of rollups may then be longer. Those of days are rows, in which an index finds a series; but what was seen on a
-- day is kept no longer than events are.
DO $make$
BEGIN
IF to_regprocedure('observability.size_rollup_chunks(timestamptz)') IS NULL THEN
    RETURN;
END IF;

-- Set how long new chunks of rollups are, for a day that is about to be refreshed.
CREATE OR REPLACE FUNCTION observability.size_rollup_chunks(day timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    hypertable regclass;
    length     interval;
BEGIN
    FOR hypertable, length IN
        SELECT format('%I.%I', d.hypertable_schema, d.hypertable_name)::regclass, make_interval(days => wanted.days)
        FROM timescaledb_information.continuous_aggregates AS c
        JOIN timescaledb_information.dimensions AS d
            ON d.hypertable_schema = c.materialization_hypertable_schema
            AND d.hypertable_name = c.materialization_hypertable_name
        CROSS JOIN LATERAL (
            SELECT CASE WHEN day < now() - interval '391 days' THEN 360
                        WHEN c.view_name LIKE '%\_day' AND c.view_name <> 'seen_day' THEN 90
                        WHEN day < now() - interval '61 days' THEN 30
                        ELSE 10 END AS days) AS wanted
        WHERE c.view_schema = 'observability' AND d.time_interval <> make_interval(days => wanted.days)
    LOOP
        PERFORM set_chunk_time_interval(hypertable, length);
    END LOOP;
END
$$;

-- As in 0017; and converts rollups that have the former layout, chunk by chunk, so that nobody waits for long.
CREATE OR REPLACE PROCEDURE observability.columnstore_policy(job_id integer, config jsonb) LANGUAGE plpgsql AS $$
DECLARE
    name  text;
    chunk regclass;
BEGIN
    FOREACH name IN ARRAY ARRAY['rollup_hour', 'histogram_hour'] LOOP
        FOR chunk IN
            SELECT show_chunks(format('observability.%I', name)::regclass, older_than => interval '7 days')
        LOOP
            PERFORM compress_chunk(chunk, if_not_compressed => true);
            COMMIT;
        END LOOP;
    END LOOP;
    -- Before 2.15, all chunks of a table have one layout.
    IF to_regclass('timescaledb_information.chunk_compression_settings') IS NOT NULL THEN
        FOR chunk IN
            SELECT former.chunk
            FROM timescaledb_information.hypertable_compression_settings AS wanted
            JOIN timescaledb_information.chunk_compression_settings AS former USING (hypertable)
            WHERE (wanted.hypertable = 'observability.event'::regclass AND coalesce(wanted.segmentby, '') = ''
                   AND former.segmentby = 'series')
                OR (wanted.orderby LIKE 'bucket,%' AND former.orderby LIKE 'series,%')
        LOOP
            PERFORM decompress_chunk(chunk, if_compressed => true);
            PERFORM compress_chunk(chunk, if_not_compressed => true);
            COMMIT;
        END LOOP;
    END IF;
    FOR chunk IN
        SELECT format('%I.%I', c.chunk_schema, c.chunk_name)::regclass
        FROM timescaledb_information.continuous_aggregates AS a
        JOIN timescaledb_information.chunks AS c
            ON c.hypertable_schema = a.materialization_hypertable_schema
            AND c.hypertable_name = a.materialization_hypertable_name
        WHERE a.view_schema = 'observability' AND a.view_name = 'rollup_day' AND c.is_compressed
    LOOP
        PERFORM decompress_chunk(chunk, if_compressed => true);
        COMMIT;
    END LOOP;
END
$$;
END
$make$;
