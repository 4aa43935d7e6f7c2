-- name: list_current_versions
SELECT newest.dataset, newest.version, newest.sha256, newest.published_at, content.size_bytes, content.item_count,
       coalesce(confirmed.at, newest.published_at), coalesce(last.outcome, 'published'), last.reason
FROM (
    SELECT DISTINCT ON (dataset) dataset, version, sha256, published_at
    FROM tiercel.dataset_version
    WHERE account = %(account)s
    ORDER BY dataset, version DESC
) AS newest
JOIN tiercel.dataset_content AS content ON content.account = %(account)s AND content.sha256 = newest.sha256
LEFT JOIN LATERAL (
    SELECT at FROM tiercel.dataset_publication
    WHERE account = %(account)s AND dataset = newest.dataset AND outcome <> 'refused' ORDER BY id DESC LIMIT 1
) AS confirmed ON true
LEFT JOIN LATERAL (
    SELECT outcome, reason FROM tiercel.dataset_publication
    WHERE account = %(account)s AND dataset = newest.dataset ORDER BY id DESC LIMIT 1
) AS last ON true

-- name: list_histories
SELECT attempt.*
FROM unnest(%(datasets)s::text[]) AS name
CROSS JOIN LATERAL (
    SELECT id, dataset, at, outcome, version, source, job_id, item_count, rejected_count, reason, details
    FROM tiercel.dataset_publication
    WHERE account = %(account)s AND dataset = name
    ORDER BY id DESC
    LIMIT %(limit)s
) AS attempt
ORDER BY attempt.dataset, attempt.id DESC

-- name: list_versions
SELECT version, sha256, published_at, content.size_bytes, content.item_count
FROM tiercel.dataset_version
JOIN tiercel.dataset_content AS content USING (account, sha256)
WHERE account = %(account)s AND dataset = %(dataset)s
ORDER BY version DESC
LIMIT %(limit)s

-- name: list_publications
SELECT id, dataset, at, outcome, version, source, job_id, item_count, rejected_count, reason, details
FROM tiercel.dataset_publication
WHERE account = %(account)s AND dataset = %(dataset)s
ORDER BY id DESC
LIMIT %(limit)s

-- name: list_rejected
SELECT rejected
FROM tiercel.dataset_publication
WHERE account = %(account)s AND dataset = %(dataset)s AND outcome <> 'refused'
ORDER BY id DESC
LIMIT 1

-- name: find_version
SELECT version, sha256, published_at
FROM tiercel.dataset_version
WHERE account = %(account)s AND dataset = %(dataset)s AND version = %(version)s

-- name: find_version_at
SELECT version, sha256, published_at
FROM tiercel.dataset_version
WHERE account = %(account)s AND dataset = %(dataset)s AND published_at <= %(at)s
ORDER BY version DESC
LIMIT 1

-- name: find_version_before
SELECT version, sha256, published_at
FROM tiercel.dataset_version
WHERE account = %(account)s AND dataset = %(dataset)s AND version < %(version)s
ORDER BY version DESC
LIMIT 1

-- name: find_superseded_at
SELECT min(published_at)
FROM tiercel.dataset_version
WHERE account = %(account)s AND dataset = %(dataset)s AND version > %(version)s

-- name: read_content
SELECT items, size_bytes FROM tiercel.dataset_content WHERE account = %(account)s AND sha256 = %(sha256)s

-- name: lock_dataset
-- One publisher at a time; readers never wait.
SELECT pg_advisory_xact_lock(hashtextextended('tiercel.dataset.' || %(dataset)s || '.' || %(account)s, 0))

-- name: find_current
SELECT version, sha256
FROM tiercel.dataset_version
WHERE account = %(account)s AND dataset = %(dataset)s
ORDER BY version DESC
LIMIT 1

-- name: insert_content
INSERT INTO tiercel.dataset_content (account, sha256, items, size_bytes, item_count)
VALUES (%(account)s, %(sha256)s, %(items)s, %(size_bytes)s, %(item_count)s)
-- Not DO NOTHING: this locks the row, so that no other session deletes it as unused before this version refers to it.
ON CONFLICT (account, sha256) DO UPDATE SET item_count = EXCLUDED.item_count

-- name: insert_version
INSERT INTO tiercel.dataset_version (account, dataset, version, sha256, published_at)
VALUES (%(account)s, %(dataset)s, %(version)s, %(sha256)s, %(at)s)

-- name: insert_publication
INSERT INTO tiercel.dataset_publication
    (account, dataset, at, outcome, version, source, job_id, item_count, rejected_count, rejected, reason, details)
VALUES (%(account)s, %(dataset)s, %(at)s, %(outcome)s, %(version)s, %(source)s, %(job_id)s, %(item_count)s,
        %(rejected_count)s, %(rejected)s, %(reason)s, %(details)s)
RETURNING id

-- name: delete_old_versions
DELETE FROM tiercel.dataset_version
WHERE account = %(account)s AND dataset = %(dataset)s
  AND version <= (SELECT max(version) FROM tiercel.dataset_version
                  WHERE account = %(account)s AND dataset = %(dataset)s) - %(keep)s

-- name: delete_unused_contents
DELETE FROM tiercel.dataset_content AS content
WHERE account = %(account)s
  AND NOT EXISTS (SELECT FROM tiercel.dataset_version AS kept
                  WHERE kept.account = content.account AND kept.sha256 = content.sha256)

-- name: purge_publications
DELETE FROM tiercel.dataset_publication
WHERE id IN (SELECT id FROM tiercel.dataset_publication WHERE account = %(account)s LIMIT %(limit)s)

-- name: purge_versions
DELETE FROM tiercel.dataset_version
WHERE (account, dataset, version) IN (
    SELECT account, dataset, version FROM tiercel.dataset_version WHERE account = %(account)s LIMIT %(limit)s)

-- name: purge_contents
DELETE FROM tiercel.dataset_content
WHERE (account, sha256) IN (
    SELECT account, sha256 FROM tiercel.dataset_content WHERE account = %(account)s LIMIT %(limit)s)

-- name: delete_old_publications
-- The last successful attempt stays, however many failed since: it says how old the data are.
DELETE FROM tiercel.dataset_publication
WHERE account = %(account)s AND dataset = %(dataset)s
  AND id <= (SELECT id FROM tiercel.dataset_publication
             WHERE account = %(account)s AND dataset = %(dataset)s
             ORDER BY id DESC OFFSET %(keep)s LIMIT 1)
  AND id <> (SELECT coalesce(max(id), 0) FROM tiercel.dataset_publication
             WHERE account = %(account)s AND dataset = %(dataset)s AND outcome <> 'refused')
