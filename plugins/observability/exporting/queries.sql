-- name: limit_pauses
SELECT set_config('idle_in_transaction_session_timeout', %(pause_ms)s, true)
