-- Smaller batches of rollups by series that are columns, on TimescaleDB with its community licence. Elsewhere nothing of this
-- is made.
-- compatible: 0.1.0
-- rollback: safe
-- locks: none
DO $make$
DECLARE
    policy   constant oid  := to_regprocedure('observability.columnstore_policy(integer, jsonb)');
    compress constant text := 'PERFORM compress_chunk(chunk, if_not_compressed => true);';
    body     text;
    place    integer;
BEGIN
IF to_regprocedure('observability.size_rollup_chunks(timestamptz)') IS NULL THEN
    RETURN;
END IF;

-- For the rest of the transaction. A batch has 1,000 rows otherwise, which are those of an hour and more where there are
-- as many series: in the order of series within an hour, a question about some of them skips the smaller batches of others.
-- Versions before 2.19.2 have no such setting.
CREATE FUNCTION observability.limit_rollup_batches() RETURNS void LANGUAGE sql AS $$
    SELECT set_config(name, '250', true) FROM pg_settings WHERE name = 'timescaledb.compression_batch_size_limit'
$$;

-- Where the policy makes columns of rollups, which is the first such place.
body := pg_get_functiondef(policy);
place := position(compress IN body);
IF place = 0 THEN
    RAISE EXCEPTION 'observability.columnstore_policy is not the procedure that migrations made';
END IF;
EXECUTE overlay(body PLACING 'PERFORM observability.limit_rollup_batches(); ' FROM place FOR 0);
END
$make$;
