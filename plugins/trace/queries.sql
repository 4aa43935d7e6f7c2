-- name: find_source
SELECT mapping, trashed, columns, read_at, reconciled_at FROM trace.source WHERE name = %(name)s

-- name: find_columns
SELECT columns -> %(id)s::text FROM trace.source WHERE name = %(name)s

-- name: list_rows
SELECT rows FROM trace.source_rows WHERE name = %(name)s ORDER BY part

-- name: save_rows
-- Most parts are what they were.
INSERT INTO trace.source_rows AS kept (name, part, rows)
VALUES (%(name)s, %(part)s, %(rows)s)
ON CONFLICT (name, part) DO UPDATE SET rows = excluded.rows WHERE kept.rows <> excluded.rows

-- name: delete_rows
DELETE FROM trace.source_rows WHERE name = %(name)s AND part >= %(parts)s

-- name: list_sources
SELECT name, read_at, reconciled_at FROM trace.source

-- name: save_source
INSERT INTO trace.source (name, mapping, trashed, columns, read_at, reconciled_at)
VALUES (%(name)s, %(mapping)s, %(trashed)s, %(columns)s, %(read_at)s, %(reconciled_at)s)
ON CONFLICT (name) DO UPDATE
SET mapping = excluded.mapping, trashed = excluded.trashed, columns = excluded.columns,
    read_at = excluded.read_at, reconciled_at = excluded.reconciled_at

-- name: delete_others
DELETE FROM trace.source WHERE name <> ALL(%(names)s)

-- name: save_moved
INSERT INTO trace.moved_page (id) VALUES (%(id)s) ON CONFLICT (id) DO UPDATE SET moved_at = clock_timestamp()

-- name: list_moved
SELECT id, moved_at FROM trace.moved_page ORDER BY id

-- name: delete_moved
DELETE FROM trace.moved_page AS moved
USING unnest(%(ids)s::text[], %(times)s::timestamptz[]) AS seen (id, moved_at)
WHERE moved.id = seen.id AND moved.moved_at = seen.moved_at
