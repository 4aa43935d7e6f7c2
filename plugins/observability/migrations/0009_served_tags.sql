-- Tags as they are answered: text, of a length that the reader can bear. A jsonb of few bytes may be long as text: of a
-- number, every digit is written out. Ingest bounds that, but versions before this one did not.

-- Return tags as text; NULL if that has more than max_bytes.
CREATE FUNCTION observability.tags_text(tags jsonb, max_bytes integer) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL RESTRICTED AS $$
DECLARE
    -- Without reading tags that are stored apart; of compressed ones, as compressed.
    stored_bytes constant integer := pg_column_size(tags);
    served text;
BEGIN
    -- In so few bytes there are at most 25 numbers, and none fills a page.
    IF stored_bytes < 300 THEN
        served := tags::text;
    -- As jsonb, nothing takes more than four times the bytes of its text.
    ELSIF stored_bytes > 4 * max_bytes
        OR tags @? '$.** ? (@.type() == "number" && (@ > 1.8e308 || @ < -1.8e308 || @ != 0 && @ > -1e-400 && @ < 1e-400))'
    THEN
        RETURN NULL;
    ELSE
        BEGIN
            served := tags::text;
        EXCEPTION WHEN program_limit_exceeded OR out_of_memory THEN
            RETURN NULL;  -- longer than any text
        END;
    END IF;
    RETURN CASE WHEN octet_length(served) <= max_bytes THEN served END;
END
$$;
