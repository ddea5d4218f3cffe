-- Tells of the shares of caps that were passed, in the transaction that settles what has passed them: the events, and the
-- note that they were told (budgets/thresholds.py). They get their places once this is committed, by whoever reads them.
--
-- Arguments: the budgets as they are after the change, and the shares in percent, ascending.
CREATE OR REPLACE FUNCTION ai_tell_thresholds(passed ai_budgets[], thresholds integer[], at text) RETURNS void
LANGUAGE sql AS $$
    WITH told AS (
        SELECT b.*, t.percent
          FROM unnest(passed) AS b
          JOIN unnest(thresholds) AS t (percent)
            ON t.percent > b.told_percent AND b.posted_nano_usd * 100::numeric >= b.cap_nano_usd::numeric * t.percent
    ), noted AS (
        UPDATE ai_budgets b SET told_percent = m.percent
          FROM (SELECT tenant_id, billing_period, scope, scope_id, max(percent) AS percent
                  FROM told GROUP BY tenant_id, billing_period, scope, scope_id) AS m
         WHERE b.tenant_id = m.tenant_id AND b.billing_period = m.billing_period AND b.scope = m.scope
           AND b.scope_id = m.scope_id
    )
    INSERT INTO ai_events (event_id, type, tenant_id, user_id, subject, data, created_at, webhook_url)
    SELECT 'evt_' || lpad(to_hex((extract(epoch FROM at::timestamptz) * 1000)::bigint), 12, '0')
               || right(replace(gen_random_uuid()::text, '-', ''), 16),
           'ai.budget.threshold', tenant_id, CASE scope WHEN 'user' THEN scope_id ELSE '' END,
           scope || ':' || CASE scope_id WHEN '' THEN tenant_id ELSE scope_id END,
           json_build_object(
               'billing_period', billing_period,
               'scope', scope,
               'scope_id', NULLIF(scope_id, ''),
               'threshold_percent', percent,
               'pct_used', CASE cap_nano_usd WHEN 0 THEN 100.0
                           ELSE round(posted_nano_usd * 100::numeric / cap_nano_usd, 1) END,
               'budget_usd', trim_scale(cap_nano_usd * 0.000000001),
               'spent_usd', trim_scale(posted_nano_usd * 0.000000001))::text,
           at, ''
      FROM told
     ORDER BY tenant_id, billing_period, scope, scope_id, percent
$$;
