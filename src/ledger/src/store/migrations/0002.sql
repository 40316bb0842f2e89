-- Roles, budgets, agents, the audit trail's chain, and usage by agent and latency.
ALTER TABLE service_credentials ADD COLUMN name TEXT NOT NULL DEFAULT 'first';
ALTER TABLE service_credentials ADD COLUMN role TEXT NOT NULL DEFAULT 'owner'
    CHECK (role IN ('owner', 'operator', 'auditor'));
ALTER TABLE service_credentials ADD COLUMN tenant_id TEXT;
ALTER TABLE service_credentials ADD COLUMN revoked_at INTEGER;
ALTER TABLE tenants ADD COLUMN budget INTEGER;
ALTER TABLE tenants ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE keys ADD COLUMN budget INTEGER;
ALTER TABLE keys ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
CREATE INDEX keys_by_agent ON keys (agent_id, id) WHERE agent_id IS NOT NULL;
CREATE TABLE agents (
    id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX agents_by_tenant ON agents (tenant_id, id);
CREATE TABLE spending (
    tenant_id TEXT NOT NULL,
    key_id TEXT NOT NULL,
    month INTEGER NOT NULL,
    credits INTEGER NOT NULL CHECK (credits >= 0),
    PRIMARY KEY (tenant_id, key_id, month)
) STRICT, WITHOUT ROWID;
CREATE TABLE audit_batches (
    number INTEGER PRIMARY KEY,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL CHECK (last >= first),
    sealed_at INTEGER NOT NULL,
    previous BLOB NOT NULL,
    root BLOB NOT NULL,
    hash BLOB NOT NULL,
    public_key TEXT NOT NULL,
    signature TEXT NOT NULL,
    leaves TEXT
) STRICT;
CREATE INDEX audit_batches_by_time ON audit_batches (sealed_at);
CREATE TABLE audit_keys (
    public_key TEXT PRIMARY KEY,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE audit_state (
    removed INTEGER NOT NULL,
    decisions_dropped INTEGER NOT NULL
) STRICT;
INSERT INTO audit_state (removed, decisions_dropped) VALUES (0, 0);
CREATE TABLE usage_by_latency (
    hour INTEGER NOT NULL,
    tenant_id TEXT NOT NULL,
    key_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    tool TEXT NOT NULL,
    outcome TEXT NOT NULL,
    would_deny TEXT NOT NULL,
    bucket INTEGER NOT NULL,
    calls INTEGER NOT NULL,
    credits INTEGER NOT NULL,
    PRIMARY KEY (hour, tenant_id, key_id, agent_id, tool, outcome, would_deny, bucket)
) STRICT, WITHOUT ROWID;
INSERT INTO usage_by_latency SELECT hour, tenant_id, key_id, '', tool, outcome, '', 2147483647, calls, credits FROM usage;
DROP TABLE usage;
ALTER TABLE usage_by_latency RENAME TO usage;
