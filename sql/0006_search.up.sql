-- Full-text search over text and caption, in Portuguese. Accents are folded on both sides, since people leave
-- them out; the stemmer then no longer knows -ções as the plural of -ção, so that is folded too. The unaccent
-- extension may be absent, and a chain of replace() costs a sixth of one translate().

CREATE FUNCTION telegram_gateway.fold_accents(words text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(
    lower(words),
    'á', 'a'), 'à', 'a'), 'â', 'a'), 'ã', 'a'), 'é', 'e'), 'ê', 'e'), 'í', 'i'), 'ó', 'o'), 'ô', 'o'), 'õ', 'o'),
    'ú', 'u'), 'ü', 'u'), 'ç', 'c'), 'oes', 'ao');

CREATE FUNCTION telegram_gateway.search_document(text text, caption text) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN to_tsvector(
    'pg_catalog.portuguese', telegram_gateway.fold_accents(coalesce(text, '') || ' ' || coalesce(caption, ''))
);

CREATE FUNCTION telegram_gateway.search_query(words text) RETURNS tsquery
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN websearch_to_tsquery('pg_catalog.portuguese', telegram_gateway.fold_accents(words));

COMMENT ON FUNCTION telegram_gateway.search_document(text, text) IS
    'Write search_document(text, caption) @@ search_query(''words'') to use the index messages_search.';

-- A short pending list (in kB): some insert has to merge it, and with the default of 4 MB that one takes 100 ms.
CREATE INDEX messages_search ON telegram_gateway.messages
    USING gin (telegram_gateway.search_document(text, caption)) WITH (gin_pending_list_limit = 512);
