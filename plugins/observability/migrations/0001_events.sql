-- The store of request logs: a dictionary of series, and events that point to it.
-- earlier-checksum: d6cdd77a6967c757abbd3cf5240e1d3709da3e33800d3d6407e53f40a007c3c7
DO $$
BEGIN
    -- Not IF NOT EXISTS: that needs the privilege to create schemas even where somebody else created this one.
    IF to_regnamespace('observability') IS NULL THEN
        CREATE SCHEMA observability;
    END IF;
END
$$;

-- A row of events holds a number instead of three texts: a quarter of the bytes, and filters resolve here first.
CREATE TABLE observability.series (
    id       integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account  integer NOT NULL DEFAULT 0,
    site     integer NOT NULL DEFAULT 0,
    service  text    NOT NULL,
    endpoint text    NOT NULL,
    method   text    NOT NULL,
    UNIQUE (account, site, service, endpoint, method)
);

-- Filters compare without case.
CREATE INDEX series_lower ON observability.series (account, lower(service), lower(endpoint), lower(method));

-- Events whose time was edited: their ids still begin with the old time.
CREATE TABLE observability.event_moved (
    id   uuid        PRIMARY KEY,
    time timestamptz NOT NULL
);

-- What was received and what became of it: one row a batch, only ever appended, so that writers never wait for each
-- other. Summed when it is read.
CREATE TABLE observability.ingest_ledger (
    at        timestamptz NOT NULL DEFAULT now(),
    account   integer     NOT NULL,
    key       text        NOT NULL,
    received  integer     NOT NULL,
    stored    integer     NOT NULL,
    duplicate integer     NOT NULL,
    rejected  integer     NOT NULL,
    capped    integer     NOT NULL,
    reasons   jsonb       NOT NULL,
    CHECK (received = stored + duplicate + rejected)
);
CREATE INDEX ingest_ledger_at ON observability.ingest_ledger (account, at);

-- What native partitions cover which time. Empty where events live in a hypertable.
CREATE TABLE observability.event_partition (
    name      text        PRIMARY KEY,
    from_time timestamptz NOT NULL,
    to_time   timestamptz NOT NULL
);

DO $$
DECLARE
    columns constant text := 'id uuid NOT NULL, time timestamptz NOT NULL, series integer NOT NULL,
        status_code smallint NOT NULL, latency_ms integer, trace_id text, user_ref text, tags jsonb NOT NULL';
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        EXECUTE format('CREATE TABLE observability.event (%s)', columns);
        PERFORM create_hypertable('observability.event', 'time',
                                  chunk_time_interval => interval '1 day', create_default_indexes => false);
    ELSE
        EXECUTE format('CREATE TABLE observability.event (%s) PARTITION BY RANGE (time)', columns);
    END IF;
END
$$;

-- Serves listing, time ranges, look-up by id (the id gives the millisecond) and replays.
CREATE UNIQUE INDEX event_time_id ON observability.event (time DESC, id);
CREATE INDEX event_series_time ON observability.event (series, time DESC);
CREATE INDEX event_trace_id ON observability.event (trace_id) WHERE trace_id IS NOT NULL;

-- Make the partitions that some days need, without stopping writers: the new table is made apart and then attached,
-- which takes a lock that inserts do not wait for. Recent days get one each. Older events come in bulk and rarely: a
-- month of last year is one partition, a year before that as well, so that fifty years are some 50 tables and not
-- 18,000, each of which every list without a time would have to lock.
CREATE FUNCTION observability.ensure_partitions(days date[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    today     constant date := (now() AT TIME ZONE 'UTC')::date;
    wanted    date;
    unit      text;
    from_day  date;
    to_day    date;
    partition text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('observability.ensure_partitions'));
    -- Forget those that somebody dropped or detached by hand.
    DELETE FROM observability.event_partition AS p
    WHERE NOT EXISTS (
        SELECT FROM pg_inherits
        WHERE inhparent = 'observability.event'::regclass AND inhrelid = to_regclass('observability.' || p.name));
    FOREACH wanted IN ARRAY days LOOP
        CONTINUE WHEN EXISTS (
            SELECT FROM observability.event_partition AS p
            WHERE p.from_time <= wanted::timestamp AT TIME ZONE 'UTC' AND p.to_time > wanted::timestamp AT TIME ZONE 'UTC');
        FOREACH unit IN ARRAY ARRAY['year', 'month', 'day'] LOOP
            from_day := date_trunc(unit, wanted::timestamp)::date;
            to_day := (from_day + ('1 ' || unit)::interval)::date;
            EXIT WHEN unit = 'day';
            EXIT WHEN to_day <= today - CASE unit WHEN 'year' THEN 366 ELSE 31 END AND NOT EXISTS (
                SELECT FROM observability.event_partition AS p
                WHERE p.from_time < to_day::timestamp AT TIME ZONE 'UTC'
                  AND p.to_time > from_day::timestamp AT TIME ZONE 'UTC');
        END LOOP;
        partition := 'event_' || to_char(from_day, CASE unit WHEN 'year' THEN 'YYYY' WHEN 'month' THEN 'YYYYMM'
                                                              ELSE 'YYYYMMDD' END);
        WHILE to_regclass('observability.' || partition) IS NOT NULL LOOP
            partition := partition || '_';
        END LOOP;
        EXECUTE format('CREATE TABLE observability.%I (LIKE observability.event INCLUDING DEFAULTS)', partition);
        EXECUTE format('ALTER TABLE observability.event ATTACH PARTITION observability.%I FOR VALUES FROM (%L) TO (%L)',
                       partition, from_day::timestamp AT TIME ZONE 'UTC', to_day::timestamp AT TIME ZONE 'UTC');
        INSERT INTO observability.event_partition
        VALUES (partition, from_day::timestamp AT TIME ZONE 'UTC', to_day::timestamp AT TIME ZONE 'UTC');
    END LOOP;
END
$$;
