-- name: add_hits
-- Where a key is used again after its time, it begins anew.
INSERT INTO tiercel.throttle (key, hits, expires_at)
VALUES (%(key)s, %(hits)s, clock_timestamp() + make_interval(secs => %(expiry_s)s))
ON CONFLICT (key) DO UPDATE
SET hits = CASE WHEN throttle.expires_at > clock_timestamp() THEN throttle.hits ELSE 0 END + excluded.hits,
    expires_at = CASE WHEN throttle.expires_at > clock_timestamp() THEN throttle.expires_at ELSE excluded.expires_at END
RETURNING hits

-- name: find_hits
SELECT hits, extract(epoch FROM expires_at)::float8
FROM tiercel.throttle
WHERE key = %(key)s AND expires_at > clock_timestamp()

-- name: clear_hits
DELETE FROM tiercel.throttle WHERE key = %(key)s

-- name: clear_all_hits
DELETE FROM tiercel.throttle

-- name: remove_expired_hits
-- A few at a time; nobody waits for rows that another process removes or uses.
DELETE FROM tiercel.throttle WHERE key IN (
    SELECT key FROM tiercel.throttle WHERE expires_at < clock_timestamp() LIMIT 1000 FOR UPDATE SKIP LOCKED
)

-- name: add_usage
-- Rows in one order, so that two processes that write the same ones do not wait for each other in a circle.
INSERT INTO tiercel.usage (account, day, unit, used)
SELECT account, day, unit, used
FROM unnest(%(accounts)s::integer[], %(days)s::date[], %(units)s::text[], %(used)s::bigint[])
     AS added (account, day, unit, used)
ORDER BY account, day, unit
ON CONFLICT (account, day, unit) DO UPDATE SET used = usage.used + excluded.used
RETURNING account, day, unit, used

-- name: find_usage
SELECT unit, used FROM tiercel.usage WHERE account = %(account)s AND day = %(day)s

-- name: list_usage
SELECT day, unit, used FROM tiercel.usage WHERE account = %(account)s AND day BETWEEN %(first)s AND %(last)s

-- name: list_heaviest
-- Those accounts that use most of a unit.
SELECT account, unit, used
FROM tiercel.usage
WHERE day = %(day)s AND account IN (
    SELECT account FROM tiercel.usage WHERE day = %(day)s AND unit = %(unit)s ORDER BY used DESC, account LIMIT %(limit)s
)

-- name: remove_old_usage
DELETE FROM tiercel.usage WHERE day < %(before)s
