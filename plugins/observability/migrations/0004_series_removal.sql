-- Series that nothing uses any more are removed, though processes remember numbers of series.

-- How often that was done. Numbers that were looked up at one generation are good for writes at that generation only:
-- each write looks in its own transaction, and whoever removes series waits for all that are under way.
CREATE TABLE observability.series_generation (number bigint NOT NULL);

INSERT INTO observability.series_generation VALUES (0);

-- An index knows for each series; without the setting a planner that hopes to meet one of its rows soon reads a whole
-- table for a series that has none.
CREATE FUNCTION observability.is_series_used(wanted integer) RETURNS boolean LANGUAGE sql STABLE
SET enable_seqscan = off AS $$
    SELECT EXISTS (SELECT FROM observability.event WHERE series = wanted)
        OR EXISTS (SELECT FROM observability.rollup_hour WHERE series = wanted)
        OR EXISTS (SELECT FROM observability.rollup_day WHERE series = wanted)
$$;
