-- Chunks of rollups by age, as those of events: days of former years are refreshed in bulk and rarely, and chunks of ten days
-- would be thousands of tables, hundreds of which one question has to lock.
-- compatible: 0.1.0
-- rollback: safe
-- locks: none
DO $make$
DECLARE
    refresh constant oid  := to_regprocedure('observability.refresh_day(timestamptz, timestamptz[])');
    first   constant text := 'FOREACH kind IN ARRAY observability.aggregate_kinds() LOOP';
BEGIN
IF refresh IS NULL OR to_regclass('observability.coarse_totals_day') IS NULL THEN
    RETURN;
END IF;

-- Set how long new chunks of rollups are, for a day that is about to be refreshed: the longest that is over for a month.
-- Those of days may be longer than those of hours, which have more rows: a late event is looked for in all of its chunk.
CREATE FUNCTION observability.size_rollup_chunks(day timestamptz) RETURNS void LANGUAGE plpgsql AS $$
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
            SELECT coalesce(max(days), 10) AS days
            FROM unnest(CASE WHEN c.view_name LIKE '%\_day' THEN ARRAY[360, 30] ELSE ARRAY[90, 30] END) AS days
            WHERE day < now() - make_interval(days => days + 31)) AS wanted
        WHERE c.view_schema = 'observability' AND d.time_interval <> make_interval(days => wanted.days)
    LOOP
        PERFORM set_chunk_time_interval(hypertable, length);
    END LOOP;
END
$$;

EXECUTE replace(pg_get_functiondef(refresh), first,
                'PERFORM observability.size_rollup_chunks(day); COMMIT; ' || first);
IF pg_get_functiondef(refresh) NOT LIKE '%size_rollup_chunks(day)%' THEN
    RAISE EXCEPTION 'observability.refresh_day is not the procedure that migrations made';
END IF;
END
$make$;
