-- name: insert_key
INSERT INTO accounts.api_key (account, name, prefix, sha256, scopes, site, services, applications, created_by, expires_at)
SELECT id, %(name)s, %(prefix)s, %(sha256)s, %(scopes)s, %(site)s, %(services)s, %(applications)s, %(created_by)s,
       %(expires_at)s
FROM accounts.account WHERE id = %(account)s AND deleted_at IS NULL
RETURNING id, account, name, prefix, scopes, site, services, applications, created_at, expires_at, last_used_at, revoked_at,
          rotated_to

-- name: list_keys
SELECT id, account, name, prefix, scopes, site, services, applications, created_at, expires_at, last_used_at, revoked_at,
       rotated_to
FROM accounts.api_key
WHERE account = %(account)s
ORDER BY id DESC

-- name: revoke_key
UPDATE accounts.api_key AS key SET revoked_at = coalesce(before.revoked_at, now())
FROM (SELECT id, revoked_at FROM accounts.api_key WHERE account = %(account)s AND id = %(id)s FOR UPDATE) AS before
WHERE key.account = %(account)s AND key.id = before.id
RETURNING key.prefix, before.revoked_at, key.revoked_at

-- name: lock_key
SELECT name, scopes, site, services, applications, created_by, expires_at, prefix
FROM accounts.api_key
WHERE account = %(account)s AND id = %(id)s AND revoked_at IS NULL AND rotated_to IS NULL
  AND (expires_at IS NULL OR expires_at > now())
FOR UPDATE

-- name: retire_key
UPDATE accounts.api_key SET rotated_to = %(rotated_to)s, expires_at = least(expires_at, %(ends_at)s)
WHERE account = %(account)s AND id = %(id)s

-- name: find_key
-- The key, and the state of its account. The subscription in force is the latest one that has begun.
SELECT key.id, key.name, key.prefix, key.sha256, key.scopes, key.site, key.services, key.applications, key.expires_at,
       key.revoked_at, account.id, account.is_system, state.is_active, state.limits
FROM accounts.api_key AS key
JOIN accounts.account ON account.id = key.account AND account.deleted_at IS NULL
CROSS JOIN LATERAL accounts.plan_state(account.id) AS state
WHERE key.prefix = %(prefix)s

-- name: note_key_use
UPDATE accounts.api_key SET last_used_at = now()
WHERE id = %(id)s AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')

-- name: find_account
-- By number or by slug.
SELECT account.id, account.is_system, state.is_active, state.limits
FROM accounts.account CROSS JOIN LATERAL accounts.plan_state(account.id) AS state
WHERE deleted_at IS NULL AND (account.id::text = %(account)s OR slug = %(account)s)

-- name: find_site
-- By number or by slug.
SELECT id FROM accounts.site
WHERE deleted_at IS NULL AND account = %(account)s AND (id::text = %(site)s OR slug = %(site)s)
