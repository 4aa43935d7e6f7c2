-- On which days a trace has events, where events of old days are columns: there is no index of these, and to look for a trace
-- in each of their batches takes the longer the more events there are. Elsewhere nothing of this is made.
-- compatible: 0.1.0
-- rollback: safe
-- locks: none
DO $make$
DECLARE
    refresh constant oid  := to_regprocedure('observability.refresh_day(timestamptz, timestamptz[])');
    forget  constant text := 'DELETE FROM observability.rollup_touched WHERE id = ANY(seen);';
BEGIN
IF refresh IS NULL THEN
    RETURN;
END IF;

-- Hashes of the trace ids of a day, by their remainder modulo 128, so that one trace is looked for in a small part of them.
-- Another trace may have the same hash, and one may be removed: the events tell.
CREATE TABLE observability.trace_day (
    bucket    timestamptz NOT NULL,
    remainder smallint    NOT NULL,
    hashes    integer[]   NOT NULL,
    PRIMARY KEY (remainder, bucket)
);
-- Hashes cannot be compressed.
ALTER TABLE observability.trace_day ALTER COLUMN hashes SET STORAGE EXTERNAL;

-- The days before this have all of their traces there, except for those of dirty hours. A start of a day, UTC.
CREATE TABLE observability.trace_watermark (until timestamptz NOT NULL);
INSERT INTO observability.trace_watermark VALUES ('-infinity');

CREATE FUNCTION observability.add_traces(day timestamptz, start_time timestamptz, end_time timestamptz)
RETURNS void LANGUAGE sql AS $$
    INSERT INTO observability.trace_day AS known (bucket, remainder, hashes)
    SELECT day, hash & 127, array_agg(hash)
    FROM (SELECT DISTINCT hashtext(trace_id) AS hash FROM observability.event
          WHERE time >= start_time AND time < end_time AND trace_id IS NOT NULL) AS found
    GROUP BY hash & 127
    ON CONFLICT (remainder, bucket) DO UPDATE
    SET hashes = ARRAY(SELECT unnest(known.hashes) UNION SELECT unnest(excluded.hashes))
    WHERE EXISTS (SELECT unnest(excluded.hashes) EXCEPT SELECT unnest(known.hashes))
$$;

-- Those of late events.
IF position(forget IN pg_get_functiondef(refresh)) = 0 THEN
    RAISE EXCEPTION 'observability.refresh_day is not the procedure that migrations made';
END IF;
EXECUTE replace(pg_get_functiondef(refresh), forget,
    $call$IF day < (SELECT until FROM observability.trace_watermark) THEN
        FOR number IN 1 .. cardinality(starts) LOOP
            PERFORM observability.add_traces(day, starts[number], ends[number]);
        END LOOP;
    END IF;
    $call$ || forget);

-- Those of days that are columns now or about to be, the oldest first, a day in a transaction. Takes turns with refreshes,
-- see 0003. A day that has no rollups yet is dirty.
CREATE PROCEDURE observability.trace_policy(job_id integer, config jsonb) LANGUAGE plpgsql AS $$
DECLARE
    kept_from constant timestamptz := (SELECT from_time FROM observability.retention WHERE level = 'raw');
    day timestamptz;
BEGIN
    DELETE FROM observability.trace_day USING generate_series(0, 127) AS number
    WHERE remainder = number AND bucket < kept_from - interval '24 hours';
    LOOP
        COMMIT;
        IF NOT pg_try_advisory_xact_lock(hashtext('observability.rollups')) THEN
            RETURN;
        END IF;
        SELECT min(bucket) INTO day FROM observability.rollup_day
        WHERE bucket >= (SELECT greatest(until, kept_from - interval '24 hours') FROM observability.trace_watermark)
          AND bucket < now() - interval '8 days';
        EXIT WHEN day IS NULL;
        PERFORM observability.add_traces(day, day, day + interval '24 hours');
        UPDATE observability.trace_watermark SET until = day + interval '24 hours';
    END LOOP;
END
$$;
PERFORM add_job('observability.trace_policy', interval '1 hour');

-- The events of a trace between two times: of the days that may have some, which are a few or all, and of those that are not
-- known yet, where indexes tell. To plan that takes TimescaleDB longer than to look: the plan is kept, one for each session.
CREATE OR REPLACE FUNCTION observability.events_of_trace(id text, from_time timestamptz, to_time timestamptz)
RETURNS SETOF observability.event LANGUAGE plpgsql STABLE ROWS 100 SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    days_max    constant integer     := 30;
    hash        constant integer     := hashtext($1);
    known_until constant timestamptz := (SELECT until FROM observability.trace_watermark);
    starts timestamptz[];
    ends   timestamptz[];
BEGIN
    SELECT array_agg(day ORDER BY day), array_agg(day + interval '24 hours' ORDER BY day) INTO starts, ends
    FROM (SELECT bucket AS day FROM observability.trace_day WHERE remainder = hash & 127 AND hash = ANY(hashes)
          UNION
          SELECT date_trunc('day', hour, 'UTC') FROM observability.rollup_touched WHERE hour < known_until) AS found
    WHERE day > $2 - interval '24 hours' AND day <= $3;
    IF cardinality(starts) > days_max THEN
        starts := starts[1:1];
        ends := ARRAY[known_until];
    END IF;
    RETURN QUERY
    SELECT e.*
    FROM unnest(starts || known_until, ends || 'infinity'::timestamptz) AS span (start_time, end_time)
    CROSS JOIN LATERAL (
        SELECT * FROM observability.event
        WHERE trace_id = $1 AND time >= span.start_time AND time < span.end_time AND time >= $2 AND time <= $3
        OFFSET 0) AS e;
END
$$;
END
$make$;
