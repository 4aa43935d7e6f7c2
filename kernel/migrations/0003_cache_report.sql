-- What processes say of their caches when they are asked. Gone with a crash, as the caches are.

CREATE UNLOGGED TABLE tiercel.cache_report (
    request     uuid        NOT NULL,
    process     text        NOT NULL,
    pid         integer     NOT NULL,
    reported_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    caches      jsonb       NOT NULL
);

CREATE INDEX cache_report_request ON tiercel.cache_report (request);
