-- Jobs and datasets belong to accounts.

-- The account that a job runs for, the sites that it is limited to (NULL for all of the account), and the identity that started
-- it (NULL for a schedule, a command, or the service itself). Workers see all jobs: they work outside of requests.
SELECT tiercel.scope_by_account('tiercel.job_run');
ALTER TABLE tiercel.job_run
    -- What no account starts, the service's own account does; so do processes of an earlier version.
    ALTER COLUMN account SET DEFAULT coalesce(tiercel.current_account(), 0),
    ADD COLUMN sites integer[],
    ADD COLUMN started_by jsonb;
-- A job of the whole account, as if of a site that nobody has, is hidden from sessions that are limited to some.
CREATE POLICY of_sites ON tiercel.job_run AS RESTRICTIVE
    USING ((coalesce(sites, '{0}') <@ (SELECT tiercel.current_sites())) IS NOT FALSE);
CREATE INDEX job_run_account ON tiercel.job_run (account, id DESC);

-- Whoever sees a job sees what belongs to it.
DO $$
DECLARE
    part regclass;
BEGIN
    FOREACH part IN ARRAY ARRAY['tiercel.job_cancellation', 'tiercel.job_progress', 'tiercel.job_log']::regclass[] LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', part);
        EXECUTE format('CREATE POLICY of_job ON %s USING ((SELECT tiercel.current_account()) IS NULL '
                       'OR EXISTS (SELECT FROM tiercel.job_run WHERE job_run.id = job_id))', part);
    END LOOP;
END
$$;

-- What is published for one account is its; what is shared by all has the account -2, and is written outside of requests only.
-- Contents are not shared between accounts, though they be equal: whether somebody else has the same is nobody's business.
ALTER TABLE tiercel.dataset_content ADD COLUMN account integer NOT NULL DEFAULT -2;
ALTER TABLE tiercel.dataset_version ADD COLUMN account integer NOT NULL DEFAULT -2;
ALTER TABLE tiercel.dataset_publication ADD COLUMN account integer NOT NULL DEFAULT -2;

ALTER TABLE tiercel.dataset_version DROP CONSTRAINT dataset_version_sha256_fkey, DROP CONSTRAINT dataset_version_pkey;
ALTER TABLE tiercel.dataset_content DROP CONSTRAINT dataset_content_pkey, ADD PRIMARY KEY (account, sha256);
ALTER TABLE tiercel.dataset_version
    ADD PRIMARY KEY (account, dataset, version),
    ADD FOREIGN KEY (account, sha256) REFERENCES tiercel.dataset_content;
DROP INDEX tiercel.dataset_version_content, tiercel.dataset_publication_dataset;
CREATE INDEX dataset_version_content ON tiercel.dataset_version (account, sha256);
CREATE INDEX dataset_publication_dataset ON tiercel.dataset_publication (account, dataset, id DESC);

DO $$
DECLARE
    owned regclass;
BEGIN
    FOREACH owned IN ARRAY ARRAY['tiercel.dataset_content', 'tiercel.dataset_version', 'tiercel.dataset_publication']::regclass[]
    LOOP
        PERFORM tiercel.scope_by_account(owned);
        EXECUTE format('ALTER TABLE %s ALTER COLUMN account SET DEFAULT -2', owned);
        EXECUTE format('CREATE POLICY shared ON %s FOR SELECT USING (account = -2)', owned);
    END LOOP;
END
$$;
