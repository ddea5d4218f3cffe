-- What is still taken from a bucket after a while (limits/bucket.py: drained). A product that would not fit is not taken:
-- the bucket has been empty for long then.
CREATE OR REPLACE FUNCTION ai_drained(taken bigint, per_minute bigint, elapsed_us bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN per_minute = 0 OR elapsed_us > taken / per_minute THEN 0
        ELSE taken - GREATEST(elapsed_us, 0) * per_minute END
$$;
