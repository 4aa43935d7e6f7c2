-- How often requests of a kind came in a window of time, of all machines. Gone with a crash, and after the window anyway.
CREATE UNLOGGED TABLE tiercel.throttle (
    key        text        PRIMARY KEY,
    hits       bigint      NOT NULL,
    expires_at timestamptz NOT NULL
-- Room for new versions of a row beside the old ones.
) WITH (fillfactor = 50);
CREATE INDEX throttle_expiry ON tiercel.throttle (expires_at);

-- What accounts used of their plans, by UTC day.
CREATE TABLE tiercel.usage (
    account integer NOT NULL,
    day     date    NOT NULL,
    -- requests, events, bytes, exports
    unit    text    NOT NULL,
    used    bigint  NOT NULL,
    PRIMARY KEY (account, day, unit)
) WITH (fillfactor = 50);
CREATE INDEX usage_day ON tiercel.usage (day);

SELECT tiercel.scope_by_account('tiercel.usage');
