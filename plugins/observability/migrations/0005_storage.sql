-- How events and rollups lie on disk, as questions want it.

-- Exact percentiles are read from the index alone: in a third of the time, for 15 bytes an event. How many hits and errors
-- there are, rollups know.
DROP INDEX observability.event_series_time;

CREATE INDEX event_series_time ON observability.event (series, time DESC) INCLUDE (latency_ms);

-- A histogram of a busy day has some two thousand bytes, from where on PostgreSQL compresses: to add some up takes twice
-- as long then. Where rollups are no tables of ours, they are left alone.
DO $$
DECLARE
    name regclass;
BEGIN
    FOR name IN
        SELECT oid FROM pg_class
        WHERE relnamespace = 'observability'::regnamespace AND relkind = 'r'
          AND relname IN ('rollup_hour', 'rollup_day', 'coarse_hour', 'coarse_day')
    LOOP
        EXECUTE format('ALTER TABLE %s SET (toast_tuple_target = 8160)', name);
    END LOOP;
END
$$;
