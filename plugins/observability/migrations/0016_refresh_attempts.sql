-- A day whose rollups cannot be computed does not keep the others from being computed, and is known by name.
-- compatible: 0.1.0
-- rollback: safe
-- locks: none

-- Refreshes of a day that have begun and not ended: one that failed, whose process was killed, or that is running.
CREATE TABLE observability.refresh_attempt (
    bucket   timestamptz PRIMARY KEY,
    since    timestamptz NOT NULL DEFAULT now(),
    attempts integer     NOT NULL DEFAULT 1,
    -- Of the latest that failed; NULL if none said why.
    error    text
);

-- See 0002: the logarithm never fails.
CREATE OR REPLACE FUNCTION observability.latency_bin(latency_ms integer) RETURNS smallint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN latency_ms <= 0 THEN -1
                ELSE ceil(ln(int4larger(latency_ms, 1)::float8) / ln(1.02::float8)) END::smallint
$$;

DO $make$
BEGIN
IF (SELECT relkind <> 'p' FROM pg_class WHERE oid = 'observability.event'::regclass) THEN
    CREATE OR REPLACE FUNCTION observability.ensure_partitions(days date[]) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type',
            MESSAGE = 'observability.event is a hypertable: TimescaleDB makes its chunks itself';
    END
    $$;
END IF;
IF to_regprocedure('observability.refresh_day(timestamptz, timestamptz[])') IS NULL THEN
    RETURN;
END IF;

CREATE OR REPLACE PROCEDURE observability.refresh_day(day timestamptz, hours timestamptz[]) LANGUAGE plpgsql AS $$
DECLARE
    vectorized constant text := 'timescaledb.enable_vectorized_aggregation';
    was_vectorized text;
    seen   bigint[];
    starts timestamptz[];
    ends   timestamptz[];
    kind   text;
BEGIN
    -- Continuous aggregates from before keep an expression whose logarithm fails where TimescaleDB vectorises. They cannot
    -- be altered, and to make them anew would lose what is known of events that retention has removed. The setting takes
    -- effect for the session, as each refresh below commits.
    IF EXISTS (
        SELECT FROM timescaledb_information.continuous_aggregates
        WHERE view_schema = 'observability' AND view_name IN ('histogram_hour', 'coarse_hour')
          AND view_definition NOT LIKE '%int4larger%') THEN
        was_vectorized := current_setting(vectorized, true);
    END IF;
    IF was_vectorized IS NOT NULL THEN
        PERFORM set_config(vectorized, 'off', false);
    END IF;
    INSERT INTO observability.refresh_attempt AS attempt VALUES (day)
    ON CONFLICT ON CONSTRAINT refresh_attempt_pkey DO UPDATE SET attempts = attempt.attempts + 1;
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
    IF was_vectorized IS NOT NULL THEN
        PERFORM set_config(vectorized, was_vectorized, false);
    END IF;
    DELETE FROM observability.rollup_touched WHERE id = ANY(seen);
    DELETE FROM observability.refresh_attempt WHERE bucket = day;
    COMMIT;
END
$$;

-- As in 0003, but days whose refresh has failed come last: a procedure that commits cannot go on after an error, but the
-- next run of the policy does.
CREATE OR REPLACE PROCEDURE observability.refresh_policy(job_id integer, config jsonb) LANGUAGE plpgsql AS $$
DECLARE
    days  timestamptz[];
    today timestamptz;
    hours timestamptz[];
BEGIN
    IF NOT pg_try_advisory_lock(hashtext('observability.rollups')) THEN
        RETURN;
    END IF;
    SELECT array_agg(day ORDER BY coalesce(attempts, 0), day) INTO days
    FROM (SELECT DISTINCT date_trunc('day', hour, 'UTC') AS day
          FROM observability.rollup_touched
          WHERE hour < date_trunc('hour', now(), 'UTC')) AS dirty
    LEFT JOIN observability.refresh_attempt ON bucket = day;
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
END
$make$;
