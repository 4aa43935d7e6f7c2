-- Passwords, sessions, what signs them, and what slows guessing down.

-- Argon2id, in the PHC string format, which holds its parameters.
CREATE TABLE accounts.password (
    user_id    integer     PRIMARY KEY,
    account    integer     NOT NULL,
    hash       text        NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (account, user_id) REFERENCES accounts.user (account, id) ON DELETE CASCADE
);

-- Raised to end every session and token of a user: what was issued for another version is revoked.
ALTER TABLE accounts.user ADD COLUMN token_version integer NOT NULL DEFAULT 0;

CREATE FUNCTION accounts.revoke_tokens() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.token_version := OLD.token_version + 1;
    RETURN NEW;
END
$$;
-- Whoever changes the row, and however.
CREATE TRIGGER user_revoke_tokens BEFORE UPDATE ON accounts.user FOR EACH ROW
    WHEN ((OLD.is_active AND NOT NEW.is_active) OR (OLD.deleted_at IS NULL AND NEW.deleted_at IS NOT NULL))
    EXECUTE FUNCTION accounts.revoke_tokens();

-- Processes remember users for a few seconds: tell them at once.
CREATE FUNCTION accounts.notify_user_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('accounts_users', (CASE TG_OP WHEN 'DELETE' THEN to_jsonb(OLD) ELSE to_jsonb(NEW) END ->> TG_ARGV[0]));
    RETURN NULL;
END
$$;
CREATE TRIGGER user_notify AFTER UPDATE OR DELETE ON accounts.user FOR EACH ROW
    EXECUTE FUNCTION accounts.notify_user_change('id');
CREATE TRIGGER site_user_access_notify AFTER INSERT OR UPDATE OR DELETE ON accounts.site_user_access FOR EACH ROW
    EXECUTE FUNCTION accounts.notify_user_change('user_id');

-- Somebody who signed in, and stays so: with a cookie, or with access tokens that a refresh token renews.
CREATE TABLE accounts.session (
    id            bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account       integer     NOT NULL,
    user_id       integer     NOT NULL,
    kind          text        NOT NULL CHECK (kind IN ('cookie', 'token')),
    -- Of the cookie's value, or of the only refresh token that has not been used.
    sha256        bytea       NOT NULL,
    -- That of the user when the session began.
    token_version integer     NOT NULL,
    created_at    timestamptz NOT NULL,
    used_at       timestamptz NOT NULL,
    expires_at    timestamptz NOT NULL,
    revoked_at    timestamptz,
    FOREIGN KEY (account, user_id) REFERENCES accounts.user (account, id) ON DELETE CASCADE
);
CREATE INDEX session_user_id ON accounts.session (user_id, used_at DESC);
CREATE INDEX session_expires_at ON accounts.session (expires_at);

CREATE TABLE accounts.password_reset (
    sha256     bytea       PRIMARY KEY,
    account    integer     NOT NULL,
    user_id    integer     NOT NULL,
    expires_at timestamptz NOT NULL,
    FOREIGN KEY (account, user_id) REFERENCES accounts.user (account, id) ON DELETE CASCADE
);
CREATE INDEX password_reset_user ON accounts.password_reset (user_id);

-- What was sent to an address that was the user's.
CREATE FUNCTION accounts.forget_resets() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM accounts.password_reset WHERE user_id = NEW.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER user_forget_resets AFTER UPDATE ON accounts.user FOR EACH ROW
    WHEN (OLD.email <> NEW.email) EXECUTE FUNCTION accounts.forget_resets();

SELECT tiercel.scope_by_account(name::regclass)
FROM unnest(ARRAY['accounts.password', 'accounts.session', 'accounts.password_reset']) AS name;

-- What signs access tokens (jwt), and cookies and refresh tokens where there is no secret_key (cookie).
CREATE TABLE accounts.signing_key (
    kid        text        PRIMARY KEY,
    purpose    text        NOT NULL CHECK (purpose IN ('jwt', 'cookie')),
    secret     bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Signs nothing more, but still verifies what it has signed.
    retired_at timestamptz
);
CREATE UNIQUE INDEX signing_key_current ON accounts.signing_key (purpose) WHERE retired_at IS NULL;

-- Failed attempts to sign in, by hashes of who tried what. Rows are few: old ones are removed, and there is a most.
CREATE TABLE accounts.sign_in_attempt (
    key           bytea       PRIMARY KEY,
    failures      integer     NOT NULL,
    failed_at     timestamptz NOT NULL,
    blocked_until timestamptz NOT NULL
);
CREATE INDEX sign_in_attempt_failed_at ON accounts.sign_in_attempt (failed_at);

-- From where users signed in lately, by hashes of address and user.
CREATE TABLE accounts.known_address (
    key     bytea       PRIMARY KEY,
    seen_at timestamptz NOT NULL
);
CREATE INDEX known_address_seen_at ON accounts.known_address (seen_at);

-- No request of an account sees any of these.
ALTER TABLE accounts.signing_key ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY of_service ON accounts.signing_key USING ((SELECT tiercel.current_account()) IS NULL);
ALTER TABLE accounts.sign_in_attempt ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY of_service ON accounts.sign_in_attempt USING ((SELECT tiercel.current_account()) IS NULL);
ALTER TABLE accounts.known_address ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY of_service ON accounts.known_address USING ((SELECT tiercel.current_account()) IS NULL);
