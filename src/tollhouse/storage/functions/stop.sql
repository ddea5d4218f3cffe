-- Ends an instance's epoch, if it has left nothing that only it may end; otherwise the others will declare it lost, and
-- deal with what it left. Returns whether it is stopped.
CREATE OR REPLACE FUNCTION ai_stop(my_epoch bigint, now_text text) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    -- Its own batches hold the row while they run (FOR KEY SHARE): what they admit is seen by the next statement.
    PERFORM 1 FROM ai_instances WHERE epoch = my_epoch AND state = 'live' FOR UPDATE;
    IF NOT FOUND
       OR EXISTS (SELECT FROM ai_reservations WHERE epoch = my_epoch AND state = 'open')
       OR EXISTS (SELECT FROM ai_idempotency WHERE epoch = my_epoch AND sealed_answer IS NULL AND NOT is_lost)
    THEN
        RETURN FALSE;
    END IF;
    UPDATE ai_instances SET state = 'stopped', ended_at = now_text WHERE epoch = my_epoch;
    RETURN TRUE;
END $$;
