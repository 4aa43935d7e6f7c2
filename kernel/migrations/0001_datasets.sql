-- Datasets: what plugins publish, version by version. Content is stored once, by its hash.

CREATE TABLE tiercel.dataset_content (
    sha256        bytea   PRIMARY KEY,
    items         bytea   NOT NULL,  -- a JSON list, compressed with zstd: PostgreSQL need not understand it
    size_bytes    bigint  NOT NULL,  -- before compression
    item_count    integer NOT NULL
);

ALTER TABLE tiercel.dataset_content ALTER COLUMN items SET STORAGE EXTERNAL;

CREATE TABLE tiercel.dataset_version (
    dataset      text        NOT NULL,
    version      bigint      NOT NULL,
    sha256       bytea       NOT NULL REFERENCES tiercel.dataset_content,
    published_at timestamptz NOT NULL,
    PRIMARY KEY (dataset, version)
);

CREATE INDEX dataset_version_content ON tiercel.dataset_version (sha256);

-- Every attempt to publish, also those that changed nothing or were refused.
CREATE TABLE tiercel.dataset_publication (
    id             bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dataset        text        NOT NULL,
    at             timestamptz NOT NULL,
    outcome        text        NOT NULL CHECK (outcome IN ('published', 'unchanged', 'refused')),
    version        bigint,              -- the one that serves after this attempt
    source         text        NOT NULL,
    job_id         bigint,
    item_count     integer     NOT NULL,
    rejected_count integer     NOT NULL,
    rejected       jsonb       NOT NULL, -- the first of them, each with its reason
    reason         text,
    details        jsonb
);

CREATE INDEX dataset_publication_dataset ON tiercel.dataset_publication (dataset, id DESC);
