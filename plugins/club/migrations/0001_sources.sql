-- What each configured source gave last, and how it has been since.
-- earlier-checksum: 705147c50af4d0c641d9b20cf94a467615b72dbce655457e0687ed3432389fd6
DO $$
BEGIN
    -- Not IF NOT EXISTS: that needs the privilege to create schemas even where somebody else created this one.
    IF to_regnamespace('club') IS NULL THEN
        CREATE SCHEMA club;
    END IF;
END
$$;

CREATE TABLE club.source (
    name           text        PRIMARY KEY,
    dataset        text        NOT NULL,            -- of the content
    content        bytea,                           -- of the last good answer, as JSON: items, bad ones, validators
    item_count     integer     NOT NULL DEFAULT 0,
    rejected_count integer     NOT NULL DEFAULT 0,
    changed_at     timestamptz,                     -- when the content came
    succeeded_at   timestamptz,                     -- when it was last found to be so
    attempted_at   timestamptz NOT NULL,
    failed_at      timestamptz,
    failure_kind   text,
    failure        text,                            -- the last one, for people; stays when the source is well again
    failures       integer     NOT NULL DEFAULT 0   -- since the last success
);
