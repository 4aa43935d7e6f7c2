-- What TimescaleDB with its community licence does by itself. Elsewhere nothing of this is made.

DO $make$
BEGIN
IF to_regclass('observability.rollup_hour') IS NULL OR NOT EXISTS (
    SELECT FROM pg_class WHERE oid = 'observability.rollup_hour'::regclass AND relkind = 'v') THEN
    RETURN;
END IF;

-- Refresh hours of a day, and the day. Forget the entries of the log that were there before it began: whoever writes
-- after that touches the hour again.
CREATE PROCEDURE observability.refresh_day(day timestamptz, hours timestamptz[]) LANGUAGE plpgsql AS $$
DECLARE
    seen   bigint[];
    starts timestamptz[];
    ends   timestamptz[];
    kind   text;
BEGIN
    SELECT array_agg(id) INTO seen FROM observability.rollup_touched WHERE hour = ANY(hours);
    -- Hours that follow one another are refreshed at once.
    SELECT array_agg(first), array_agg(last + interval '1 hour') INTO starts, ends
    FROM (SELECT min(hour) AS first, max(hour) AS last
          FROM (SELECT hour, hour - row_number() OVER (ORDER BY hour) * interval '1 hour' AS island
                FROM unnest(hours) AS hour) AS numbered
          GROUP BY island) AS run;
    COMMIT;
    FOREACH kind IN ARRAY ARRAY['rollup', 'histogram', 'coarse'] LOOP
        FOR number IN 1 .. cardinality(starts) LOOP
            CALL refresh_continuous_aggregate(
                ('observability.' || kind || '_hour')::regclass, starts[number], ends[number]);
        END LOOP;
        -- Not a day: in a session's time zone, that may have 23 hours or 25.
        CALL refresh_continuous_aggregate(
            ('observability.' || kind || '_day')::regclass, day, day + interval '24 hours');
    END LOOP;
    DELETE FROM observability.rollup_touched WHERE id = ANY(seen);
    COMMIT;
END
$$;

-- The refresh policy: hours that are over, from the log. Not one of TimescaleDB's own: such a policy takes what is to be
-- refreshed from TimescaleDB's lists in one transaction and writes it in the next, so that whoever refreshes in between
-- finds nothing to do, and would forget hours that are not written yet. This one takes turns with every other refresh.
CREATE PROCEDURE observability.refresh_policy(job_id integer, config jsonb) LANGUAGE plpgsql AS $$
DECLARE
    days  timestamptz[];
    today timestamptz;
    hours timestamptz[];
BEGIN
    IF NOT pg_try_advisory_lock(hashtext('observability.rollups')) THEN
        RETURN;
    END IF;
    SELECT array_agg(DISTINCT date_trunc('day', hour, 'UTC') ORDER BY date_trunc('day', hour, 'UTC')) INTO days
    FROM observability.rollup_touched
    WHERE hour < date_trunc('hour', now(), 'UTC');
    FOREACH today IN ARRAY coalesce(days, '{}') LOOP
        SELECT array_agg(DISTINCT hour ORDER BY hour) INTO hours
        FROM observability.rollup_touched
        WHERE hour >= today AND hour < least(today + interval '24 hours', date_trunc('hour', now(), 'UTC'))
          AND hour >= (SELECT from_time FROM observability.retention WHERE level = 'raw');
        COMMIT;
        IF hours IS NOT NULL THEN
            CALL observability.refresh_day(today, hours);
        END IF;
    END LOOP;
    -- A job's session ends with it, however it ends, and the lock with that; whoever calls this by hand keeps neither.
    PERFORM pg_advisory_unlock(hashtext('observability.rollups'));
END
$$;

PERFORM add_job('observability.refresh_policy', interval '5 minutes');

-- Old chunks as columns. Events of one series lie together, the newest first: the order of every list and of the unique
-- index. Late events and edits still find their way in.
IF EXISTS (SELECT FROM pg_proc WHERE proname = 'add_columnstore_policy') THEN
    ALTER TABLE observability.event SET (timescaledb.enable_columnstore = true,
        timescaledb.segmentby = 'series', timescaledb.orderby = 'time DESC, id');
    CALL add_columnstore_policy('observability.event', after => interval '7 days');
ELSE
    ALTER TABLE observability.event SET (timescaledb.compress,
        timescaledb.compress_segmentby = 'series', timescaledb.compress_orderby = 'time DESC, id');
    PERFORM add_compression_policy('observability.event', compress_after => interval '7 days');
END IF;
END
$make$;
