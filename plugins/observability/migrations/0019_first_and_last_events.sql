-- When the first and the last event of each series and day happened, where chunks of old events are columns: to look one of
-- them up there decompresses a batch of events. Elsewhere an index of events tells as fast, and the view is empty.
-- compatible: 0.1.0
-- rollback: safe
-- locks: none
DO $make$
DECLARE
    refresh constant oid  := to_regprocedure('observability.refresh_day(timestamptz, timestamptz[])');
    forget  constant text := 'DELETE FROM observability.rollup_touched WHERE id = ANY(seen);';
BEGIN
IF refresh IS NULL THEN
    CREATE VIEW observability.seen_day AS
    SELECT NULL::timestamptz AS bucket, NULL::integer AS series, NULL::timestamptz AS first_seen,
           NULL::timestamptz AS last_seen
    WHERE false;
    RETURN;
END IF;

-- Of events, not of hours: a day that is there is complete, also while older days are not there yet.
CREATE MATERIALIZED VIEW observability.seen_day
WITH (timescaledb.continuous, timescaledb.materialized_only = true, timescaledb.create_group_indexes = false) AS
SELECT time_bucket(interval '1 day', time) AS bucket, series, min(time) AS first_seen, max(time) AS last_seen
FROM observability.event GROUP BY 1, 2
WITH NO DATA;

IF position(forget IN pg_get_functiondef(refresh)) = 0 THEN
    RAISE EXCEPTION 'observability.refresh_day is not the procedure that migrations made';
END IF;
EXECUTE replace(pg_get_functiondef(refresh), forget,
    $call$CALL refresh_continuous_aggregate('observability.seen_day', day, day + interval '24 hours');
    $call$ || forget);

-- Days from before, the newest first, a day in a transaction. What is not there yet is looked up in the events. Takes turns
-- with refreshes, see 0003.
CREATE PROCEDURE observability.seen_policy(job_id integer, config jsonb) LANGUAGE plpgsql AS $$
DECLARE
    days  timestamptz[];
    today timestamptz;
BEGIN
    SELECT array_agg(bucket ORDER BY bucket DESC) INTO days
    FROM (SELECT bucket FROM observability.rollup_day
          WHERE bucket >= (SELECT from_time FROM observability.retention WHERE level = 'raw')
          EXCEPT
          SELECT bucket FROM observability.seen_day) AS missing;
    FOREACH today IN ARRAY coalesce(days, '{}') LOOP
        COMMIT;
        IF NOT pg_try_advisory_lock(hashtext('observability.rollups')) THEN
            RETURN;
        END IF;
        CALL refresh_continuous_aggregate('observability.seen_day', today, today + interval '24 hours');
        PERFORM pg_advisory_unlock(hashtext('observability.rollups'));
    END LOOP;
END
$$;
PERFORM add_job('observability.seen_policy', interval '1 hour');
END
$make$;

-- The events of a trace between two times. It may be in any chunk, and to plan that takes TimescaleDB longer than to look:
-- the plan is kept, one for each session. Elsewhere the function becomes a part of the statement that calls it, which has
-- the times as well, if there are any.
DO $make$
BEGIN
IF (SELECT relkind = 'p' FROM pg_class WHERE oid = 'observability.event'::regclass) THEN
    CREATE FUNCTION observability.events_of_trace(id text, from_time timestamptz, to_time timestamptz)
    RETURNS SETOF observability.event LANGUAGE sql STABLE AS $$
        SELECT * FROM observability.event WHERE trace_id = $1
    $$;
ELSE
    CREATE FUNCTION observability.events_of_trace(id text, from_time timestamptz, to_time timestamptz)
    RETURNS SETOF observability.event LANGUAGE plpgsql STABLE ROWS 100 SET plan_cache_mode = force_generic_plan AS $$
    BEGIN
        RETURN QUERY SELECT * FROM observability.event WHERE trace_id = $1 AND time >= $2 AND time <= $3;
    END
    $$;
END IF;
END
$make$;
