-- Jobs: what is kept beside procrastinate's queue, which has a schema of its own. Both change in one transaction.

-- Once a queue has been seen empty, PostgreSQL plans the look for the next job as a join that takes time squared:
-- 15 jobs a second with 1,400 waiting, instead of 550. Without sorts there is only the plan by index.
ALTER FUNCTION procrastinate.procrastinate_fetch_job_v2(character varying[], bigint) SET enable_sort = off;

CREATE TABLE tiercel.job_run (
    id           bigint      PRIMARY KEY REFERENCES procrastinate.procrastinate_jobs ON DELETE CASCADE,
    name         text        NOT NULL,
    state        text        NOT NULL CHECK (state IN ('waiting', 'running', 'succeeded', 'failed', 'cancelled')),
    parameters   jsonb       NOT NULL,
    lock         text        NOT NULL,
    request_id   text,
    attempt      integer     NOT NULL DEFAULT 0,  -- with the state, the fence: only the latest may commit
    failures     integer     NOT NULL DEFAULT 0,  -- those that cost a retry
    deaths       integer     NOT NULL DEFAULT 0,  -- workers that ended while they were at it
    result       jsonb,
    error        text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    due_at       timestamptz NOT NULL DEFAULT now(),
    started_at   timestamptz,
    committed_at timestamptz,                     -- its effect is in the database: never run it again
    finished_at  timestamptz
);

CREATE INDEX job_run_name ON tiercel.job_run (name, id DESC);
CREATE INDEX job_run_state ON tiercel.job_run (state, id DESC);
CREATE INDEX job_run_waiting ON tiercel.job_run (name, lock) WHERE state = 'waiting';
CREATE INDEX job_run_finished ON tiercel.job_run (finished_at) WHERE finished_at IS NOT NULL;

-- Apart from job_run, whose row is locked while a run commits.
CREATE TABLE tiercel.job_progress (
    job_id  bigint           PRIMARY KEY REFERENCES tiercel.job_run ON DELETE CASCADE,
    attempt integer          NOT NULL,
    done    double precision NOT NULL,
    total   double precision,
    message text
) WITH (fillfactor = 50);

CREATE TABLE tiercel.job_log (
    job_id  bigint      NOT NULL REFERENCES tiercel.job_run ON DELETE CASCADE,
    id      bigint      GENERATED ALWAYS AS IDENTITY,
    attempt integer     NOT NULL,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    level   text        NOT NULL,
    event   text        NOT NULL,
    fields  jsonb       NOT NULL,
    PRIMARY KEY (job_id, id)
);

CREATE TABLE tiercel.job_schedule (
    name     text        PRIMARY KEY,
    schedule text        NOT NULL,
    last_due timestamptz NOT NULL
);

-- A function, because its two statements need a snapshot each: in one statement, the look for a job can find one that
-- was queued after the statement began, and whose row in job_run it cannot see.
CREATE FUNCTION tiercel.claim_job(queue text, worker bigint) RETURNS SETOF tiercel.job_run
LANGUAGE plpgsql AS $$
DECLARE
    fetched bigint;
BEGIN
    SELECT id INTO fetched FROM procrastinate.procrastinate_fetch_job_v2(ARRAY[queue]::varchar[], worker);
    IF fetched IS NOT NULL THEN
        RETURN QUERY
        UPDATE tiercel.job_run AS run
        SET state = 'running', attempt = run.attempt + 1, started_at = clock_timestamp()
        WHERE run.id = fetched
        RETURNING run.*;
    END IF;
END
$$;
