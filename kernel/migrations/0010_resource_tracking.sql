-- What requests took that developers asked about. Gone with a crash, and after an hour anyway.

CREATE UNLOGGED TABLE tiercel.tracked_request (
    id              uuid        PRIMARY KEY,
    account         integer     NOT NULL,
    tracked_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    request_id      text        NOT NULL,
    method          text        NOT NULL,
    route           text        NOT NULL,
    status          smallint    NOT NULL,
    durations_ms    jsonb       NOT NULL,
    statement_count integer     NOT NULL,
    statements      jsonb       NOT NULL
);

CREATE INDEX tracked_request_newest ON tiercel.tracked_request (account, tracked_at);

SELECT tiercel.scope_by_account('tiercel.tracked_request');
