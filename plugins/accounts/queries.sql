-- name: find_plan_use
SELECT id FROM accounts.subscription WHERE plan = %(plan)s AND deleted_at IS NULL AND (ends_at IS NULL OR ends_at > now()) LIMIT 1

-- name: lock_account
SELECT id FROM accounts.account WHERE id = %(account)s FOR UPDATE

-- name: find_other_owner
SELECT id FROM accounts.user
WHERE account = %(account)s AND id <> %(user)s AND role = 'owner' AND is_active AND deleted_at IS NULL
LIMIT 1

-- name: delete_sectors
UPDATE accounts.sector SET deleted_at = now() WHERE account = %(account)s AND site = %(site)s AND deleted_at IS NULL

-- name: find_key
-- The key, and the state of its account. The subscription in force is the latest one that has begun.
SELECT key.id, key.name, key.prefix, key.sha256, key.scopes, key.site, key.services, key.applications, key.expires_at,
       key.revoked_at, account.id, account.is_system, state.is_active, state.limits
FROM accounts.api_key AS key
JOIN accounts.account ON account.id = key.account AND account.deleted_at IS NULL
CROSS JOIN LATERAL accounts.plan_state(account.id) AS state
LEFT JOIN accounts.site ON site.id = key.site
WHERE key.prefix = %(prefix)s AND (key.site IS NULL OR site.deleted_at IS NULL)

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
