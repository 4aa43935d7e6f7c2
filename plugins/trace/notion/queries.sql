-- name: take
-- Returns a row if it is our turn, and counts it. Nobody has a turn in advance: who gives up waiting leaves no gap, and
-- a pause holds for those who wait already.
INSERT INTO trace.request_budget AS budget (name, due_at)
VALUES (%(name)s, clock_timestamp() + make_interval(secs => %(interval_s)s))
ON CONFLICT (name) DO UPDATE
SET due_at = greatest(budget.due_at, clock_timestamp()) + make_interval(secs => %(interval_s)s)
WHERE budget.due_at <= clock_timestamp() + make_interval(secs => %(ahead_s)s)
RETURNING true

-- name: read_wait_s
SELECT extract(epoch FROM due_at - clock_timestamp())::float8 - %(ahead_s)s
FROM trace.request_budget
WHERE name = %(name)s

-- name: pause
-- As far ahead as a burst reaches: none may start before the end.
INSERT INTO trace.request_budget AS budget (name, due_at)
VALUES (%(name)s, clock_timestamp() + make_interval(secs => %(pause_s)s + %(ahead_s)s))
ON CONFLICT (name) DO UPDATE
SET due_at = greatest(budget.due_at, clock_timestamp() + make_interval(secs => %(pause_s)s + %(ahead_s)s))
