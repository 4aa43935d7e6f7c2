-- Tasks of the sites of accounts. The plugin `accounts` must be listed before this one: its tables are referred to.
DO $$
BEGIN
    IF to_regnamespace('planner') IS NULL THEN
        CREATE SCHEMA planner;
    END IF;
END
$$;

CREATE TABLE planner.task (
    id         integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account    integer     NOT NULL,
    site       integer     NOT NULL,
    sector     integer,
    title      text        NOT NULL,
    starts_on  date,
    ends_on    date,
    is_done    boolean     NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    -- No row can mix accounts, sites and sectors, whoever writes it.
    FOREIGN KEY (account, site) REFERENCES accounts.site (account, id),
    FOREIGN KEY (account, site, sector) REFERENCES accounts.sector (account, site, id)
);
CREATE INDEX task_account ON planner.task (account, site) WHERE deleted_at IS NULL;

-- Whatever a statement says, a request sees and writes the rows of its account, and of the sites it may see.
SELECT tiercel.scope_by_account('planner.task', true);
