-- name: insert_tracked_request
-- Those that are kept no longer are deleted here, as there is no other time at which their number grows.
WITH expired AS (
    DELETE FROM tiercel.tracked_request
    WHERE tracked_at < clock_timestamp() - make_interval(secs => %(kept_s)s)
), surplus AS (
    DELETE FROM tiercel.tracked_request
    WHERE account = %(account)s AND id IN (
        SELECT id FROM tiercel.tracked_request
        WHERE account = %(account)s
        ORDER BY tracked_at DESC
        OFFSET %(kept_max)s - 1
    )
)
INSERT INTO tiercel.tracked_request (
    id, account, request_id, method, route, status, durations_ms, statement_count, statements
)
VALUES (
    %(id)s, %(account)s, %(request_id)s, %(method)s, %(route)s, %(status)s, %(durations_ms)s, %(statement_count)s,
    %(statements)s
)

-- name: find_tracked_request
SELECT id, tracked_at, request_id, method, route, status, durations_ms, statement_count, statements
FROM tiercel.tracked_request
WHERE id = %(id)s AND account = %(account)s AND tracked_at >= clock_timestamp() - make_interval(secs => %(kept_s)s)
