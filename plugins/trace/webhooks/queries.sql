-- name: save_offer
INSERT INTO trace.webhook_offer (token) VALUES (%(token)s)
ON CONFLICT (token) DO UPDATE SET offered_at = clock_timestamp()

-- name: delete_old_offers
DELETE FROM trace.webhook_offer
WHERE offered_at < now() - interval '1 day'
   OR token NOT IN (SELECT token FROM trace.webhook_offer ORDER BY offered_at DESC LIMIT %(keep)s)

-- name: list_offers
SELECT token, offered_at FROM trace.webhook_offer
WHERE offered_at > now() - interval '1 day' ORDER BY offered_at DESC

-- name: delete_offers
DELETE FROM trace.webhook_offer
