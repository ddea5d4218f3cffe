-- Gives back the reservations of attempts that cannot be billed. All or none; raises as ai_settle does.
CREATE OR REPLACE FUNCTION ai_release(my_epoch bigint, request_ids text[], attempts integer[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    gone record;
BEGIN
    PERFORM 1 FROM ai_instances WHERE epoch = my_epoch AND state = 'live' FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'epoch % is lost', my_epoch USING ERRCODE = 'TH001';
    END IF;
    WITH closed AS (
        DELETE FROM ai_reservations r
         USING unnest(request_ids, attempts) AS e (request_id, attempt)
         WHERE r.request_id = e.request_id AND r.attempt = e.attempt AND r.state = 'open' AND r.epoch = my_epoch
        RETURNING r.tenant_id, r.billing_period, r.user_id, r.feature_slug, r.key_id, r.ceiling_nano_usd, r.tokens)
    SELECT count(*) AS count, array_agg(tenant_id) AS tenant_ids, array_agg(billing_period) AS periods,
           array_agg(user_id) AS user_ids, array_agg(feature_slug) AS feature_slugs, array_agg(key_id) AS key_ids,
           array_agg(0::bigint) AS costs, array_agg(ceiling_nano_usd) AS ceilings, array_agg('released'::text) AS ends,
           array_agg(tokens) AS tokens, bool_or(tokens > 0) AS has_tokens
      INTO gone FROM closed;
    IF gone.count <> cardinality(request_ids) THEN
        IF EXISTS (
            SELECT FROM unnest(request_ids, attempts) AS e (request_id, attempt)
              JOIN ai_reservations r USING (request_id, attempt)
             WHERE r.epoch <> my_epoch)
        THEN
            RAISE EXCEPTION 'attempts are another epoch''s' USING ERRCODE = 'TH002';
        END IF;
        RAISE EXCEPTION '% of % attempts are there to be released', gone.count, cardinality(request_ids)
              USING ERRCODE = 'TH003';
    END IF;
    PERFORM ai_move(gone.tenant_ids, gone.periods, gone.user_ids, gone.feature_slugs, gone.key_ids, gone.costs,
                    gone.ceilings, gone.ends, NULL, NULL);
    IF gone.has_tokens THEN
        PERFORM ai_return_tokens(gone.tenant_ids, gone.user_ids, gone.feature_slugs, gone.key_ids, gone.tokens);
    END IF;
END $$;
