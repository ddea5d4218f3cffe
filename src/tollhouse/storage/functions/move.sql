-- Moves the money of ended attempts: their ceilings are freed, and their costs posted, in every budget that they count
-- against (budgets/model.py: budget_keys). A budget without a row has no cap, and keeps no count. What is unknown moves
-- nothing: its ceiling stays reserved.
--
-- thresholds: shares of a cap in percent, ascending, that are told of at a time (at) once they are spent; NULL for none.
CREATE OR REPLACE FUNCTION ai_move(
    tenant_ids text[], periods text[], user_ids text[], feature_slugs text[], key_ids text[], costs bigint[],
    ceilings bigint[], statuses text[], thresholds integer[], at text
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    passed ai_budgets[];
BEGIN
    -- The same rows in the same order as ai_admit.
    PERFORM 1
       FROM (SELECT e.tenant_id, e.billing_period, 'tenant' AS scope, '' AS scope_id
               FROM unnest(tenant_ids, periods) AS e (tenant_id, billing_period)
              UNION
             SELECT '', e.billing_period, 'key', e.key_id FROM unnest(periods, key_ids) AS e (billing_period, key_id)
            ) AS k
       JOIN ai_budgets b USING (tenant_id, billing_period, scope, scope_id)
      ORDER BY b.tenant_id, b.billing_period, b.scope, b.scope_id
        FOR NO KEY UPDATE OF b;
    WITH ended AS (
        SELECT e.tenant_id, e.billing_period, e.user_id, e.feature_slug, e.key_id,
               sum(e.cost) AS posted, sum(e.ceiling) AS freed
          FROM unnest(tenant_ids, periods, user_ids, feature_slugs, key_ids, costs, ceilings, statuses)
               AS e (tenant_id, billing_period, user_id, feature_slug, key_id, cost, ceiling, status)
         WHERE e.status <> 'unknown'
         GROUP BY e.tenant_id, e.billing_period, e.user_id, e.feature_slug, e.key_id
    ), moved AS (
        SELECT k.tenant_id, k.billing_period, k.scope, k.scope_id, sum(k.posted) AS posted, sum(k.freed) AS freed
          FROM (SELECT tenant_id, billing_period, 'tenant' AS scope, '' AS scope_id, posted, freed FROM ended
                 UNION ALL
                SELECT tenant_id, billing_period, 'feature', feature_slug, posted, freed FROM ended
                 UNION ALL
                SELECT '', billing_period, 'key', key_id, posted, freed FROM ended
                 UNION ALL
                SELECT tenant_id, billing_period, 'user', user_id, posted, freed FROM ended WHERE user_id <> ''
               ) AS k
         GROUP BY k.tenant_id, k.billing_period, k.scope, k.scope_id
    ), changed AS (
        UPDATE ai_budgets b
           SET posted_nano_usd = b.posted_nano_usd + moved.posted, reserved_nano_usd = b.reserved_nano_usd - moved.freed
          FROM moved
         WHERE b.tenant_id = moved.tenant_id AND b.billing_period = moved.billing_period AND b.scope = moved.scope
           AND b.scope_id = moved.scope_id
        RETURNING b.cap_nano_usd, b.posted_nano_usd, b.told_percent, b AS budget
    )
    -- As floats, a little early rather than late, since this is asked for each row: ai_tell_thresholds decides exactly.
    SELECT array_agg(c.budget)
             FILTER (WHERE c.posted_nano_usd > 0 AND c.told_percent < thresholds[width_bucket(
                         -- Of a cap of nothing all is spent: LEAST passes over NULL.
                         floor(LEAST(c.posted_nano_usd * 100.0000001::float8 / NULLIF(c.cap_nano_usd, 0), 100))::integer,
                         thresholds)])
      INTO passed FROM changed c;
    IF passed IS NOT NULL THEN
        PERFORM ai_tell_thresholds(passed, thresholds, at);
    END IF;
END $$;
