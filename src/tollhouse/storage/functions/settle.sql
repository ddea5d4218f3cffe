-- Ends a batch of attempts in one transaction: reservation, chain, ledger row, rollups, budgets, kept answer.
--
-- All or none. Raises TH001 when this epoch is lost, TH002 when an attempt is another epoch's, and TH003 when one was ended
-- before. What a lost instance left may be held as unknown by any other.
--
-- Arguments are columns of ai_usage_log; heads numbers each row's tenant in head_tenants, from 1; bodies are the rows as
-- hashed, up to their prev_hash (see the ledger's README); ceilings are what was reserved; thresholds are those of ai_move.
CREATE OR REPLACE FUNCTION ai_settle(
    my_epoch bigint, head_tenants text[], heads integer[], bodies bytea[], ceilings bigint[],
    request_ids text[], attempts integer[], tenant_ids text[], user_ids text[], feature_slugs text[], services text[],
    key_ids text[], models text[], providers text[], inputs bigint[], cached_inputs bigint[], cache_writes bigint[],
    cache_writes_1h bigint[], outputs bigint[], reasonings bigint[], totals bigint[], costs bigint[],
    price_versions text[], statuses text[], usage_sources text[], finish_reasons text[], latencies_ms integer[],
    periods text[], admitted_ats text[], created_ats text[], other_usages text[], claim_ids text[], answers bytea[],
    thresholds integer[]
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    found_row record;
    lengths bigint[] := array_fill(NULL::bigint, ARRAY[cardinality(head_tenants)]);
    last_hashes text[] := array_fill(NULL::text, ARRAY[cardinality(head_tenants)]);
    prev_hashes text[] := array_fill(NULL::text, ARRAY[cardinality(heads)]);
    row_hashes text[] := prev_hashes;
    head integer;
    changed bigint;
    ended bigint := 0;
    limited record;
    has_tokens boolean := FALSE;
BEGIN
    -- Against being declared lost, as in ai_admit.
    PERFORM 1 FROM ai_instances WHERE epoch = my_epoch AND state = 'live' FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'epoch % is lost', my_epoch USING ERRCODE = 'TH001';
    END IF;

    IF 'settled' = ANY (statuses) OR 'adjustment' = ANY (statuses) THEN
        WITH gone AS (
            DELETE FROM ai_reservations r
             USING unnest(request_ids, attempts, statuses, totals) AS e (request_id, attempt, status, total)
             WHERE r.request_id = e.request_id AND r.attempt = e.attempt
               AND (e.status = 'settled' AND r.state = 'open' AND r.epoch = my_epoch
                    OR e.status = 'adjustment' AND r.state = 'unknown')
            RETURNING r.tenant_id, r.user_id, r.feature_slug, r.key_id, r.tokens - e.total AS unused,
                      -- What an adjustment resolves has not run for long.
                      r.tokens > 0 AND e.status = 'settled' AS has_tokens)
        SELECT count(*) AS count, bool_or(g.has_tokens) AS has_tokens,
               array_agg(g.tenant_id) FILTER (WHERE g.has_tokens) AS tenant_ids,
               array_agg(g.user_id) FILTER (WHERE g.has_tokens) AS user_ids,
               array_agg(g.feature_slug) FILTER (WHERE g.has_tokens) AS feature_slugs,
               array_agg(g.key_id) FILTER (WHERE g.has_tokens) AS key_ids,
               array_agg(g.unused) FILTER (WHERE g.has_tokens) AS unused
          INTO limited FROM gone g;
        ended := limited.count;
        has_tokens := limited.has_tokens;
    END IF;
    IF 'unknown' = ANY (statuses) THEN
        UPDATE ai_reservations r SET state = 'unknown'
          FROM unnest(request_ids, attempts, statuses) AS e (request_id, attempt, status)
         WHERE r.request_id = e.request_id AND r.attempt = e.attempt
           AND e.status = 'unknown' AND r.state = 'open'
           AND (r.epoch = my_epoch
                OR EXISTS (SELECT FROM ai_instances l WHERE l.epoch = r.epoch AND l.state <> 'live'));
        GET DIAGNOSTICS changed = ROW_COUNT;
        ended := ended + changed;
    END IF;
    IF ended <> cardinality(request_ids) THEN
        IF EXISTS (
            SELECT FROM unnest(request_ids, attempts) AS e (request_id, attempt)
              JOIN ai_reservations r USING (request_id, attempt)
             WHERE r.epoch <> my_epoch)
        THEN
            RAISE EXCEPTION 'attempts are another epoch''s' USING ERRCODE = 'TH002';
        END IF;
        RAISE EXCEPTION '% of % attempts are there to be ended', ended, cardinality(request_ids)
              USING ERRCODE = 'TH003';
    END IF;
    -- It may come after its month was archived.
    PERFORM ai_open_month(month) FROM (SELECT DISTINCT unnest(periods) AS month) AS months
      WHERE to_regclass('ai_usage_log_' || replace(month, '-', '_')) IS NULL;

    -- The ends of the chains, which also keep two instances from writing one tenant's rollups at once.
    LOOP
        FOR found_row IN
            SELECT t.place, h.entries, h.last_hash
              FROM unnest(head_tenants) WITH ORDINALITY AS t (tenant_id, place)
              JOIN ai_ledger_heads h USING (tenant_id)
             ORDER BY h.tenant_id
               FOR NO KEY UPDATE OF h
        LOOP
            lengths[found_row.place] := found_row.entries;
            last_hashes[found_row.place] := found_row.last_hash;
        END LOOP;
        EXIT WHEN array_position(last_hashes, NULL) IS NULL;
        INSERT INTO ai_ledger_heads (tenant_id, entries, last_hash)
        SELECT t.tenant_id, 0, repeat('0', 64) FROM unnest(head_tenants) AS t (tenant_id) ORDER BY t.tenant_id
            ON CONFLICT DO NOTHING;
    END LOOP;
    FOR entry IN 1 .. cardinality(heads) LOOP
        head := heads[entry];
        prev_hashes[entry] := last_hashes[head];
        row_hashes[entry] := encode(sha256(bodies[entry] || convert_to('"' || last_hashes[head] || '"]', 'UTF8')), 'hex');
        last_hashes[head] := row_hashes[entry];
        lengths[head] := lengths[head] + 1;
    END LOOP;

    INSERT INTO ai_usage_log (
        request_id, attempt, tenant_id, user_id, feature_slug, service, key_id, model, provider, input_tokens,
        cached_input_tokens, cache_write_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens,
        total_tokens, cost_nano_usd, price_version, status, usage_source, finish_reason, latency_ms,
        billing_period, admitted_at, created_at, other_usage, prev_hash, row_hash)
    SELECT e.request_id, e.attempt, e.tenant_id, e.user_id, e.feature_slug, e.service, e.key_id, e.model,
           e.provider, e.input_tokens, e.cached_input_tokens, e.cache_write_tokens, e.cache_write_1h_tokens,
           e.output_tokens, e.reasoning_tokens, e.total_tokens, e.cost_nano_usd, e.price_version, e.status,
           e.usage_source, e.finish_reason, e.latency_ms, e.billing_period, e.admitted_at, e.created_at,
           e.other_usage, e.prev_hash, e.row_hash
      FROM unnest(request_ids, attempts, tenant_ids, user_ids, feature_slugs, services, key_ids, models, providers,
                  inputs, cached_inputs, cache_writes, cache_writes_1h, outputs, reasonings, totals, costs,
                  price_versions, statuses, usage_sources, finish_reasons, latencies_ms, periods, admitted_ats,
                  created_ats, other_usages, prev_hashes, row_hashes) WITH ORDINALITY
           AS e (request_id, attempt, tenant_id, user_id, feature_slug, service, key_id, model, provider,
                 input_tokens, cached_input_tokens, cache_write_tokens, cache_write_1h_tokens, output_tokens,
                 reasoning_tokens, total_tokens, cost_nano_usd, price_version, status, usage_source,
                 finish_reason, latency_ms, billing_period, admitted_at, created_at, other_usage, prev_hash, row_hash,
                 place)
     ORDER BY e.place;

    WITH counted AS (
        -- What an entry adds: as counts() of ledger/rollups.py.
        SELECT tenant_id, billing_period, user_id, feature_slug, service, key_id, model, provider,
               left(admitted_at, 10) AS day,
               (status = 'settled'
                OR status = 'adjustment' AND (total_tokens > 0 OR cost_nano_usd > 0 OR other_usage <> ''))::integer
                    AS calls,
               CASE WHEN status <> 'unknown' THEN input_tokens ELSE 0 END AS input_tokens,
               CASE WHEN status <> 'unknown' THEN cached_input_tokens ELSE 0 END AS cached_input_tokens,
               CASE WHEN status <> 'unknown' THEN cache_write_tokens + cache_write_1h_tokens ELSE 0 END
                    AS cache_write_tokens,
               CASE WHEN status <> 'unknown' THEN output_tokens ELSE 0 END AS output_tokens,
               CASE WHEN status <> 'unknown' THEN reasoning_tokens ELSE 0 END AS reasoning_tokens,
               CASE WHEN status <> 'unknown' THEN total_tokens ELSE 0 END AS total_tokens,
               CASE WHEN status <> 'unknown' THEN cost_nano_usd ELSE 0 END AS cost_nano_usd,
               CASE status WHEN 'unknown' THEN 1 WHEN 'adjustment' THEN -1 ELSE 0 END AS unknown_calls,
               CASE status WHEN 'unknown' THEN ceiling WHEN 'adjustment' THEN -ceiling ELSE 0 END AS unknown_nano_usd
          FROM unnest(tenant_ids, user_ids, feature_slugs, services, key_ids, models, providers, inputs,
                      cached_inputs, cache_writes, cache_writes_1h, outputs, reasonings, totals, costs, statuses,
                      periods, admitted_ats, other_usages, ceilings)
               AS e (tenant_id, user_id, feature_slug, service, key_id, model, provider, input_tokens,
                     cached_input_tokens, cache_write_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens,
                     total_tokens, cost_nano_usd, status, billing_period, admitted_at, other_usage, ceiling)
    ), monthly AS (
        INSERT INTO ai_usage_monthly AS m (
            tenant_id, billing_period, user_id, feature_slug, service, key_id, model, provider, calls, input_tokens,
            cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, total_tokens, cost_nano_usd,
            unknown_calls, unknown_nano_usd)
        SELECT tenant_id, billing_period, user_id, feature_slug, service, key_id, model, provider, sum(calls),
               sum(input_tokens), sum(cached_input_tokens), sum(cache_write_tokens), sum(output_tokens),
               sum(reasoning_tokens), sum(total_tokens), sum(cost_nano_usd), sum(unknown_calls), sum(unknown_nano_usd)
          FROM counted
         GROUP BY tenant_id, billing_period, user_id, feature_slug, service, key_id, model, provider
            ON CONFLICT (tenant_id, billing_period, user_id, feature_slug, service, key_id, model, provider)
            DO UPDATE SET
               calls = m.calls + excluded.calls,
               input_tokens = m.input_tokens + excluded.input_tokens,
               cached_input_tokens = m.cached_input_tokens + excluded.cached_input_tokens,
               cache_write_tokens = m.cache_write_tokens + excluded.cache_write_tokens,
               output_tokens = m.output_tokens + excluded.output_tokens,
               reasoning_tokens = m.reasoning_tokens + excluded.reasoning_tokens,
               total_tokens = m.total_tokens + excluded.total_tokens,
               cost_nano_usd = m.cost_nano_usd + excluded.cost_nano_usd,
               unknown_calls = m.unknown_calls + excluded.unknown_calls,
               unknown_nano_usd = m.unknown_nano_usd + excluded.unknown_nano_usd
    )
    INSERT INTO ai_usage_daily AS d (
        tenant_id, billing_period, day, calls, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
        reasoning_tokens, total_tokens, cost_nano_usd, unknown_calls, unknown_nano_usd)
    SELECT tenant_id, billing_period, day, sum(calls), sum(input_tokens), sum(cached_input_tokens),
           sum(cache_write_tokens), sum(output_tokens), sum(reasoning_tokens), sum(total_tokens), sum(cost_nano_usd),
           sum(unknown_calls), sum(unknown_nano_usd)
      FROM counted
     GROUP BY tenant_id, billing_period, day
        ON CONFLICT (tenant_id, billing_period, day) DO UPDATE SET
           calls = d.calls + excluded.calls,
           input_tokens = d.input_tokens + excluded.input_tokens,
           cached_input_tokens = d.cached_input_tokens + excluded.cached_input_tokens,
           cache_write_tokens = d.cache_write_tokens + excluded.cache_write_tokens,
           output_tokens = d.output_tokens + excluded.output_tokens,
           reasoning_tokens = d.reasoning_tokens + excluded.reasoning_tokens,
           total_tokens = d.total_tokens + excluded.total_tokens,
           cost_nano_usd = d.cost_nano_usd + excluded.cost_nano_usd,
           unknown_calls = d.unknown_calls + excluded.unknown_calls,
           unknown_nano_usd = d.unknown_nano_usd + excluded.unknown_nano_usd;

    UPDATE ai_ledger_heads h SET entries = t.entries, last_hash = t.last_hash
      FROM unnest(head_tenants, lengths, last_hashes) AS t (tenant_id, entries, last_hash)
     WHERE h.tenant_id = t.tenant_id;

    PERFORM ai_move(tenant_ids, periods, user_ids, feature_slugs, key_ids, costs, ceilings, statuses, thresholds,
                    created_ats[cardinality(created_ats)]);
    IF has_tokens THEN
        PERFORM ai_return_tokens(limited.tenant_ids, limited.user_ids, limited.feature_slugs, limited.key_ids,
                                 limited.unused);
    END IF;

    IF cardinality(array_remove(claim_ids, NULL)) > 0 THEN
        UPDATE ai_idempotency i SET sealed_answer = e.answer, is_lost = e.answer IS NULL AND e.status = 'unknown'
          FROM unnest(claim_ids, request_ids, answers, statuses) AS e (claim_id, request_id, answer, status)
         WHERE i.claim_id = e.claim_id AND i.request_id = e.request_id;
    END IF;
END $$;
