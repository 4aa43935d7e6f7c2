-- The status of a row of rollups as a column of the views, on TimescaleDB with its community licence, where a row has one. To
-- find it in arrays, which are made for each row, takes longer than all the rest of a sum. Elsewhere nothing of this is made.
-- compatible: 0.1.0
-- rollback: safe
-- locks: none
DO $make$
DECLARE
    kind text;
    keys text;
    unit text;
BEGIN
IF to_regclass('observability.coarse_totals_day') IS NULL THEN
    RETURN;
END IF;
FOREACH unit IN ARRAY ARRAY['hour', 'day'] LOOP
    EXECUTE format($view$
        CREATE OR REPLACE VIEW observability.cells_%1$s AS
        SELECT bucket, series, hits, latency_sum_ms, latency_max_ms, ARRAY[status_code] AS status_codes,
               ARRAY[hits] AS status_ends, latency_min_ms, CASE WHEN latency_sum_ms IS NULL THEN 0 ELSE hits END AS latency_hits,
               status_code
        FROM observability.rollup_%1$s;
        CREATE OR REPLACE VIEW observability.cells_coarse_%1$s AS
        SELECT bucket, account, service, method, hits, latency_sum_ms, latency_max_ms, ARRAY[status_code] AS status_codes,
               ARRAY[hits] AS status_ends, latency_min_ms, latency_hits, status_code
        FROM observability.coarse_totals_%1$s
        WHERE CASE WHEN (SELECT tiercel.current_account()) IS NULL THEN true
                   ELSE account = (SELECT tiercel.current_account()) END $view$, unit);
    FOR kind, keys IN VALUES ('', 'series'), ('coarse_', 'account, service, method') LOOP
        EXECUTE format($view$
            CREATE OR REPLACE VIEW observability.both_%1$s AS
            SELECT bucket, %2$s, hits, latency_sum_ms, latency_max_ms, status_codes, status_ends, latency_min_ms, latency_hits,
                   NULL::numeric[] AS histograms, status_code
            FROM observability.cells_%1$s
            UNION ALL
            SELECT bucket, %2$s, NULL, NULL, NULL, NULL, NULL, NULL, NULL, histograms, NULL
            FROM observability.histograms_%1$s $view$, kind || unit, keys);
    END LOOP;
END LOOP;
END
$make$;
