-- What the tables take on disk, for dashboards: one row per table of the schema. A hypertable's chunks count as
-- it; rows are the planner's estimate. Without timescaledb, there are no chunks.
CREATE FUNCTION telegram_gateway.storage()
RETURNS TABLE (
    relation           text,
    bytes              bigint,
    live_rows          bigint,
    dead_rows          bigint,
    chunks             bigint,
    compressed_chunks  bigint,
    uncompressed_bytes bigint,  -- what the compressed chunks took before
    compressed_bytes   bigint   -- and take now
)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    timescale boolean := telegram_gateway.has_timescaledb();
BEGIN
    RETURN QUERY
    SELECT s.relname::text, pg_total_relation_size(s.relid), s.n_live_tup, s.n_dead_tup, 0::bigint, 0::bigint, 0::bigint, 0::bigint
    FROM pg_stat_all_tables s
    WHERE s.schemaname = 'telegram_gateway' AND NOT (timescale AND s.relname = 'messages');
    IF timescale THEN
        RETURN QUERY
        SELECT
            'messages',
            hypertable_size('telegram_gateway.messages'),
            approximate_row_count('telegram_gateway.messages'),
            (
                SELECT coalesce(sum(s.n_dead_tup), 0)::bigint
                FROM show_chunks('telegram_gateway.messages') c JOIN pg_stat_all_tables s ON s.relid = c
            ),
            coalesce(h.total_chunks, 0),
            coalesce(h.number_compressed_chunks, 0),
            coalesce(h.before_compression_total_bytes, 0),
            coalesce(h.after_compression_total_bytes, 0)
        FROM (SELECT) one
        LEFT JOIN hypertable_compression_stats('telegram_gateway.messages') h ON true;
    END IF;
END
$$;
