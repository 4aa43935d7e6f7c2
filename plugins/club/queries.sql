-- name: list_states
SELECT name, dataset, item_count, rejected_count, changed_at, succeeded_at, attempted_at, failed_at, failure, failures
FROM club.source
WHERE name = ANY(%(names)s)

-- name: list_contents
SELECT name, dataset, content
FROM club.source
WHERE name = ANY(%(names)s) AND content IS NOT NULL

-- name: save_fetched
INSERT INTO club.source
    (name, dataset, content, item_count, rejected_count, changed_at, succeeded_at, attempted_at)
VALUES (%(name)s, %(dataset)s, %(content)s, %(item_count)s, %(rejected_count)s, %(at)s, %(at)s, %(at)s)
ON CONFLICT (name) DO UPDATE
SET dataset = EXCLUDED.dataset, content = EXCLUDED.content, item_count = EXCLUDED.item_count,
    rejected_count = EXCLUDED.rejected_count, changed_at = EXCLUDED.changed_at, succeeded_at = EXCLUDED.succeeded_at,
    attempted_at = EXCLUDED.attempted_at, failures = 0

-- name: save_unchanged
UPDATE club.source SET succeeded_at = %(at)s, attempted_at = %(at)s, failures = 0 WHERE name = %(name)s

-- name: save_failure
-- Keeps the content of the last successful fetch.
INSERT INTO club.source (name, dataset, attempted_at, failed_at, failure_kind, failure, failures)
VALUES (%(name)s, %(dataset)s, %(at)s, %(at)s, %(kind)s, %(reason)s, 1)
ON CONFLICT (name) DO UPDATE
SET attempted_at = EXCLUDED.attempted_at, failed_at = EXCLUDED.failed_at, failure_kind = EXCLUDED.failure_kind,
    failure = EXCLUDED.failure, failures = club.source.failures + 1

-- name: delete_others
DELETE FROM club.source WHERE name <> ALL(%(names)s)

-- name: read_database_usage
SELECT pg_database_size(current_database()),
       (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()),
       current_setting('max_connections')::integer,
       (SELECT count(*) FROM club.source)
