-- Takes a month's rows out of ai_usage_log, into a table of their own that can be exported and dropped; returns its name.
--
-- For the schema's owner. Where the rows stood in their tenants' chains stays on record, so that `tollhouse verify` goes
-- on proving the rest. A month with calls under way, or of unknown outcome, is refused.
CREATE OR REPLACE FUNCTION ai_archive_month(month text) RETURNS text
LANGUAGE plpgsql SET lock_timeout = '2s' AS $$
DECLARE
    partition text := 'ai_usage_log_' || replace(month, '-', '_');
    archive text := partition || '_archived_' || to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISS');
BEGIN
    IF month !~ '^[0-9]{4}-(0[1-9]|1[0-2])$' THEN
        RAISE EXCEPTION 'expected a month as YYYY-MM, got %', left(month, 20);
    END IF;
    IF month >= to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM') THEN
        RAISE EXCEPTION '% is not over: only earlier months can be archived', month;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = 'ai_usage_log'::regclass
                   AND inhrelid = to_regclass(partition)) THEN
        RAISE EXCEPTION '% has no rows here: it had none, or was archived before', month;
    END IF;
    -- Nothing is added to the month from here on, while every other month goes on being written.
    EXECUTE format('LOCK TABLE ONLY %I IN SHARE MODE', partition);
    IF EXISTS (SELECT FROM ai_reservations WHERE billing_period = month) THEN
        RAISE EXCEPTION '% has calls whose outcome is not known: reconcile them first', month;
    END IF;
    EXECUTE format($sql$
        INSERT INTO ai_ledger_archives (tenant_id, first_id, billing_period, entries, prev_hash, last_hash)
        SELECT tenant_id, min(id), %2$L, count(*), (array_agg(prev_hash ORDER BY id))[1],
               (array_agg(row_hash ORDER BY id DESC))[1]
          FROM (SELECT tenant_id, id, prev_hash, row_hash,
                       sum(is_start) OVER (PARTITION BY tenant_id ORDER BY id) AS run
                  FROM (SELECT tenant_id, id, prev_hash, row_hash,
                               (prev_hash IS DISTINCT FROM lag(row_hash) OVER (PARTITION BY tenant_id ORDER BY id)
                               )::integer AS is_start
                          FROM %1$I) AS marked) AS numbered
         GROUP BY tenant_id, run$sql$, partition, month);
    -- Last, since it locks the whole ledger until the commit.
    EXECUTE format('ALTER TABLE ai_usage_log DETACH PARTITION %I', partition);
    EXECUTE format('ALTER TABLE %I RENAME TO %I', partition, archive);
    RETURN archive;
END $$;
