DROP INDEX telegram_gateway.messages_search;
DROP FUNCTION telegram_gateway.search_query(text);
DROP FUNCTION telegram_gateway.search_document(text, text);
DROP FUNCTION telegram_gateway.fold_accents(text);
