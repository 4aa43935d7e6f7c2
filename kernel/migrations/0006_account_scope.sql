-- Rows that belong to accounts. A session that serves a request is scoped to its account: of tables that are scoped, it sees
-- and writes the rows of that account only, whatever its SQL says. Other sessions are not scoped, and see everything:
-- migrations, maintenance, jobs and commands. Superusers are never scoped: the service should not connect as one.

-- The account that the session is scoped to; NULL if it is not scoped.
CREATE FUNCTION tiercel.current_account() RETURNS integer LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT nullif(current_setting('tiercel.account', true), '')::integer
$$;

-- The sites that the session is limited to; NULL if it is not.
CREATE FUNCTION tiercel.current_sites() RETURNS integer[] LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT nullif(current_setting('tiercel.sites', true), '')::integer[]
$$;

-- Scope a table: add the column account, and site, if it lacks them, with those of the session as defaults. What is there
-- already belongs to the system account.
CREATE FUNCTION tiercel.scope_by_account(scoped regclass, by_site boolean DEFAULT false) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    -- Selected, so that it is read once for a statement, and not for each row. As OR of two functions, planning a statement
    -- takes three times as long. CASE, because the planner does not look into it: a statement has a condition on the account
    -- itself, and with two of them is taken to find next to nothing.
    visible text := 'CASE WHEN account = coalesce((SELECT nullif(current_setting(''tiercel.account'', true), '''')::integer), account) '
        'THEN true ELSE false END';
BEGIN
    EXECUTE format('ALTER TABLE %s ADD COLUMN IF NOT EXISTS account integer NOT NULL DEFAULT 0', scoped);
    EXECUTE format('ALTER TABLE %s ALTER COLUMN account SET DEFAULT tiercel.current_account()', scoped);
    IF by_site THEN
        EXECUTE format('ALTER TABLE %s ADD COLUMN IF NOT EXISTS site integer NOT NULL DEFAULT 0', scoped);
        visible := visible || ' AND CASE WHEN (SELECT tiercel.current_sites()) IS NULL THEN true '
            'ELSE site = ANY ((SELECT tiercel.current_sites())::integer[]) END';
    END IF;
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', scoped);
    EXECUTE format('DROP POLICY IF EXISTS of_account ON %s', scoped);
    EXECUTE format('CREATE POLICY of_account ON %s USING (%s)', scoped, visible);
END
$$;
