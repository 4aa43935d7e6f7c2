-- Statements of ``resources.py``: names of tables and columns are identifiers of its declarations, values are parameters.

-- name: select_rows
SELECT {columns} FROM {table} WHERE {condition}

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
