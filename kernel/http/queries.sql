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

-- Statements of ``resources.py``: names of tables and columns are identifiers of its declarations, values are parameters.

-- name: select_rows
SELECT {columns} FROM {table} WHERE {condition}

-- name: select_labels
SELECT id, {label} FROM {table} WHERE {condition} ORDER BY 2, 1 LIMIT %(limit)s

-- name: lock_rows
SELECT {columns} FROM {table} WHERE {condition} FOR NO KEY UPDATE

-- name: hold_rows
-- They are neither changed nor deleted, also not softly, before the transaction ends.
SELECT {columns} FROM {table} WHERE {condition} FOR SHARE

-- name: count_rows
SELECT count(*) FROM {table} WHERE {condition}

-- name: select_page
SELECT {columns} FROM {table} WHERE {condition} ORDER BY {order} LIMIT %(limit)s OFFSET %(offset)s

-- name: insert_row
INSERT INTO {table} ({names}) VALUES ({values}) RETURNING {columns}

-- name: update_rows
UPDATE {table} SET {changes} WHERE {condition} RETURNING {columns}

-- name: delete_rows
DELETE FROM {table} WHERE {condition}

-- name: match_text
strpos(lower({column}), lower(%(search)s)) > 0

-- name: index_columns
-- The columns of a unique index. With row-level security, PostgreSQL's own message does not name them.
SELECT attname
FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)
WHERE indexrelid = to_regclass(%(index)s)
ORDER BY array_position(indkey, attnum)
