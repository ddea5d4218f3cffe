-- Makes the partition that a month's ledger rows go into, where there is none.
--
-- It runs with the rights of the schema's owner, so that the service's own role needs none to change tables. A table is
-- made apart and attached, which lets rows be written meanwhile; CREATE TABLE … PARTITION OF would lock them out.
CREATE OR REPLACE FUNCTION ai_open_month(month text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    partition text := 'ai_usage_log_' || replace(month, '-', '_');
BEGIN
    IF month !~ '^[0-9]{4}-(0[1-9]|1[0-2])$' THEN
        RAISE EXCEPTION 'expected a month as YYYY-MM, got %', left(month, 20);
    END IF;
    IF to_regclass(partition) IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('tollhouse ai_open_month', 0));
    -- Whoever had the lock may have made it. to_regclass would go by what this process remembers from before.
    IF EXISTS (SELECT FROM pg_class WHERE relname = partition AND relnamespace = current_schema()::regnamespace) THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE ai_usage_log INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition);
    EXECUTE format('ALTER TABLE ai_usage_log ATTACH PARTITION %I FOR VALUES IN (%L)', partition, month);
    EXECUTE format('CREATE TRIGGER ai_usage_log_no_truncate BEFORE TRUNCATE ON %I EXECUTE FUNCTION ai_refuse_change()',
                   partition);
    EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON %I FROM PUBLIC, CURRENT_USER', partition);
END $$;
