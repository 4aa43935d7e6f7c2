-- How far log files are read that are followed. Nothing depends on it but speed and the counts of identical lines: what is
-- read a second time is recognized by the ids of its events.
CREATE TABLE observability.followed_file (
    account           integer NOT NULL DEFAULT coalesce(tiercel.current_account(), 0),
    -- The machine, as files of others may have the same path.
    host              text NOT NULL,
    path              text NOT NULL,
    service           text NOT NULL,
    format            text NOT NULL,
    -- BLAKE2b of the first bytes of the file, by which it is found again after its path has changed.
    head_sha          bytea NOT NULL,
    head_bytes        integer NOT NULL,
    -- All lines up to here are stored.
    position_bytes    bigint NOT NULL,
    -- The last lines of the file that was at the path before: for each a digest of 16 bytes and a count of 4.
    last_lines_before bytea NOT NULL,
    updated_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, host, path, service)
);
SELECT tiercel.scope_by_account('observability.followed_file');
