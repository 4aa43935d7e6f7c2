-- ``X-Account`` and ``X-Site`` take a number or a slug, so that none is both.
ALTER TABLE accounts.account ADD CHECK (slug ~ '[^0-9]');
ALTER TABLE accounts.site ADD CHECK (slug ~ '[^0-9]');
-- Lists of an account.
CREATE INDEX user_account ON accounts.user (account) WHERE deleted_at IS NULL;
CREATE INDEX sector_account ON accounts.sector (account) WHERE deleted_at IS NULL;
