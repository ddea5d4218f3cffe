-- Admits a batch of attempts in one transaction, each decided in order: module gate, kept answer, limits, budgets.
--
-- Returns a row for each attempt that is not admitted; the others are reserved. What a batch shares comes once: the
-- budgets (key_…), gates (gate_…) and idempotency claims that its attempts name by their place, counted from 1, with 0 for
-- none. So a budget is read and written once, however many attempts count against it.
--
-- Limits are those of the owners of budgets: limit_keys are the places of keys that the configuration limits, each owner
-- once, with their limits beside them. Where a tier (tier_…) or ai_limits may say otherwise, they are found here. Then there
-- is a row, of place 0, for each of them and where it stands: its requests, burst, tokens, concurrent calls, and what is
-- taken of each. The arithmetic is that of limits/bucket.py, and the order that of limits/sqlite.py.
--
-- Raises TH001 when the epoch was lost, and 40001 when another instance took a claim meanwhile.
CREATE OR REPLACE FUNCTION ai_admit(
    my_epoch bigint, now_text text,
    tier_names text[], tier_scopes text[], tier_rpms bigint[], tier_bursts bigint[], tier_tpms bigint[],
    tier_concurrents bigint[],
    months text[], key_tenants text[], key_periods text[], key_scopes text[], key_scope_ids text[],
    limit_keys integer[], rpms bigint[], bursts bigint[], tpms bigint[], concurrents bigint[],
    gate_tenants text[], gate_features text[], gate_tiers text[], claim_ids text[],
    request_ids text[], attempts integer[], tenant_ids text[], user_ids text[], feature_slugs text[], services text[],
    key_ids text[], models text[], providers text[], price_versions text[], ceilings bigint[], periods text[],
    created_ats text[],
    gates integer[], tenant_keys integer[], feature_keys integer[], service_keys integer[], user_keys integer[],
    are_first boolean[], tokens bigint[], claims integer[], digests text[], expiries text[]
) RETURNS TABLE (place integer, verdict text, subject text, amount bigint, budget integer, cap bigint, sealed bytea,
                 standing bigint[])
LANGUAGE plpgsql AS $$
DECLARE
    found_row record;
    caps bigint[] := array_fill(NULL::bigint, ARRAY[cardinality(key_tenants)]);
    lefts bigint[] := caps;
    taken bigint[] := array_fill(0::bigint, ARRAY[cardinality(key_tenants)]);
    gate_verdicts text[] := array_fill('inactive'::text, ARRAY[cardinality(gate_tenants)]);
    gate_subjects text[] := array_fill(NULL::text, ARRAY[cardinality(gate_tenants)]);
    key_limits integer[];
    requests_taken bigint[];
    tokens_taken bigint[];
    running bigint[];
    tokens_of_attempt bigint[];
    now_us bigint;
    nth_limit integer;
    begins boolean;
    over bigint;
    wait_us bigint;
    longest_us bigint;
    kept_verdicts text[];
    kept_digests text[];
    kept_requests text[];
    kept_answers bytea[];
    claim_requests text[];
    claim_digests text[];
    claim_expiries text[];
    admitted boolean[] := array_fill(FALSE, ARRAY[cardinality(request_ids)]);
    is_any_admitted boolean := FALSE;
    is_month_missing boolean;
    is_reread boolean := FALSE;
    keys_of_attempt integer[];
    key integer;
    ceiling bigint;
    claim integer;
    expected bigint;
    changed bigint;
BEGIN
    -- Against being declared lost, which locks the row for update: whoever is lost admits nothing any more.
    PERFORM 1 FROM ai_instances WHERE epoch = my_epoch AND state = 'live' FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'epoch % is lost', my_epoch USING ERRCODE = 'TH001';
    END IF;

    PERFORM ai_open_month(month) FROM unnest(months) AS month
      WHERE to_regclass('ai_usage_log_' || replace(month, '-', '_')) IS NULL;

    LOOP
        -- The rows that everybody who counts against a tenant's or a key's budgets locks, in one order. A tenant's row
        -- stands for the caps of its users and features too: they are added and lifted under its lock.
        PERFORM 1
           FROM unnest(key_tenants, key_periods, key_scopes, key_scope_ids)
                AS k (tenant_id, billing_period, scope, scope_id)
           JOIN ai_budgets b USING (tenant_id, billing_period, scope, scope_id)
          WHERE k.scope IN ('tenant', 'key')
          ORDER BY b.tenant_id, b.billing_period, b.scope, b.scope_id
            FOR NO KEY UPDATE OF b;

        -- A statement of its own, and so a later snapshot: caps and gates as they are now that the locks are held.
        FOR found_row IN
            SELECT k.place, b.cap_nano_usd, b.cap_nano_usd - b.posted_nano_usd - b.reserved_nano_usd AS left_nano_usd
              FROM unnest(key_tenants, key_periods, key_scopes, key_scope_ids)
                   WITH ORDINALITY AS k (tenant_id, billing_period, scope, scope_id, place)
              JOIN ai_budgets b USING (tenant_id, billing_period, scope, scope_id)
        LOOP
            caps[found_row.place] := found_row.cap_nano_usd;
            lefts[found_row.place] := found_row.left_nano_usd;
        END LOOP;
        FOR found_row IN
            SELECT g.place, m.is_active, m.expires_at, m.tier, COALESCE(f.is_enabled, TRUE) AS is_enabled,
                   g.tiers IS NULL OR m.tier = ANY (string_to_array(g.tiers, E'\n')) AS has_model
              FROM unnest(gate_tenants, gate_features, gate_tiers)
                   WITH ORDINALITY AS g (tenant_id, feature_slug, tiers, place)
              JOIN tenant_ai_modules m USING (tenant_id)
              LEFT JOIN tenant_ai_features f USING (tenant_id, feature_slug)
        LOOP
            gate_verdicts[found_row.place] := CASE
                WHEN NOT found_row.is_active THEN 'inactive'
                WHEN found_row.expires_at COLLATE "C" <= now_text THEN 'expired'
                WHEN NOT found_row.is_enabled THEN 'disabled'
                WHEN NOT found_row.has_model THEN 'tier'
                ELSE 'open' END;
            gate_subjects[found_row.place] := CASE gate_verdicts[found_row.place]
                WHEN 'tier' THEN found_row.tier
                ELSE found_row.expires_at END;
        END LOOP;
        EXIT WHEN is_reread;

        -- A month begins with the first call: the standing caps of its tenant, or its key, get their rows.
        is_month_missing := EXISTS (
            SELECT FROM unnest(key_tenants, key_scopes, lefts) AS k (tenant_id, scope, left_nano_usd)
              JOIN unnest(gate_tenants, gate_verdicts) AS g (tenant_id, verdict) USING (tenant_id)
             WHERE k.scope = 'tenant' AND k.left_nano_usd IS NULL AND g.verdict = 'open');
        IF is_month_missing THEN
            INSERT INTO ai_budgets (tenant_id, billing_period, scope, scope_id, cap_nano_usd)
            SELECT k.tenant_id, k.billing_period, c.scope, c.scope_id, c.cap_nano_usd
              FROM unnest(key_tenants, key_periods, key_scopes, lefts)
                   AS k (tenant_id, billing_period, scope, left_nano_usd)
              JOIN (SELECT tenant_id, 'tenant' AS scope, '' AS scope_id, budget_nano_usd AS cap_nano_usd
                      FROM tenant_ai_modules WHERE is_active AND tenant_id = ANY (key_tenants)
                     UNION ALL
                    SELECT tenant_id, scope, scope_id, cap_nano_usd
                      FROM ai_budget_caps WHERE tenant_id <> '' AND tenant_id = ANY (key_tenants)) AS c
                   USING (tenant_id)
             WHERE k.scope = 'tenant' AND k.left_nano_usd IS NULL
             ORDER BY 1, 2, 3, 4
                ON CONFLICT DO NOTHING;
        END IF;
        INSERT INTO ai_budgets (tenant_id, billing_period, scope, scope_id, cap_nano_usd)
        SELECT '', k.billing_period, 'key', k.scope_id, c.cap_nano_usd
          FROM unnest(key_periods, key_scopes, key_scope_ids, lefts)
               AS k (billing_period, scope, scope_id, left_nano_usd)
          JOIN ai_budget_caps c ON c.tenant_id = '' AND c.scope = 'key' AND c.scope_id = k.scope_id
         WHERE k.scope = 'key' AND k.left_nano_usd IS NULL
               -- Not for earlier months: a late call of theirs would open its row as if it were the first.
               AND left(c.updated_at, 7) COLLATE "C" <= k.billing_period
         ORDER BY 1, 2, 3, 4
            ON CONFLICT DO NOTHING;
        EXIT WHEN NOT FOUND AND NOT is_month_missing;
        is_reread := TRUE;
    END LOOP;

    IF cardinality(tier_names) > 4 OR EXISTS (SELECT FROM ai_limits) THEN
        SELECT array_agg(l.place), array_agg(l.rpm), array_agg(l.burst), array_agg(l.tpm), array_agg(l.concurrent)
          INTO limit_keys, rpms, bursts, tpms, concurrents
          FROM (SELECT DISTINCT ON (k.tenant_id, k.scope, k.scope_id) k.place::integer AS place,
                       COALESCE(o.requests_per_minute, t.rpm) AS rpm, COALESCE(o.burst, t.burst) AS burst,
                       COALESCE(o.tokens_per_minute, t.tpm) AS tpm,
                       COALESCE(o.concurrent_calls, t.concurrent) AS concurrent
                  FROM unnest(key_tenants, key_scopes, key_scope_ids)
                       WITH ORDINALITY AS k (tenant_id, scope, scope_id, place)
                  LEFT JOIN tenant_ai_modules m ON m.tenant_id = k.tenant_id
                  JOIN unnest(tier_names, tier_scopes, tier_rpms, tier_bursts, tier_tpms, tier_concurrents)
                       AS t (name, scope, rpm, burst, tpm, concurrent)
                    ON t.scope = k.scope AND t.name = CASE WHEN m.tier = ANY (tier_names) THEN m.tier ELSE '' END
                  LEFT JOIN ai_limits o
                    ON o.tenant_id = k.tenant_id AND o.scope = k.scope AND o.scope_id = k.scope_id
                 ORDER BY k.tenant_id, k.scope, k.scope_id, k.place
               ) AS l
         WHERE l.rpm > 0 OR l.tpm > 0 OR l.concurrent > 0;
    END IF;
    IF cardinality(limit_keys) > 0 THEN
        key_limits := array_fill(0, ARRAY[cardinality(key_tenants)]);
        FOR nth IN 1 .. cardinality(limit_keys) LOOP
            key_limits[limit_keys[nth]] := nth;
        END LOOP;
        IF cardinality(months) > 1 THEN
            -- Somebody has a budget for each month, but one limit.
            FOR found_row IN
                SELECT other.place, key_limits[own.place] AS nth
                  FROM unnest(limit_keys) AS own (place)
                  JOIN unnest(key_tenants, key_scopes, key_scope_ids)
                       WITH ORDINALITY AS other (tenant_id, scope, scope_id, place)
                    ON other.tenant_id = key_tenants[own.place] AND other.scope = key_scopes[own.place]
                   AND other.scope_id = key_scope_ids[own.place]
            LOOP
                key_limits[found_row.place] := found_row.nth;
            END LOOP;
        END IF;
        IF EXISTS (SELECT FROM unnest(limit_keys, concurrents) AS l (place, concurrent)
                    WHERE l.concurrent > 0 OR key_scopes[l.place] = 'key')
        THEN
            -- The calls of a key, of any tenant, share no budget's lock; and what runs is counted under one.
            INSERT INTO ai_rate_limits (tenant_id, scope, scope_id)
            SELECT key_tenants[l.place], key_scopes[l.place], key_scope_ids[l.place]
              FROM unnest(limit_keys, concurrents) AS l (place, concurrent)
             WHERE l.concurrent > 0 OR key_scopes[l.place] = 'key'
             ORDER BY 1, 2, 3
                ON CONFLICT DO NOTHING;
        END IF;
        PERFORM 1
           FROM unnest(limit_keys) AS l (place)
           JOIN ai_rate_limits r
             ON r.tenant_id = key_tenants[l.place] AND r.scope = key_scopes[l.place]
            AND r.scope_id = key_scope_ids[l.place]
          ORDER BY r.tenant_id, r.scope, r.scope_id
            FOR NO KEY UPDATE OF r;
        -- The database's clock is one for all instances.
        now_us := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
        requests_taken := array_fill(0::bigint, ARRAY[cardinality(limit_keys)]);
        tokens_taken := requests_taken;
        running := requests_taken;
        tokens_of_attempt := array_fill(0::bigint, ARRAY[cardinality(request_ids)]);
        FOR found_row IN
            SELECT l.nth, ai_drained(r.requests_taken, l.rpm, now_us - r.at_us) AS requests_taken,
                   ai_drained(r.tokens_taken, l.tpm, now_us - r.at_us) AS tokens_taken
              FROM unnest(limit_keys, rpms, tpms) WITH ORDINALITY AS l (place, rpm, tpm, nth)
              JOIN ai_rate_limits r
                ON r.tenant_id = key_tenants[l.place] AND r.scope = key_scopes[l.place]
               AND r.scope_id = key_scope_ids[l.place]
        LOOP
            requests_taken[found_row.nth] := found_row.requests_taken;
            tokens_taken[found_row.nth] := found_row.tokens_taken;
        END LOOP;
        IF 0 < ANY (concurrents) THEN
            FOR found_row IN
                SELECT l.nth, (SELECT count(DISTINCT r.request_id) FROM ai_reservations r
                                WHERE r.state = 'open' AND r.tenant_id = key_tenants[l.place]
                                  AND CASE key_scopes[l.place]
                                      WHEN 'user' THEN r.user_id = key_scope_ids[l.place]
                                      WHEN 'feature' THEN r.feature_slug = key_scope_ids[l.place]
                                      ELSE TRUE END) AS running
                  FROM unnest(limit_keys, concurrents) WITH ORDINALITY AS l (place, concurrent, nth)
                 WHERE l.concurrent > 0 AND key_scopes[l.place] <> 'key'
                 UNION ALL
                SELECT l.nth, (SELECT count(DISTINCT r.request_id) FROM ai_reservations r
                                WHERE r.state = 'open' AND r.key_id = key_scope_ids[l.place])
                  FROM unnest(limit_keys, concurrents) WITH ORDINALITY AS l (place, concurrent, nth)
                 WHERE l.concurrent > 0 AND key_scopes[l.place] = 'key'
            LOOP
                running[found_row.nth] := found_row.running;
            END LOOP;
        END IF;
    END IF;

    IF cardinality(claim_ids) > 0 THEN
        kept_verdicts := array_fill(NULL::text, ARRAY[cardinality(claim_ids)]);
        kept_digests := kept_verdicts;
        kept_requests := kept_verdicts;
        claim_requests := kept_verdicts;
        claim_digests := kept_verdicts;
        claim_expiries := kept_verdicts;
        kept_answers := array_fill(NULL::bytea, ARRAY[cardinality(claim_ids)]);
        FOR found_row IN
            SELECT c.place, i.body_digest, i.request_id, i.sealed_answer, i.is_lost, i.expires_at
              FROM unnest(claim_ids) WITH ORDINALITY AS c (claim_id, place)
              JOIN ai_idempotency i USING (claim_id)
        LOOP
            -- The claim of a call under way does not expire: without it, a retry would pay a second time.
            CONTINUE WHEN found_row.expires_at COLLATE "C" <= now_text
                      AND (found_row.sealed_answer IS NOT NULL OR found_row.is_lost);
            kept_digests[found_row.place] := found_row.body_digest;
            kept_requests[found_row.place] := found_row.request_id;
            kept_answers[found_row.place] := found_row.sealed_answer;
            kept_verdicts[found_row.place] := CASE
                WHEN found_row.is_lost THEN 'lost'
                WHEN found_row.sealed_answer IS NULL THEN 'in_flight'
                ELSE 'kept' END;
        END LOOP;
    END IF;

    <<deciding>>
    FOR nth IN 1 .. cardinality(request_ids) LOOP
        place := nth;
        subject := NULL; amount := NULL; budget := NULL; cap := NULL; sealed := NULL; standing := NULL;

        verdict := gate_verdicts[gates[nth]];
        IF verdict <> 'open' THEN
            subject := gate_subjects[gates[nth]];
            RETURN NEXT;
            CONTINUE deciding;
        END IF;

        claim := claims[nth];
        IF claim > 0 THEN
            IF claim_requests[claim] IS NOT NULL THEN
                verdict := CASE WHEN claim_digests[claim] = digests[nth] THEN 'in_flight' ELSE 'mismatch' END;
                RETURN NEXT;
                CONTINUE deciding;
            END IF;
            IF kept_verdicts[claim] IS NOT NULL THEN
                verdict := CASE WHEN kept_digests[claim] = digests[nth] THEN kept_verdicts[claim] ELSE 'mismatch' END;
                IF verdict = 'kept' THEN
                    subject := kept_requests[claim];
                    sealed := kept_answers[claim];
                END IF;
                RETURN NEXT;
                CONTINUE deciding;
            END IF;
        END IF;

        keys_of_attempt := ARRAY[tenant_keys[nth], feature_keys[nth], service_keys[nth], user_keys[nth]];
        IF are_first[nth] AND key_limits IS NOT NULL THEN
            longest_us := 0;
            FOREACH key IN ARRAY keys_of_attempt LOOP
                CONTINUE WHEN key = 0;
                nth_limit := key_limits[key];
                CONTINUE WHEN nth_limit = 0;
                IF tpms[nth_limit] > 0 AND tokens[nth] > tpms[nth_limit] THEN
                    subject := 'tokens';
                    longest_us := 0;
                    budget := key;
                    EXIT;
                END IF;
                IF rpms[nth_limit] > 0 THEN
                    over := requests_taken[nth_limit] + (1 - bursts[nth_limit]) * 60000000;
                    wait_us := (over - 1) / rpms[nth_limit] + 1;
                    IF over > 0 AND wait_us > longest_us THEN
                        longest_us := wait_us;
                        subject := 'requests';
                        budget := key;
                    END IF;
                END IF;
                IF tpms[nth_limit] > 0 THEN
                    over := tokens_taken[nth_limit] + (tokens[nth] - tpms[nth_limit]) * 60000000;
                    wait_us := (over - 1) / tpms[nth_limit] + 1;
                    IF over > 0 AND wait_us > longest_us THEN
                        longest_us := wait_us;
                        subject := 'tokens';
                        budget := key;
                    END IF;
                END IF;
                IF concurrents[nth_limit] > 0 AND running[nth_limit] >= concurrents[nth_limit]
                   AND longest_us < 1000000
                THEN
                    longest_us := 1000000;
                    subject := 'concurrent';
                    budget := key;
                END IF;
            END LOOP;
            IF subject IS NOT NULL THEN
                verdict := 'limited';
                amount := longest_us;
                RETURN NEXT;
                CONTINUE deciding;
            END IF;
        END IF;

        ceiling := ceilings[nth];
        FOREACH key IN ARRAY keys_of_attempt LOOP
            IF key > 0 AND lefts[key] < ceiling THEN
                verdict := 'budget';
                amount := lefts[key];
                budget := key;
                cap := caps[key];
                RETURN NEXT;
                CONTINUE deciding;
            END IF;
        END LOOP;
        IF lefts[tenant_keys[nth]] IS NULL THEN
            RAISE EXCEPTION 'tenant % has no budget row for %', tenant_ids[nth], periods[nth];
        END IF;

        FOREACH key IN ARRAY keys_of_attempt LOOP
            IF key > 0 AND lefts[key] IS NOT NULL THEN
                lefts[key] := lefts[key] - ceiling;
                taken[key] := taken[key] + ceiling;
            END IF;
        END LOOP;
        -- Taken last, so that a refusal uses nothing up. A further attempt is no further call; but what the attempt
        -- before gave back, it takes again.
        IF key_limits IS NOT NULL THEN
            -- A hedged call runs once, though both its attempts do.
            begins := are_first[nth] OR 0 < ANY (concurrents) AND NOT EXISTS (
                SELECT FROM ai_reservations r WHERE r.request_id = request_ids[nth] AND r.state = 'open');
            FOREACH key IN ARRAY keys_of_attempt LOOP
                CONTINUE WHEN key = 0;
                nth_limit := key_limits[key];
                CONTINUE WHEN nth_limit = 0;
                IF are_first[nth] AND rpms[nth_limit] > 0 THEN
                    requests_taken[nth_limit] := requests_taken[nth_limit] + 60000000;
                END IF;
                IF tpms[nth_limit] > 0 THEN
                    tokens_taken[nth_limit] := tokens_taken[nth_limit] + tokens[nth] * 60000000;
                    tokens_of_attempt[nth] := tokens[nth];
                END IF;
                IF begins THEN
                    running[nth_limit] := running[nth_limit] + 1;
                END IF;
            END LOOP;
        END IF;
        IF claim > 0 THEN
            claim_requests[claim] := request_ids[nth];
            claim_digests[claim] := digests[nth];
            claim_expiries[claim] := expiries[nth];
        END IF;
        admitted[nth] := TRUE;
        is_any_admitted := TRUE;
    END LOOP;

    IF key_limits IS NOT NULL THEN
        place := 0;
        verdict := 'standing';
        subject := NULL; amount := NULL; cap := NULL; sealed := NULL;
        FOR nth IN 1 .. cardinality(limit_keys) LOOP
            budget := limit_keys[nth];
            standing := ARRAY[rpms[nth], bursts[nth], tpms[nth], concurrents[nth], requests_taken[nth], tokens_taken[nth],
                              CASE WHEN concurrents[nth] > 0 THEN running[nth] ELSE 0 END];
            RETURN NEXT;
        END LOOP;
    END IF;
    IF NOT is_any_admitted THEN
        RETURN;
    END IF;

    SELECT count(*) INTO expected FROM unnest(taken) AS t (nano_usd) WHERE t.nano_usd > 0;
    UPDATE ai_budgets b SET reserved_nano_usd = b.reserved_nano_usd + k.nano_usd
      FROM unnest(key_tenants, key_periods, key_scopes, key_scope_ids, taken)
           AS k (tenant_id, billing_period, scope, scope_id, nano_usd)
     WHERE b.tenant_id = k.tenant_id AND b.billing_period = k.billing_period AND b.scope = k.scope
       AND b.scope_id = k.scope_id AND k.nano_usd > 0
       AND b.posted_nano_usd + b.reserved_nano_usd + k.nano_usd <= b.cap_nano_usd;
    GET DIAGNOSTICS changed = ROW_COUNT;
    IF changed <> expected THEN
        RAISE EXCEPTION 'a reservation that does not fit its cap was let through';
    END IF;

    INSERT INTO ai_reservations (request_id, attempt, tenant_id, user_id, feature_slug, service, key_id, model,
                                 provider, price_version, ceiling_nano_usd, billing_period, created_at, state, epoch,
                                 tokens)
    SELECT r.request_id, r.attempt, r.tenant_id, r.user_id, r.feature_slug, r.service, r.key_id, r.model, r.provider,
           r.price_version, r.ceiling_nano_usd, r.billing_period, r.created_at, 'open', my_epoch, COALESCE(r.tokens, 0)
      FROM unnest(request_ids, attempts, tenant_ids, user_ids, feature_slugs, services, key_ids, models, providers,
                  price_versions, ceilings, periods, created_ats, tokens_of_attempt, admitted)
           AS r (request_id, attempt, tenant_id, user_id, feature_slug, service, key_id, model, provider,
                 price_version, ceiling_nano_usd, billing_period, created_at, tokens, is_admitted)
     WHERE r.is_admitted;

    IF key_limits IS NOT NULL THEN
        INSERT INTO ai_rate_limits AS r (tenant_id, scope, scope_id, requests_taken, requests_per_minute, tokens_taken,
                                         tokens_per_minute, at_us)
        SELECT key_tenants[l.place], key_scopes[l.place], key_scope_ids[l.place], l.requests_taken, l.rpm,
               l.tokens_taken, l.tpm, now_us
          FROM unnest(limit_keys, requests_taken, rpms, tokens_taken, tpms)
               AS l (place, requests_taken, rpm, tokens_taken, tpm)
         WHERE l.requests_taken > 0 OR l.tokens_taken > 0
         ORDER BY 1, 2, 3
            ON CONFLICT (tenant_id, scope, scope_id) DO UPDATE SET
               requests_taken = excluded.requests_taken, requests_per_minute = excluded.requests_per_minute,
               tokens_taken = excluded.tokens_taken, tokens_per_minute = excluded.tokens_per_minute,
               at_us = excluded.at_us;
    END IF;

    IF cardinality(claim_ids) > 0 THEN
        SELECT count(*) INTO expected FROM unnest(claim_requests) AS c (request_id) WHERE c.request_id IS NOT NULL;
        INSERT INTO ai_idempotency AS i (claim_id, body_digest, request_id, expires_at, epoch)
        SELECT c.claim_id, c.body_digest, c.request_id, c.expires_at, my_epoch
          FROM unnest(claim_ids, claim_digests, claim_requests, claim_expiries)
               AS c (claim_id, body_digest, request_id, expires_at)
         WHERE c.request_id IS NOT NULL
         ORDER BY c.claim_id
            ON CONFLICT (claim_id) DO UPDATE SET
               body_digest = excluded.body_digest, request_id = excluded.request_id, sealed_answer = NULL,
               is_lost = FALSE, expires_at = excluded.expires_at, epoch = excluded.epoch
         WHERE i.expires_at COLLATE "C" <= now_text AND (i.sealed_answer IS NOT NULL OR i.is_lost);
        GET DIAGNOSTICS changed = ROW_COUNT;
        IF changed <> expected THEN
            RAISE EXCEPTION 'another instance took a claim meanwhile' USING ERRCODE = 'serialization_failure';
        END IF;
    END IF;
END $$;
