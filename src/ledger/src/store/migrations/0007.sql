-- Leases of credits, and shares of limits. A share's key may be unknown to the ledger, so it has no foreign key: a row that
-- can't be written would fail the whole transaction.
CREATE TABLE leases (
    id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    instance TEXT NOT NULL,
    envoy TEXT NOT NULL,
    granted INTEGER NOT NULL CHECK (granted > 0),
    spent INTEGER NOT NULL CHECK (spent >= 0 AND spent <= granted),
    revision INTEGER,
    state TEXT NOT NULL CHECK (state IN ('open', 'closed', 'lost')),
    opened_at INTEGER NOT NULL,
    renewed_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    recalled_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX leases_by_tenant ON leases (tenant_id, id);
CREATE INDEX leases_open ON leases (tenant_id) WHERE state = 'open';
CREATE INDEX leases_due ON leases (expires_at) WHERE state = 'open';
CREATE TABLE leases_given_up (
    id TEXT PRIMARY KEY,
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE shares (
    key_id TEXT NOT NULL,
    limit_id INTEGER NOT NULL,
    instance TEXT NOT NULL,
    permits INTEGER NOT NULL CHECK (permits >= 0),
    revision INTEGER NOT NULL,
    window_seconds INTEGER NOT NULL,
    renewed_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    called_at INTEGER,
    PRIMARY KEY (key_id, limit_id, instance)
) STRICT, WITHOUT ROWID;
CREATE INDEX shares_by_end ON shares (expires_at);
ALTER TABLE transfers ADD COLUMN lease_id TEXT;
