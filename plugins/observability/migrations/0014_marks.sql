-- Times at which something happened that charts may show the effects of, such as a deployment.
CREATE TABLE observability.mark (
    id         integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account    integer     NOT NULL DEFAULT coalesce(tiercel.current_account(), 0),
    time       timestamptz NOT NULL,
    title      text        NOT NULL,
    service    text,
    url        text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX mark_time ON observability.mark (account, time);
SELECT tiercel.scope_by_account('observability.mark');
