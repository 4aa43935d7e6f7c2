-- name: find_source
SELECT mapping, trashed, columns, read_at, reconciled_at FROM trace.source WHERE name = %(name)s

-- name: find_columns
SELECT columns -> %(id)s::text FROM trace.source WHERE name = %(name)s

-- name: list_rows
SELECT rows FROM trace.source_rows WHERE name = %(name)s ORDER BY part

-- name: save_rows
-- Most chunks have not changed, and are not written.
INSERT INTO trace.source_rows AS stored (name, part, rows)
VALUES (%(name)s, %(part)s, %(rows)s)
ON CONFLICT (name, part) DO UPDATE SET rows = excluded.rows WHERE stored.rows <> excluded.rows

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

-- name: delete_other_sources
DELETE FROM trace.source WHERE name <> ALL(%(names)s)

-- name: save_moved_page
INSERT INTO trace.moved_page (id) VALUES (%(id)s) ON CONFLICT (id) DO UPDATE SET moved_at = clock_timestamp()

-- name: list_moved_pages
SELECT id, moved_at FROM trace.moved_page ORDER BY id

-- name: delete_moved_pages
-- Not those that were moved again in the meantime.
DELETE FROM trace.moved_page AS moved
USING unnest(%(ids)s::text[], %(times)s::timestamptz[]) AS done (id, moved_at)
WHERE moved.id = done.id AND moved.moved_at = done.moved_at

-- name: save_verification_token
INSERT INTO trace.webhook_offer (token) VALUES (%(token)s)
ON CONFLICT (token) DO UPDATE SET offered_at = clock_timestamp()

-- name: delete_old_verification_tokens
DELETE FROM trace.webhook_offer
WHERE offered_at < now() - interval '1 day'
   OR token NOT IN (SELECT token FROM trace.webhook_offer ORDER BY offered_at DESC LIMIT %(keep)s)

-- name: list_verification_tokens
SELECT token, offered_at FROM trace.webhook_offer
WHERE offered_at > now() - interval '1 day' ORDER BY offered_at DESC

-- name: delete_verification_tokens
DELETE FROM trace.webhook_offer

-- name: acquire_request
-- Returns a row if a request may be sent now, and counts it. Requests are not reserved ahead of time: a client that
-- stops waiting leaves no gap, and a pause holds for those who are already waiting.
INSERT INTO trace.request_budget AS budget (name, due_at)
VALUES (%(name)s, clock_timestamp() + make_interval(secs => %(interval_s)s))
ON CONFLICT (name) DO UPDATE
SET due_at = greatest(budget.due_at, clock_timestamp()) + make_interval(secs => %(interval_s)s)
WHERE budget.due_at <= clock_timestamp() + make_interval(secs => %(ahead_s)s)
RETURNING true

-- name: read_request_wait_s
SELECT extract(epoch FROM due_at - clock_timestamp())::float8 - %(ahead_s)s
FROM trace.request_budget
WHERE name = %(name)s

-- name: pause_requests
-- Beyond the end of the pause by the length of a burst, so that no request of a burst may start before it.
INSERT INTO trace.request_budget AS budget (name, due_at)
VALUES (%(name)s, clock_timestamp() + make_interval(secs => %(pause_s)s + %(ahead_s)s))
ON CONFLICT (name) DO UPDATE
SET due_at = greatest(budget.due_at, clock_timestamp() + make_interval(secs => %(pause_s)s + %(ahead_s)s))
