-- Finds the last end of each job, for the health check; tells runs of schedules from those that somebody started.

ALTER TABLE tiercel.job_run ADD COLUMN is_scheduled boolean NOT NULL DEFAULT false;

CREATE INDEX job_run_last_end ON tiercel.job_run (name, finished_at DESC) WHERE state IN ('succeeded', 'failed');
