-- Gives tokens that ended attempts have not used back to the buckets they were taken from (limits/model.py: limit_keys);
-- a negative number of them is owed. As Limiter.end of limits/sqlite.py does.
CREATE OR REPLACE FUNCTION ai_return_tokens(
    tenant_ids text[], user_ids text[], feature_slugs text[], key_ids text[], unused bigint[]
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    now_us bigint;
BEGIN
    -- The rows that ai_admit locks, in its order, and like there after those of the budgets.
    PERFORM 1
       FROM (SELECT e.tenant_id, 'tenant' AS scope, '' AS scope_id FROM unnest(tenant_ids) AS e (tenant_id)
              UNION
             SELECT e.tenant_id, 'feature', e.scope_id FROM unnest(tenant_ids, feature_slugs) AS e (tenant_id, scope_id)
              UNION
             SELECT '', 'key', e.scope_id FROM unnest(key_ids) AS e (scope_id)
              UNION
             SELECT e.tenant_id, 'user', e.scope_id FROM unnest(tenant_ids, user_ids) AS e (tenant_id, scope_id)
            ) AS k
       JOIN ai_rate_limits r USING (tenant_id, scope, scope_id)
      ORDER BY r.tenant_id, r.scope, r.scope_id
        FOR NO KEY UPDATE OF r;
    now_us := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    WITH ended AS (
        SELECT e.tenant_id, e.user_id, e.feature_slug, e.key_id, sum(e.tokens)::bigint AS tokens
          FROM unnest(tenant_ids, user_ids, feature_slugs, key_ids, unused)
               AS e (tenant_id, user_id, feature_slug, key_id, tokens)
         GROUP BY e.tenant_id, e.user_id, e.feature_slug, e.key_id
    ), given_back AS (
        SELECT k.tenant_id, k.scope, k.scope_id, sum(k.tokens)::bigint AS tokens
          FROM (SELECT tenant_id, 'tenant' AS scope, '' AS scope_id, tokens FROM ended
                 UNION ALL
                SELECT tenant_id, 'feature', feature_slug, tokens FROM ended
                 UNION ALL
                SELECT '', 'key', key_id, tokens FROM ended
                 UNION ALL
                SELECT tenant_id, 'user', user_id, tokens FROM ended WHERE user_id <> ''
               ) AS k
         GROUP BY k.tenant_id, k.scope, k.scope_id
    )
    UPDATE ai_rate_limits r
       SET requests_taken = ai_drained(r.requests_taken, r.requests_per_minute, now_us - r.at_us),
           tokens_taken = GREATEST(
               ai_drained(r.tokens_taken, r.tokens_per_minute, now_us - r.at_us) - g.tokens * 60000000, 0),
           at_us = now_us
      FROM given_back g
     WHERE r.tenant_id = g.tenant_id AND r.scope = g.scope AND r.scope_id = g.scope_id AND r.tokens_per_minute > 0;
END $$;
