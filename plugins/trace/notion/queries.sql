-- name: take
-- Returns how long to wait. Who waits has its turn already: the next one is counted from there.
INSERT INTO trace.request_budget AS budget (name, due_at)
VALUES (%(name)s, clock_timestamp() + make_interval(secs => %(interval_s)s))
ON CONFLICT (name) DO UPDATE
SET due_at = greatest(budget.due_at, clock_timestamp()) + make_interval(secs => %(interval_s)s)
RETURNING extract(epoch FROM due_at - clock_timestamp())::float8 - %(interval_s)s - %(ahead_s)s

-- name: pause
-- As far ahead as a burst reaches: none may start before the end.
INSERT INTO trace.request_budget AS budget (name, due_at)
VALUES (%(name)s, clock_timestamp() + make_interval(secs => %(pause_s)s + %(ahead_s)s))
ON CONFLICT (name) DO UPDATE
SET due_at = greatest(budget.due_at, clock_timestamp() + make_interval(secs => %(pause_s)s + %(ahead_s)s))
