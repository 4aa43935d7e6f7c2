-- The audit log: who changed what, from where. One chain for each account: an entry has the hash of the entry before it, so
-- that no entry can be changed, removed or moved without a trace. docs/operations/audit.md has the form that is hashed.
CREATE TABLE tiercel.audit_entry (
    account       integer     NOT NULL,
    -- In the chain of its account: 1, 2, 3 ...
    number        bigint      NOT NULL CHECK (number > 0),
    time          timestamptz NOT NULL,
    actor_scheme  text        NOT NULL,
    actor_name    text        NOT NULL,
    actor_account integer,
    actor_user    integer,
    actor_key     integer,
    action        text        NOT NULL,
    target_kind   text        NOT NULL,
    target_id     text,
    -- By field, what it was before and what it is after; json, not jsonb, keeps the text that is hashed.
    changes       json        NOT NULL,
    client        text,
    request_id    text,
    previous_hash bytea       NOT NULL CHECK (octet_length(previous_hash) = 32),
    hash          bytea       NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (account, number)
);
-- What happened to one thing.
CREATE INDEX audit_entry_target ON tiercel.audit_entry (account, target_kind, target_id, number);

-- The end of each chain, which shows that no entry is missing there; and the last entry that was cut off at its beginning.
-- Its row is locked while an entry is added: chains of other accounts do not wait.
CREATE TABLE tiercel.audit_chain (
    account    integer PRIMARY KEY,
    number     bigint  NOT NULL DEFAULT 0,
    hash       bytea   NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    cut_number bigint  NOT NULL DEFAULT 0,
    cut_hash   bytea   NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    CHECK (cut_number <= number)
-- Room for new versions of a row beside the old ones.
) WITH (fillfactor = 50);

SELECT tiercel.scope_by_account('tiercel.audit_entry'), tiercel.scope_by_account('tiercel.audit_chain');

-- Append-only, for the owner of the tables as well. Entries can be removed that are cut off, which the chain records: see
-- `tiercel accounts audit cut`.
CREATE FUNCTION tiercel.keep_audit_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.number <= (SELECT cut_number FROM tiercel.audit_chain WHERE account = OLD.account) THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'entries of the audit log are never changed or removed' USING ERRCODE = 'restrict_violation';
END
$$;

CREATE FUNCTION tiercel.keep_audit_chain() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NEW.account = OLD.account AND NEW.number >= OLD.number AND NEW.cut_number >= OLD.cut_number THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'chains of the audit log only grow' USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER keep BEFORE UPDATE OR DELETE ON tiercel.audit_entry
    FOR EACH ROW EXECUTE FUNCTION tiercel.keep_audit_entry();
CREATE TRIGGER keep_all BEFORE TRUNCATE ON tiercel.audit_entry
    FOR EACH STATEMENT EXECUTE FUNCTION tiercel.keep_audit_entry();
CREATE TRIGGER keep BEFORE UPDATE OR DELETE ON tiercel.audit_chain
    FOR EACH ROW EXECUTE FUNCTION tiercel.keep_audit_chain();
CREATE TRIGGER keep_all BEFORE TRUNCATE ON tiercel.audit_chain
    FOR EACH STATEMENT EXECUTE FUNCTION tiercel.keep_audit_chain();
-- In sessions that replicate as well.
ALTER TABLE tiercel.audit_entry ENABLE ALWAYS TRIGGER keep, ENABLE ALWAYS TRIGGER keep_all;
ALTER TABLE tiercel.audit_chain ENABLE ALWAYS TRIGGER keep, ENABLE ALWAYS TRIGGER keep_all;
