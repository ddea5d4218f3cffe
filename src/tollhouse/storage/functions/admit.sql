-- Admits a batch of attempts in one transaction, each decided in order: module gate, kept answer, rate limit, budgets.
--
-- Returns a row for each attempt that is not admitted; the others are reserved. What a batch shares comes once: the
-- budgets (key_…), gates (gate_…), rate-limited tenants and idempotency claims that its attempts name by their place,
-- counted from 1, with 0 for none. So a budget is read and written once, however many attempts count against it.
--
-- Raises TH001 when the epoch was lost, and 40001 when another instance took a claim meanwhile.
CREATE OR REPLACE FUNCTION ai_admit(
    my_epoch bigint, now_text text, interval_us bigint, tolerance_us bigint,
    months text[], key_tenants text[], key_periods text[], key_scopes text[], key_scope_ids text[],
    gate_tenants text[], gate_features text[], gate_tiers text[], limited_tenants text[], claim_ids text[],
    request_ids text[], attempts integer[], tenant_ids text[], user_ids text[], feature_slugs text[], services text[],
    key_ids text[], models text[], providers text[], price_versions text[], ceilings bigint[], periods text[],
    created_ats text[],
    gates integer[], limits integer[], tenant_keys integer[], feature_keys integer[], service_keys integer[],
    user_keys integer[], are_first boolean[], claims integer[], digests text[], expiries text[]
) RETURNS TABLE (place integer, verdict text, subject text, amount bigint, budget integer, cap bigint, sealed bytea)
LANGUAGE plpgsql AS $$
DECLARE
    found_row record;
    caps bigint[] := array_fill(NULL::bigint, ARRAY[cardinality(key_tenants)]);
    lefts bigint[] := caps;
    taken bigint[] := array_fill(0::bigint, ARRAY[cardinality(key_tenants)]);
    gate_verdicts text[] := array_fill('inactive'::text, ARRAY[cardinality(gate_tenants)]);
    gate_subjects text[] := array_fill(NULL::text, ARRAY[cardinality(gate_tenants)]);
    full_at_us bigint[];
    now_us bigint;
    over_us bigint;
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

    IF interval_us > 0 THEN
        -- The database's clock is one for all instances.
        now_us := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
        full_at_us := array_fill(now_us, ARRAY[cardinality(limited_tenants)]);
        FOR found_row IN
            SELECT l.place, r.full_at_us
              FROM unnest(limited_tenants) WITH ORDINALITY AS l (tenant_id, place)
              JOIN ai_rate_limits r USING (tenant_id)
             WHERE r.full_at_us > now_us
        LOOP
            full_at_us[found_row.place] := found_row.full_at_us;
        END LOOP;
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
        subject := NULL; amount := NULL; budget := NULL; cap := NULL; sealed := NULL;

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

        IF interval_us > 0 AND are_first[nth] THEN
            over_us := full_at_us[limits[nth]] + interval_us - now_us - tolerance_us;
            IF over_us > 0 THEN
                verdict := 'limited';
                amount := over_us;
                RETURN NEXT;
                CONTINUE deciding;
            END IF;
        END IF;

        ceiling := ceilings[nth];
        keys_of_attempt := ARRAY[tenant_keys[nth], feature_keys[nth], service_keys[nth], user_keys[nth]];
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
        -- Taken last, so that a refusal uses nothing up.
        IF interval_us > 0 AND are_first[nth] THEN
            full_at_us[limits[nth]] := full_at_us[limits[nth]] + interval_us;
        END IF;
        IF claim > 0 THEN
            claim_requests[claim] := request_ids[nth];
            claim_digests[claim] := digests[nth];
            claim_expiries[claim] := expiries[nth];
        END IF;
        admitted[nth] := TRUE;
        is_any_admitted := TRUE;
    END LOOP;

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
                                 provider, price_version, ceiling_nano_usd, billing_period, created_at, state, epoch)
    SELECT r.request_id, r.attempt, r.tenant_id, r.user_id, r.feature_slug, r.service, r.key_id, r.model, r.provider,
           r.price_version, r.ceiling_nano_usd, r.billing_period, r.created_at, 'open', my_epoch
      FROM unnest(request_ids, attempts, tenant_ids, user_ids, feature_slugs, services, key_ids, models, providers,
                  price_versions, ceilings, periods, created_ats, admitted)
           AS r (request_id, attempt, tenant_id, user_id, feature_slug, service, key_id, model, provider,
                 price_version, ceiling_nano_usd, billing_period, created_at, is_admitted)
     WHERE r.is_admitted;

    IF interval_us > 0 THEN
        INSERT INTO ai_rate_limits AS r (tenant_id, full_at_us)
        SELECT l.tenant_id, l.full_at_us FROM unnest(limited_tenants, full_at_us) AS l (tenant_id, full_at_us)
         WHERE l.full_at_us > now_us
         ORDER BY l.tenant_id
            ON CONFLICT (tenant_id) DO UPDATE SET full_at_us = GREATEST(r.full_at_us, excluded.full_at_us);
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
