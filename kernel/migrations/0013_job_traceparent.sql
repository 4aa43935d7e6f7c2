-- The span of the request that started a job, as the header traceparent has it (https://www.w3.org/TR/trace-context/): the spans
-- of its runs are children of it. NULL if that request has no span.
ALTER TABLE tiercel.job_run ADD COLUMN traceparent text;
