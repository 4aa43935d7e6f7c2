-- name: find_source
SELECT mapping, rows, schemas, read_at, reconciled_at FROM trace.source WHERE name = %(name)s

-- name: save_source
INSERT INTO trace.source (name, mapping, rows, schemas, read_at, reconciled_at)
VALUES (%(name)s, %(mapping)s, %(rows)s, %(schemas)s, %(read_at)s, %(reconciled_at)s)
ON CONFLICT (name) DO UPDATE
SET mapping = excluded.mapping, rows = excluded.rows, schemas = excluded.schemas, read_at = excluded.read_at,
    reconciled_at = excluded.reconciled_at

-- name: delete_others
DELETE FROM trace.source WHERE name <> ALL(%(names)s)
