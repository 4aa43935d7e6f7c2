-- name: find_user
-- With the state of the account, and the roles on sites that are there.
SELECT "user".id, "user".email, "user".name, "user".role, "user".is_active, "user".token_version,
       (SELECT coalesce(jsonb_object_agg(site.id, access.role), '{}')
        FROM accounts.site_user_access AS access
        JOIN accounts.site ON site.account = access.account AND site.id = access.site AND site.deleted_at IS NULL
        WHERE access.account = "user".account AND access.user_id = "user".id) AS site_roles,
       account.id, account.is_system, state.is_active, state.limits
FROM accounts.user
JOIN accounts.account ON account.id = "user".account AND account.deleted_at IS NULL
CROSS JOIN LATERAL accounts.plan_state(account.id) AS state
WHERE "user".id = %(id)s AND "user".deleted_at IS NULL

-- name: find_password
SELECT "user".id, hash
FROM accounts.user
JOIN accounts.account ON account.id = "user".account AND account.deleted_at IS NULL
LEFT JOIN accounts.password ON user_id = "user".id
WHERE email = %(email)s AND "user".deleted_at IS NULL AND "user".is_active

-- name: insert_user
INSERT INTO accounts.user (account, email, name, role) VALUES (%(account)s, %(email)s, %(name)s, %(role)s)
ON CONFLICT (email) WHERE deleted_at IS NULL DO NOTHING
RETURNING id

-- name: set_password
WITH stored AS (
    INSERT INTO accounts.password (user_id, account, hash)
    SELECT id, account, %(hash)s FROM accounts.user WHERE id = %(id)s AND deleted_at IS NULL
    ON CONFLICT (user_id) DO UPDATE SET hash = excluded.hash, changed_at = now()
    RETURNING user_id
)
UPDATE accounts.user SET token_version = token_version + 1 FROM stored WHERE id = user_id RETURNING accounts.user.account

-- name: replace_hash
UPDATE accounts.password SET hash = %(hash)s WHERE user_id = %(id)s AND hash = %(old_hash)s

-- name: revoke_tokens
UPDATE accounts.user SET token_version = token_version + 1 WHERE id = %(id)s

-- name: insert_session
INSERT INTO accounts.session (account, user_id, kind, sha256, token_version, created_at, used_at, expires_at)
VALUES (%(account)s, %(user_id)s, %(kind)s, %(sha256)s, %(token_version)s, %(now)s, %(now)s, %(expires_at)s)
RETURNING id, account, user_id, kind, sha256, token_version, used_at, expires_at, revoked_at

-- name: delete_surplus_sessions
DELETE FROM accounts.session
WHERE id IN (SELECT id FROM accounts.session WHERE user_id = %(user_id)s ORDER BY used_at DESC, id DESC OFFSET %(keep)s)

-- name: find_session
SELECT id, account, user_id, kind, sha256, token_version, used_at, expires_at, revoked_at
FROM accounts.session
WHERE id = %(id)s

-- name: note_session_use
UPDATE accounts.session SET used_at = greatest(used_at, %(now)s) WHERE id = %(id)s

-- name: replace_refresh_token
UPDATE accounts.session SET sha256 = %(new_sha256)s, used_at = %(now)s
WHERE id = %(id)s AND sha256 = %(sha256)s AND kind = 'token' AND revoked_at IS NULL
RETURNING id

-- name: revoke_session
UPDATE accounts.session SET revoked_at = coalesce(revoked_at, %(now)s) WHERE id = %(id)s

-- name: delete_old_sessions
DELETE FROM accounts.session
WHERE id IN (SELECT id FROM accounts.session WHERE expires_at < %(before)s
             ORDER BY expires_at LIMIT %(most)s FOR UPDATE SKIP LOCKED)

-- name: list_signing_keys
SELECT kid, purpose, secret, created_at, retired_at FROM accounts.signing_key ORDER BY created_at DESC, kid

-- name: insert_signing_key
INSERT INTO accounts.signing_key (kid, purpose, secret, created_at)
VALUES (%(kid)s, %(purpose)s, %(secret)s, %(now)s)
ON CONFLICT (purpose) WHERE retired_at IS NULL DO NOTHING

-- name: find_signing_key
SELECT kid, purpose, secret, created_at, retired_at FROM accounts.signing_key
WHERE purpose = %(purpose)s AND retired_at IS NULL

-- name: retire_signing_keys
UPDATE accounts.signing_key SET retired_at = %(now)s WHERE purpose = %(purpose)s AND retired_at IS NULL

-- name: delete_signing_keys
DELETE FROM accounts.signing_key
WHERE purpose = %(purpose)s AND retired_at IS NOT NULL AND (%(at_once)s OR retired_at < %(ended_at)s)

-- name: count_attempt
-- Count a failure for each key of which none is blocked; return each with whether it was counted. Some are left out where
-- the client is known. Sorted, so that two of the same keys do not wait for each other. What asks for no wait blocks
-- nothing, rather than until now: the clocks of machines differ, and who comes first need not be counted first.
WITH asked AS (
    SELECT key, free, longest_s
    FROM unnest(%(keys)s::bytea[], %(free)s::integer[], %(longest_s)s::double precision[]) AS given (key, free, longest_s)
    WHERE key <> ALL (%(unless_known)s::bytea[])
       OR NOT EXISTS (SELECT FROM accounts.known_address AS known
                      WHERE known.key = %(known)s AND seen_at >= %(known_since)s)
    ORDER BY key
), counted AS (
    INSERT INTO accounts.sign_in_attempt AS attempt (key, failures, failed_at, blocked_until)
    SELECT key, 1, %(now)s, '-infinity' FROM asked
    ON CONFLICT (key) DO UPDATE SET
        failures = CASE WHEN attempt.failed_at < %(forgotten_before)s THEN 1 ELSE attempt.failures + 1 END,
        failed_at = excluded.failed_at,
        blocked_until = (
            SELECT CASE
                WHEN attempt.failed_at < %(forgotten_before)s OR attempt.failures < asked.free THEN '-infinity'
                ELSE excluded.failed_at + make_interval(
                    secs => least(asked.longest_s, power(2, least(attempt.failures + 1 - asked.free, 20))))
            END
            FROM asked WHERE asked.key = excluded.key
        )
    WHERE attempt.blocked_until <= %(now)s
    RETURNING key
)
SELECT key, key IN (SELECT key FROM counted) FROM asked

-- name: find_wait
SELECT extract(epoch FROM max(blocked_until) - %(now)s) FROM accounts.sign_in_attempt WHERE key = ANY (%(keys)s)

-- name: lock_attempts
-- In the order in which they are counted.
SELECT FROM accounts.sign_in_attempt WHERE key = ANY (%(keys)s) ORDER BY key FOR UPDATE

-- name: forget_attempts
DELETE FROM accounts.sign_in_attempt WHERE key = %(pair)s

-- name: take_attempt_back
UPDATE accounts.sign_in_attempt SET failures = greatest(failures - 1, 0), blocked_until = '-infinity'
WHERE key = ANY (%(keys)s)

-- name: know_address
INSERT INTO accounts.known_address (key, seen_at) VALUES (%(pair)s, %(now)s)
ON CONFLICT (key) DO UPDATE SET seen_at = excluded.seen_at

-- name: delete_old_attempts
DELETE FROM accounts.sign_in_attempt
WHERE key IN (SELECT key FROM accounts.sign_in_attempt WHERE failed_at < %(failed_before)s FOR UPDATE SKIP LOCKED)

-- name: delete_surplus_attempts
DELETE FROM accounts.sign_in_attempt
WHERE key IN (SELECT key FROM accounts.sign_in_attempt
              ORDER BY failures DESC, failed_at DESC OFFSET %(keep)s FOR UPDATE SKIP LOCKED)

-- name: delete_old_addresses
DELETE FROM accounts.known_address WHERE seen_at < %(seen_before)s

-- name: delete_surplus_addresses
DELETE FROM accounts.known_address
WHERE key IN (SELECT key FROM accounts.known_address ORDER BY seen_at DESC OFFSET %(keep)s)

-- name: insert_reset
-- Not beyond the most that are pending: whoever asks for more of them gets no more mail.
INSERT INTO accounts.password_reset (sha256, account, user_id, expires_at)
SELECT %(sha256)s, "user".account, "user".id, %(expires_at)s
FROM accounts.user
JOIN accounts.account ON account.id = "user".account AND account.deleted_at IS NULL
WHERE email = %(email)s AND "user".deleted_at IS NULL AND "user".is_active
  AND (SELECT count(*) FROM accounts.password_reset AS pending
       WHERE pending.user_id = "user".id AND pending.expires_at > %(now)s) < %(most)s
RETURNING user_id

-- name: find_reset
SELECT "user".id, email FROM accounts.password_reset AS reset
JOIN accounts.user ON "user".id = reset.user_id AND "user".deleted_at IS NULL AND "user".is_active
WHERE sha256 = %(sha256)s AND expires_at > %(now)s

-- name: use_reset
DELETE FROM accounts.password_reset WHERE sha256 = %(sha256)s AND expires_at > %(now)s RETURNING user_id

-- name: delete_resets
DELETE FROM accounts.password_reset WHERE user_id = %(id)s

-- name: delete_old_resets
DELETE FROM accounts.password_reset WHERE expires_at < %(now)s

-- name: lock_first_key
SELECT pg_advisory_xact_lock(hashtext('accounts.first_key'))

-- name: count_keys
SELECT count(*) FROM accounts.api_key WHERE account = %(account)s
