-- Chunks of a hypertable by age, as partitions are elsewhere: events of former years come in bulk and rarely, and a chunk for
-- each of their days would be thousands of tables, which every list without a time has to lock.
-- compatible: 0.1.0
-- rollback: safe
-- locks: none
DO $make$
BEGIN
IF (SELECT relkind = 'p' FROM pg_class WHERE oid = 'observability.event'::regclass) THEN
    CREATE FUNCTION observability.ensure_days(days date[]) RETURNS void LANGUAGE sql AS
        $$ SELECT observability.ensure_partitions(days) $$;
    RETURN;
END IF;

-- Make the chunks of some days of long ago, 30 days or 360 days long where nothing is stored yet: next to another chunk,
-- TimescaleDB makes them shorter. It makes those of recent days itself, which are a day long.
CREATE FUNCTION observability.ensure_days(days date[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    today  constant date := (now() AT TIME ZONE 'UTC')::date;
    wanted date;
    length integer;
    end_day date;
BEGIN
    -- Only the owner may change how long chunks are; what others write gets chunks of a day.
    IF NOT (SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = 'observability.event'::regclass) THEN
        RETURN;
    END IF;
    FOREACH wanted IN ARRAY days LOOP
        FOREACH length IN ARRAY ARRAY[360, 30, 1] LOOP
            end_day := '1970-01-01'::date + ((wanted - '1970-01-01'::date) / length + 1) * length;
            EXIT WHEN end_day <= today - CASE length WHEN 360 THEN 366 ELSE 31 END;
        END LOOP;
        CONTINUE WHEN length = 1;
        PERFORM pg_advisory_xact_lock(hashtext('observability.ensure_partitions'));
        CONTINUE WHEN EXISTS (
            SELECT FROM timescaledb_information.chunks
            WHERE hypertable_schema = 'observability' AND hypertable_name = 'event'
              AND range_start <= wanted::timestamp AT TIME ZONE 'UTC' AND range_end > wanted::timestamp AT TIME ZONE 'UTC');
        PERFORM set_chunk_time_interval('observability.event', make_interval(days => length));
        -- A chunk is made for a row only.
        INSERT INTO observability.event (id, time, series, status_code, tags)
        VALUES (gen_random_uuid(), wanted::timestamp AT TIME ZONE 'UTC', 0, 0, '{}');
        DELETE FROM observability.event WHERE time = wanted::timestamp AT TIME ZONE 'UTC' AND series = 0 AND status_code = 0;
        PERFORM set_chunk_time_interval('observability.event', interval '1 day');
    END LOOP;
END
$$;
END
$make$;
