-- name: has_changed
-- Whether the transaction has changed, or locked, anything so far.
SELECT pg_current_xact_id_if_assigned() IS NOT NULL

-- name: lock_chain
SELECT number, hash FROM tiercel.audit_chain WHERE account = %(account)s FOR UPDATE

-- name: create_chain
INSERT INTO tiercel.audit_chain (account) VALUES (%(account)s) ON CONFLICT (account) DO NOTHING

-- name: insert_entry
INSERT INTO tiercel.audit_entry (account, number, time, actor_scheme, actor_name, actor_account, actor_user, actor_key, action,
                                 target_kind, target_id, changes, client, request_id, previous_hash, hash)
VALUES (%(account)s, %(number)s, %(time)s, %(actor_scheme)s, %(actor_name)s, %(actor_account)s, %(actor_user)s, %(actor_key)s,
        %(action)s, %(target_kind)s, %(target_id)s, %(changes)s, %(client)s, %(request_id)s, %(previous_hash)s, %(hash)s)

-- name: append_last_entry
WITH moved AS (
    UPDATE tiercel.audit_chain SET number = %(number)s, hash = %(hash)s WHERE account = %(account)s
)
INSERT INTO tiercel.audit_entry (account, number, time, actor_scheme, actor_name, actor_account, actor_user, actor_key, action,
                                 target_kind, target_id, changes, client, request_id, previous_hash, hash)
VALUES (%(account)s, %(number)s, %(time)s, %(actor_scheme)s, %(actor_name)s, %(actor_account)s, %(actor_user)s, %(actor_key)s,
        %(action)s, %(target_kind)s, %(target_id)s, %(changes)s, %(client)s, %(request_id)s, %(previous_hash)s, %(hash)s)

-- name: list_entries
-- Times as text, which is what is hashed. The condition on the account is the one of the caller, besides that of the session.
SELECT account, number, to_char(time AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), actor_scheme, actor_name,
       actor_account, actor_user, actor_key, action, target_kind, target_id, changes::text, client, request_id,
       encode(previous_hash, 'hex'), encode(hash, 'hex')
FROM tiercel.audit_entry
WHERE account = %(account)s
  AND (%(beyond)s::bigint IS NULL OR number {comparison} %(beyond)s)
  AND (%(start)s::timestamptz IS NULL OR time >= %(start)s)
  AND (%(end)s::timestamptz IS NULL OR time <= %(end)s)
  AND (%(action)s::text IS NULL OR action = %(action)s)
  AND (%(target_kind)s::text IS NULL OR target_kind = %(target_kind)s)
  AND (%(target_id)s::text IS NULL OR target_id = %(target_id)s)
  AND (%(scheme)s::text IS NULL OR actor_scheme = %(scheme)s)
  AND (%(user)s::integer IS NULL OR actor_user = %(user)s)
  AND (%(key)s::integer IS NULL OR actor_key = %(key)s)
  AND (%(client)s::text IS NULL OR client = %(client)s)
  AND (%(request_id)s::text IS NULL OR request_id = %(request_id)s)
  AND (%(search)s = '' OR strpos(lower(concat_ws(
        ' ', action, actor_name, target_kind, target_id, client, request_id, changes::text)), lower(%(search)s)) > 0)
ORDER BY number {direction}
LIMIT %(limit)s

-- name: list_chains
-- Also those of which only entries, or only the end, are there.
SELECT account, number, encode(hash, 'hex'), cut_number, encode(cut_hash, 'hex')
FROM (SELECT account FROM tiercel.audit_chain UNION SELECT account FROM tiercel.audit_entry) AS accounts
LEFT JOIN tiercel.audit_chain AS chain USING (account)
WHERE %(account)s::integer IS NULL OR account = %(account)s
ORDER BY account

-- name: find_last_before
-- The last entry of a chain before a time.
SELECT number, hash FROM tiercel.audit_entry
WHERE account = %(account)s AND number > (SELECT cut_number FROM tiercel.audit_chain WHERE account = %(account)s)
  AND number < coalesce((SELECT min(number) FROM tiercel.audit_entry WHERE account = %(account)s AND time >= %(before)s),
                        9223372036854775807)
ORDER BY number DESC
LIMIT 1

-- name: cut_chain
UPDATE tiercel.audit_chain SET cut_number = %(number)s, cut_hash = %(hash)s WHERE account = %(account)s

-- name: delete_cut
DELETE FROM tiercel.audit_entry WHERE account = %(account)s AND number <= %(number)s
