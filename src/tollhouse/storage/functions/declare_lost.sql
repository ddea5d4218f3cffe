-- Declares an instance's epoch lost, unless its beat has moved: from then on it admits nothing and ends nothing, and
-- its open attempts are anybody's to hold as unknown.
--
-- Calls whose attempt may have been billed keep their idempotency key, marked as lost; the keys of calls that were
-- between two attempts are freed.
CREATE OR REPLACE FUNCTION ai_declare_lost(lost_epoch bigint, seen_beat bigint, now_text text) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    -- Its own batches hold the row while they run (FOR KEY SHARE): they have ended when this goes on.
    PERFORM 1 FROM ai_instances WHERE epoch = lost_epoch AND state = 'live' AND beat = seen_beat FOR UPDATE;
    IF NOT FOUND THEN
        RETURN FALSE;
    END IF;
    UPDATE ai_instances SET state = 'lost', ended_at = now_text WHERE epoch = lost_epoch;
    UPDATE ai_idempotency i SET is_lost = TRUE
     WHERE i.epoch = lost_epoch AND i.sealed_answer IS NULL AND NOT i.is_lost
       AND EXISTS (SELECT FROM ai_reservations r WHERE r.request_id = i.request_id AND r.state = 'open');
    DELETE FROM ai_idempotency i WHERE i.epoch = lost_epoch AND i.sealed_answer IS NULL AND NOT i.is_lost;
    RETURN TRUE;
END $$;
