-- Checks repeat the book's laws, in case a program other than this one writes.
-- Tables whose rows are found by a text or hash have no rowid: one B-tree instead of two.
CREATE TABLE feed (
    base INTEGER NOT NULL
) STRICT;
CREATE TABLE service_credentials (
    hash BLOB PRIMARY KEY CHECK (length(hash) = 32),
    id TEXT NOT NULL UNIQUE,
    door TEXT NOT NULL CHECK (door IN ('admin', 'filter')),
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE tenants (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    tier TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    suspended_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE accounts (
    tenant_id TEXT PRIMARY KEY REFERENCES tenants (id),
    granted INTEGER NOT NULL,
    available INTEGER NOT NULL CHECK (available >= 0),
    pending INTEGER NOT NULL CHECK (pending >= 0),
    posted INTEGER NOT NULL CHECK (posted >= 0),
    CHECK (granted = available + pending + posted)
) STRICT, WITHOUT ROWID;
CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    name TEXT NOT NULL,
    scopes TEXT NOT NULL,
    services TEXT,
    tools TEXT,
    resources TEXT,
    limits TEXT NOT NULL,
    expires_at INTEGER,
    agent_id TEXT,
    source TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER,
    last_used_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_by_tenant ON keys (tenant_id, id);
CREATE TABLE key_secrets (
    hash BLOB PRIMARY KEY CHECK (length(hash) = 32),
    key_id TEXT NOT NULL REFERENCES keys (id),
    created_at INTEGER NOT NULL,
    expires_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX key_secrets_by_key ON key_secrets (key_id);
CREATE TABLE reservations (
    id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    key_id TEXT NOT NULL REFERENCES keys (id),
    service TEXT NOT NULL,
    tool TEXT NOT NULL,
    credits INTEGER NOT NULL CHECK (credits > 0),
    ttl_seconds INTEGER NOT NULL,
    policy_version TEXT NOT NULL,
    reserved_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    available_after INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'posted', 'voided', 'expired')),
    asked INTEGER,
    charged INTEGER CHECK (charged <= asked AND asked <= credits)
) STRICT, WITHOUT ROWID;
CREATE INDEX reservations_due ON reservations (expires_at) WHERE state = 'pending';
CREATE TABLE transfers (
    sequence INTEGER PRIMARY KEY,
    id TEXT,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    reservation_id TEXT,
    kind TEXT NOT NULL,
    from_account TEXT NOT NULL,
    to_account TEXT NOT NULL,
    credits INTEGER NOT NULL CHECK (credits > 0),
    at INTEGER NOT NULL
) STRICT;
CREATE TABLE audit (
    sequence INTEGER PRIMARY KEY,
    recorded_at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    actor TEXT NOT NULL,
    tenant_id TEXT,
    outcome TEXT,
    event_id TEXT,
    detail TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX audit_by_event ON audit (event_id) WHERE event_id IS NOT NULL;
CREATE INDEX audit_by_tenant ON audit (tenant_id, sequence) WHERE tenant_id IS NOT NULL;
CREATE INDEX audit_by_outcome ON audit (outcome, sequence) WHERE outcome IS NOT NULL;
CREATE INDEX audit_by_kind ON audit (kind, sequence);
CREATE TABLE usage (
    hour INTEGER NOT NULL,
    tenant_id TEXT NOT NULL,
    key_id TEXT NOT NULL,
    tool TEXT NOT NULL,
    outcome TEXT NOT NULL,
    calls INTEGER NOT NULL,
    credits INTEGER NOT NULL,
    PRIMARY KEY (hour, tenant_id, key_id, tool, outcome)
) STRICT, WITHOUT ROWID;
CREATE TABLE changes (
    position INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    change TEXT NOT NULL
) STRICT;
CREATE TABLE policies (
    sequence INTEGER PRIMARY KEY,
    version TEXT NOT NULL,
    in_force_at INTEGER NOT NULL,
    document TEXT NOT NULL
) STRICT;
CREATE TABLE replays (
    actor TEXT NOT NULL,
    route TEXT NOT NULL,
    key TEXT NOT NULL,
    body BLOB NOT NULL,
    answer TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (actor, route, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX replays_by_age ON replays (created_at);
-- Positions of the change feed start at the time when the database was created. So a position of an older database that this
-- one replaced is less than all positions here, and a filter that has one reloads everything.
INSERT INTO feed (base) VALUES (CAST(unixepoch('subsec') * 1000 AS INTEGER));
