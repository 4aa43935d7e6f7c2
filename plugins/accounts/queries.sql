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
SELECT account.id, account.is_system, state.is_active, state.limits, account.name
FROM accounts.account CROSS JOIN LATERAL accounts.plan_state(account.id) AS state
WHERE deleted_at IS NULL AND (account.id::text = %(account)s OR slug = %(account)s)

-- name: describe_account
-- With the plan of the subscription in force: the latest one that has begun.
SELECT account.slug, account.name, found.plan, found.status, found.ends_at
FROM accounts.account
LEFT JOIN LATERAL (
    SELECT plan.name AS plan, subscription.status, subscription.ends_at
    FROM accounts.subscription JOIN accounts.plan ON plan.id = subscription.plan
    WHERE subscription.account = account.id AND starts_at <= now() AND subscription.deleted_at IS NULL
    ORDER BY starts_at DESC, subscription.id DESC
    LIMIT 1) AS found ON true
WHERE account.id = %(account)s

-- name: list_accounts
-- Other accounts, with a text in slug or name, ignoring case.
SELECT slug, name
FROM accounts.account
WHERE deleted_at IS NULL AND id IS DISTINCT FROM %(own)s
  AND strpos(lower(concat(slug, ' ', name)), lower(%(text)s)) > 0
ORDER BY lower(name), id
LIMIT %(limit)s

-- name: list_account_names
SELECT id, name FROM accounts.account WHERE id = ANY (%(numbers)s)

-- name: find_site
-- By number or by slug.
SELECT id FROM accounts.site
WHERE deleted_at IS NULL AND account = %(account)s AND (id::text = %(site)s OR slug = %(site)s)

-- name: list_purged_tables
-- Tables of all plugins whose rows belong to accounts and are kept after they are deleted.
SELECT schemaname, tablename,
       EXISTS (SELECT FROM information_schema.columns
               WHERE table_schema = schemaname AND table_name = tablename AND column_name = 'site') AS has_site
FROM pg_policies
WHERE policyname = 'of_account'
  AND 3 = (SELECT count(*) FROM information_schema.columns
           WHERE table_schema = schemaname AND table_name = tablename AND column_name IN ('id', 'account', 'deleted_at'))
ORDER BY schemaname, tablename

-- name: list_expired_rows
-- Rows that were deleted before the retention of their account, and all rows of an account that was.
SELECT expired.id
FROM {table} AS expired JOIN accounts.account ON account.id = expired.account
WHERE least(expired.deleted_at, account.deleted_at) < %(now)s - make_interval(days => account.retention_days)
ORDER BY expired.id

-- name: list_expired_rows_of_sites
-- As well, all rows of a site that was deleted before.
SELECT expired.id
FROM {table} AS expired JOIN accounts.account ON account.id = expired.account
                        LEFT JOIN accounts.site ON site.id = expired.site
WHERE least(expired.deleted_at, account.deleted_at, site.deleted_at)
      < %(now)s - make_interval(days => account.retention_days)
ORDER BY expired.id

-- name: purge_row
DELETE FROM {table} WHERE id = %(id)s

-- name: purge_keys
-- Of accounts and sites that are purged as well, and those that have not worked for as long.
DELETE FROM accounts.api_key AS key USING accounts.account
WHERE account.id = key.account
  AND least(account.deleted_at, key.revoked_at, key.expires_at,
            (SELECT deleted_at FROM accounts.site WHERE site.id = key.site))
      < %(now)s - make_interval(days => account.retention_days)

-- name: purge_site_access
DELETE FROM accounts.site_user_access AS access USING accounts.account, accounts.site
WHERE account.id = access.account AND site.id = access.site
  AND least(account.deleted_at, site.deleted_at) < %(now)s - make_interval(days => account.retention_days)

-- name: list_expired_accounts
SELECT id FROM accounts.account
WHERE deleted_at < %(now)s - make_interval(days => retention_days) AND NOT is_system
ORDER BY id

-- name: list_expired_plans
-- A plan is kept as long as what the system account deletes.
SELECT plan.id
FROM accounts.plan JOIN accounts.account ON account.is_system
WHERE plan.deleted_at < %(now)s - make_interval(days => account.retention_days)
ORDER BY plan.id
