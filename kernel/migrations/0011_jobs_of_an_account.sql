-- The runs of one job for one account, however many others have, and however many jobs it runs.
CREATE INDEX job_run_account_name ON tiercel.job_run (account, name, id DESC);
