-- What the migrations make of an empty SQLite database, so that a new one needs none of them.
-- Written by scripts/write_new_database.py; a test holds it against the migrations.

CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL,
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

CREATE TABLE ai_audit_log (
	id INTEGER NOT NULL,
	created_at TEXT NOT NULL,
	actor TEXT NOT NULL,
	action TEXT NOT NULL,
	tenant_id TEXT NOT NULL,
	target TEXT NOT NULL,
	"before" TEXT,
	"after" TEXT, prev_hash TEXT DEFAULT '' NOT NULL, row_hash TEXT DEFAULT '' NOT NULL,
	PRIMARY KEY (id)
);

CREATE INDEX ai_audit_log_tenant ON ai_audit_log (tenant_id, id);

CREATE TABLE ai_budget_caps (
	tenant_id TEXT NOT NULL,
	scope TEXT NOT NULL,
	scope_id TEXT NOT NULL,
	cap_nano_usd BIGINT DEFAULT '0' NOT NULL,
	updated_at TEXT NOT NULL,
	PRIMARY KEY (tenant_id, scope, scope_id),
	CONSTRAINT ai_budget_caps_scope CHECK (scope IN ('user', 'feature', 'key'))
)
 WITHOUT ROWID;

CREATE TABLE ai_budgets (
	tenant_id TEXT NOT NULL,
	billing_period TEXT NOT NULL,
	scope TEXT NOT NULL,
	scope_id TEXT NOT NULL,
	cap_nano_usd BIGINT DEFAULT '0' NOT NULL,
	posted_nano_usd BIGINT DEFAULT '0' NOT NULL,
	reserved_nano_usd BIGINT DEFAULT '0' NOT NULL, told_percent INTEGER DEFAULT '0' NOT NULL,
	PRIMARY KEY (tenant_id, billing_period, scope, scope_id),
	CONSTRAINT ai_budgets_scope CHECK (scope IN ('tenant', 'user', 'feature', 'key')),
	CONSTRAINT ai_budgets_reserved CHECK (reserved_nano_usd >= 0)
)
 WITHOUT ROWID;

CREATE TABLE ai_idempotency (
	claim_id TEXT NOT NULL,
	body_digest TEXT NOT NULL,
	request_id TEXT NOT NULL,
	sealed_answer BLOB,
	is_lost BOOLEAN DEFAULT 0 NOT NULL,
	expires_at TEXT NOT NULL, epoch BIGINT DEFAULT '0' NOT NULL,
	PRIMARY KEY (claim_id)
)
 WITHOUT ROWID;

CREATE INDEX ai_idempotency_expiry ON ai_idempotency (expires_at);

CREATE TABLE ai_ledger_heads (
	tenant_id TEXT NOT NULL,
	entries BIGINT DEFAULT '0' NOT NULL,
	last_hash TEXT NOT NULL,
	PRIMARY KEY (tenant_id)
)
 WITHOUT ROWID;

CREATE TABLE ai_reservations (
	request_id TEXT NOT NULL,
	attempt INTEGER NOT NULL,
	tenant_id TEXT NOT NULL,
	user_id TEXT NOT NULL,
	feature_slug TEXT NOT NULL,
	service TEXT NOT NULL,
	key_id TEXT NOT NULL,
	model TEXT NOT NULL,
	provider TEXT NOT NULL,
	price_version TEXT NOT NULL,
	ceiling_nano_usd BIGINT DEFAULT '0' NOT NULL,
	billing_period TEXT NOT NULL,
	created_at TEXT NOT NULL,
	state TEXT NOT NULL, epoch BIGINT DEFAULT '0' NOT NULL, tokens BIGINT DEFAULT '0' NOT NULL,
	PRIMARY KEY (request_id, attempt),
	CONSTRAINT ai_reservations_state CHECK (state IN ('open', 'unknown'))
)
 WITHOUT ROWID;

CREATE TABLE ai_service_keys (
	key_id TEXT NOT NULL,
	service TEXT NOT NULL,
	role TEXT NOT NULL,
	tenants TEXT,
	feature_slug TEXT NOT NULL,
	digest TEXT NOT NULL,
	created_at TEXT NOT NULL,
	revoked_at TEXT, first_used_at TEXT,
	PRIMARY KEY (key_id),
	CONSTRAINT ai_service_keys_role CHECK (role IN ('service', 'reader', 'super-admin')),
	CONSTRAINT ai_service_keys_digest UNIQUE (digest)
)
 WITHOUT ROWID;

CREATE TABLE ai_settings (
	name TEXT NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY (name)
)
 WITHOUT ROWID;

CREATE TABLE ai_usage_daily (
	tenant_id TEXT NOT NULL,
	billing_period TEXT NOT NULL,
	day TEXT NOT NULL,
	calls BIGINT DEFAULT '0' NOT NULL,
	input_tokens BIGINT DEFAULT '0' NOT NULL,
	cached_input_tokens BIGINT DEFAULT '0' NOT NULL,
	cache_write_tokens BIGINT DEFAULT '0' NOT NULL,
	output_tokens BIGINT DEFAULT '0' NOT NULL,
	reasoning_tokens BIGINT DEFAULT '0' NOT NULL,
	total_tokens BIGINT DEFAULT '0' NOT NULL,
	cost_nano_usd BIGINT DEFAULT '0' NOT NULL,
	unknown_calls BIGINT DEFAULT '0' NOT NULL,
	unknown_nano_usd BIGINT DEFAULT '0' NOT NULL,
	PRIMARY KEY (tenant_id, billing_period, day)
)
 WITHOUT ROWID;

CREATE TABLE ai_usage_log (
	id INTEGER NOT NULL,
	request_id TEXT NOT NULL,
	attempt INTEGER NOT NULL,
	tenant_id TEXT NOT NULL,
	user_id TEXT NOT NULL,
	feature_slug TEXT NOT NULL,
	service TEXT NOT NULL,
	key_id TEXT NOT NULL,
	model TEXT NOT NULL,
	provider TEXT NOT NULL,
	input_tokens BIGINT DEFAULT '0' NOT NULL,
	cached_input_tokens BIGINT DEFAULT '0' NOT NULL,
	cache_write_tokens BIGINT DEFAULT '0' NOT NULL,
	cache_write_1h_tokens BIGINT DEFAULT '0' NOT NULL,
	output_tokens BIGINT DEFAULT '0' NOT NULL,
	reasoning_tokens BIGINT DEFAULT '0' NOT NULL,
	total_tokens BIGINT DEFAULT '0' NOT NULL,
	cost_nano_usd BIGINT DEFAULT '0' NOT NULL,
	price_version TEXT NOT NULL,
	status TEXT NOT NULL,
	usage_source TEXT NOT NULL,
	finish_reason TEXT NOT NULL,
	latency_ms INTEGER NOT NULL,
	billing_period TEXT NOT NULL,
	admitted_at TEXT NOT NULL,
	created_at TEXT NOT NULL,
	prev_hash TEXT NOT NULL,
	row_hash TEXT NOT NULL, other_usage TEXT DEFAULT '' NOT NULL,
	PRIMARY KEY (id),
	CONSTRAINT ai_usage_log_status CHECK (status = 'settled' OR status = 'unknown' OR status = 'adjustment'),
	CONSTRAINT ai_usage_log_attempt UNIQUE (request_id, attempt, status)
);

CREATE TABLE ai_usage_monthly (
	tenant_id TEXT NOT NULL,
	billing_period TEXT NOT NULL,
	user_id TEXT NOT NULL,
	feature_slug TEXT NOT NULL,
	service TEXT NOT NULL,
	key_id TEXT NOT NULL,
	model TEXT NOT NULL,
	provider TEXT NOT NULL,
	calls BIGINT DEFAULT '0' NOT NULL,
	input_tokens BIGINT DEFAULT '0' NOT NULL,
	cached_input_tokens BIGINT DEFAULT '0' NOT NULL,
	cache_write_tokens BIGINT DEFAULT '0' NOT NULL,
	output_tokens BIGINT DEFAULT '0' NOT NULL,
	reasoning_tokens BIGINT DEFAULT '0' NOT NULL,
	total_tokens BIGINT DEFAULT '0' NOT NULL,
	cost_nano_usd BIGINT DEFAULT '0' NOT NULL,
	unknown_calls BIGINT DEFAULT '0' NOT NULL,
	unknown_nano_usd BIGINT DEFAULT '0' NOT NULL,
	PRIMARY KEY (tenant_id, billing_period, user_id, feature_slug, service, key_id, model, provider)
)
 WITHOUT ROWID;

CREATE TABLE tenant_ai_features (
	tenant_id TEXT NOT NULL,
	feature_slug TEXT NOT NULL,
	is_enabled BOOLEAN NOT NULL,
	updated_at TEXT NOT NULL,
	PRIMARY KEY (tenant_id, feature_slug)
)
 WITHOUT ROWID;

CREATE TABLE tenant_ai_modules (
	tenant_id TEXT NOT NULL,
	name TEXT NOT NULL,
	tier TEXT NOT NULL,
	is_active BOOLEAN NOT NULL,
	expires_at TEXT,
	budget_nano_usd BIGINT DEFAULT '0' NOT NULL,
	has_own_budget BOOLEAN NOT NULL,
	created_at TEXT NOT NULL,
	updated_at TEXT NOT NULL,
	PRIMARY KEY (tenant_id)
)
 WITHOUT ROWID;

CREATE TRIGGER ai_usage_log_no_update BEFORE UPDATE ON ai_usage_log BEGIN SELECT RAISE(ABORT, 'ai_usage_log is append-only: write a further row'); END;

CREATE TRIGGER ai_usage_log_no_delete BEFORE DELETE ON ai_usage_log BEGIN SELECT RAISE(ABORT, 'ai_usage_log is append-only: write a further row'); END;

CREATE TRIGGER ai_usage_log_no_replace BEFORE INSERT ON ai_usage_log WHEN EXISTS (SELECT 1 FROM ai_usage_log WHERE id = NEW.id) BEGIN SELECT RAISE(ABORT, 'ai_usage_log is append-only: write a further row'); END;

CREATE TRIGGER ai_audit_log_no_update BEFORE UPDATE ON ai_audit_log BEGIN SELECT RAISE(ABORT, 'ai_audit_log is append-only: write a further row'); END;

CREATE TRIGGER ai_audit_log_no_delete BEFORE DELETE ON ai_audit_log BEGIN SELECT RAISE(ABORT, 'ai_audit_log is append-only: write a further row'); END;

CREATE TRIGGER ai_audit_log_no_replace BEFORE INSERT ON ai_audit_log WHEN EXISTS (SELECT 1 FROM ai_audit_log WHERE id = NEW.id) BEGIN SELECT RAISE(ABORT, 'ai_audit_log is append-only: write a further row'); END;

CREATE TRIGGER ai_usage_log_no_replaced_attempt BEFORE INSERT ON ai_usage_log WHEN EXISTS (SELECT 1 FROM ai_usage_log WHERE request_id = NEW.request_id AND attempt = NEW.attempt AND status = NEW.status) BEGIN SELECT RAISE(ABORT, 'ai_usage_log has a row of this attempt already'); END;

CREATE TABLE ai_audit_head (
	id INTEGER NOT NULL,
	entries BIGINT DEFAULT '0' NOT NULL,
	last_hash TEXT NOT NULL,
	PRIMARY KEY (id),
	CONSTRAINT ai_audit_head_one_row CHECK (id = 1)
)
 WITHOUT ROWID;

CREATE TABLE ai_limits (
	tenant_id TEXT NOT NULL,
	scope TEXT NOT NULL,
	scope_id TEXT NOT NULL,
	requests_per_minute BIGINT,
	burst BIGINT,
	tokens_per_minute BIGINT,
	concurrent_calls BIGINT,
	updated_at TEXT NOT NULL,
	PRIMARY KEY (tenant_id, scope, scope_id),
	CONSTRAINT ai_limits_scope CHECK (scope IN ('tenant', 'user', 'feature', 'key'))
)
 WITHOUT ROWID;

CREATE TABLE ai_guardrail_findings (
	id INTEGER NOT NULL,
	created_at TEXT NOT NULL,
	request_id TEXT NOT NULL,
	tenant_id TEXT NOT NULL,
	user_id TEXT NOT NULL,
	feature_slug TEXT NOT NULL,
	stage TEXT NOT NULL,
	guard TEXT NOT NULL,
	kind TEXT NOT NULL,
	action TEXT NOT NULL,
	found BIGINT DEFAULT '0' NOT NULL,
	PRIMARY KEY (id),
	CONSTRAINT ai_guardrail_findings_stage CHECK (stage IN ('input', 'output')),
	CONSTRAINT ai_guardrail_findings_action CHECK (action IN ('flag', 'redact', 'block'))
);

CREATE INDEX ai_guardrail_findings_call ON ai_guardrail_findings (request_id);

CREATE INDEX ai_guardrail_findings_tenant ON ai_guardrail_findings (tenant_id, id);

CREATE TABLE ai_events (
	id INTEGER NOT NULL,
	position BIGINT,
	event_id TEXT NOT NULL,
	type TEXT NOT NULL,
	tenant_id TEXT NOT NULL,
	user_id TEXT NOT NULL,
	subject TEXT NOT NULL,
	data TEXT NOT NULL,
	created_at TEXT NOT NULL,
	webhook_url TEXT NOT NULL,
	PRIMARY KEY (id)
);

CREATE UNIQUE INDEX ai_events_position ON ai_events (position);

CREATE INDEX ai_events_tenant ON ai_events (tenant_id, position);

CREATE INDEX ai_events_unplaced ON ai_events (id) WHERE position IS NULL;

CREATE TABLE ai_event_head (
	id INTEGER NOT NULL,
	last_position BIGINT DEFAULT '0' NOT NULL,
	gone_position BIGINT DEFAULT '0' NOT NULL,
	PRIMARY KEY (id),
	CONSTRAINT ai_event_head_one_row CHECK (id = 1)
)
 WITHOUT ROWID;

CREATE TABLE ai_event_cursors (
	name TEXT NOT NULL,
	position BIGINT DEFAULT '0' NOT NULL,
	PRIMARY KEY (name)
)
 WITHOUT ROWID;

CREATE TABLE ai_webhook_endpoints (
	endpoint_id TEXT NOT NULL,
	tenant_id TEXT NOT NULL,
	url TEXT NOT NULL,
	types TEXT,
	sealed_secret BLOB NOT NULL,
	sealed_previous BLOB,
	previous_until TEXT,
	is_enabled BOOLEAN NOT NULL,
	off_reason TEXT NOT NULL,
	failures BIGINT DEFAULT '0' NOT NULL,
	from_position BIGINT DEFAULT '0' NOT NULL,
	created_at TEXT NOT NULL,
	updated_at TEXT NOT NULL,
	PRIMARY KEY (endpoint_id)
)
 WITHOUT ROWID;

CREATE TABLE ai_webhook_deliveries (
	delivery_id TEXT NOT NULL,
	endpoint_id TEXT NOT NULL,
	url TEXT NOT NULL,
	event_id TEXT NOT NULL,
	event_type TEXT NOT NULL,
	tenant_id TEXT NOT NULL,
	payload TEXT NOT NULL,
	state TEXT NOT NULL,
	attempts BIGINT DEFAULT '0' NOT NULL,
	next_at TEXT NOT NULL,
	owner TEXT NOT NULL,
	last_status INTEGER,
	last_problem TEXT NOT NULL,
	created_at TEXT NOT NULL,
	ended_at TEXT,
	PRIMARY KEY (delivery_id),
	CONSTRAINT ai_webhook_deliveries_state CHECK (state IN ('waiting', 'delivered', 'dead'))
);

CREATE INDEX ai_webhook_deliveries_due ON ai_webhook_deliveries (next_at) WHERE state = 'waiting';

CREATE INDEX ai_webhook_deliveries_of_endpoint ON ai_webhook_deliveries (endpoint_id, state, next_at);

CREATE INDEX ai_webhook_deliveries_ended ON ai_webhook_deliveries (ended_at);

CREATE TABLE ai_jobs (
	job_id TEXT NOT NULL,
	parent_id TEXT NOT NULL,
	position BIGINT DEFAULT '0' NOT NULL,
	queue TEXT NOT NULL,
	tenant_id TEXT NOT NULL,
	user_id TEXT NOT NULL,
	feature_slug TEXT NOT NULL,
	model TEXT NOT NULL,
	service TEXT NOT NULL,
	key_id TEXT NOT NULL,
	template TEXT NOT NULL,
	output TEXT NOT NULL,
	rank BIGINT DEFAULT '0' NOT NULL,
	state TEXT NOT NULL,
	attempts BIGINT DEFAULT '0' NOT NULL,
	crashes BIGINT DEFAULT '0' NOT NULL,
	delays BIGINT DEFAULT '0' NOT NULL,
	generation BIGINT DEFAULT '0' NOT NULL,
	run BIGINT DEFAULT '0' NOT NULL,
	worker TEXT NOT NULL,
	due_ms BIGINT,
	parts BIGINT DEFAULT '0' NOT NULL,
	parts_complete BIGINT DEFAULT '0' NOT NULL,
	parts_failed BIGINT DEFAULT '0' NOT NULL,
	error_code TEXT NOT NULL,
	error_message TEXT NOT NULL,
	sealed_request BLOB,
	sealed_result BLOB,
	webhook_url TEXT NOT NULL,
	claim_id TEXT,
	body_digest TEXT NOT NULL,
	created_at TEXT NOT NULL,
	started_at TEXT,
	finished_at TEXT,
	expires_at TEXT, interruptions BIGINT DEFAULT '0' NOT NULL,
	PRIMARY KEY (job_id),
	CONSTRAINT ai_jobs_state CHECK (state IN ('queued', 'processing', 'complete', 'failed', 'cancelled')),
	CONSTRAINT ai_jobs_claim UNIQUE (claim_id)
);

CREATE INDEX ai_jobs_due ON ai_jobs (tenant_id, rank, due_ms, job_id) WHERE state = 'queued' AND due_ms IS NOT NULL;

CREATE INDEX ai_jobs_parts ON ai_jobs (parent_id, position) WHERE parent_id <> '';

CREATE INDEX ai_jobs_ends ON ai_jobs (state, job_id) WHERE parent_id = '';

CREATE INDEX ai_jobs_expiry ON ai_jobs (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE ai_job_turns (
	tenant_id TEXT NOT NULL,
	turn BIGINT DEFAULT '0' NOT NULL,
	next_due_ms BIGINT, open_jobs BIGINT DEFAULT '0' NOT NULL, counted_ms BIGINT DEFAULT '0' NOT NULL,
	PRIMARY KEY (tenant_id)
)
 WITHOUT ROWID;

CREATE INDEX ai_job_turns_waiting ON ai_job_turns (turn, tenant_id) WHERE next_due_ms IS NOT NULL;

CREATE TABLE ai_job_schedules (
	schedule_id TEXT NOT NULL,
	name TEXT NOT NULL,
	tenant_id TEXT NOT NULL,
	user_id TEXT NOT NULL,
	service TEXT NOT NULL,
	key_id TEXT NOT NULL,
	cron TEXT NOT NULL,
	timezone TEXT NOT NULL,
	sealed_request BLOB NOT NULL,
	next_ms BIGINT NOT NULL,
	last_job_id TEXT NOT NULL,
	created_at TEXT NOT NULL,
	PRIMARY KEY (schedule_id)
)
 WITHOUT ROWID;

CREATE INDEX ai_job_schedules_next ON ai_job_schedules (next_ms);

CREATE INDEX ai_job_schedules_tenant ON ai_job_schedules (tenant_id, schedule_id);

CREATE TABLE ai_job_workers (
	worker TEXT NOT NULL,
	lease_ms BIGINT NOT NULL,
	started_at TEXT NOT NULL,
	PRIMARY KEY (worker)
)
 WITHOUT ROWID;

CREATE TABLE ai_job_totals (
	queue TEXT NOT NULL,
	outcome TEXT NOT NULL,
	total BIGINT DEFAULT '0' NOT NULL,
	PRIMARY KEY (queue, outcome)
)
 WITHOUT ROWID;

CREATE INDEX ai_jobs_held ON ai_jobs (worker) WHERE state = 'processing' AND worker <> '';

CREATE INDEX ai_jobs_waiting ON ai_jobs (queue, due_ms) WHERE state = 'queued';

CREATE INDEX ai_job_turns_last ON ai_job_turns (turn);

INSERT INTO alembic_version VALUES ('0011')
