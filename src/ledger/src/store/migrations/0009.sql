-- An expired reservation has a charge; one that an earlier release voided at expiry has none. The charge may exceed the cost
-- if a refund that named no reservation left less to return. Also ids of reservations that were voided before they were
-- created.
CREATE TABLE reservations_with_unaccounted (
    id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    key_id TEXT NOT NULL REFERENCES keys (id),
    service TEXT NOT NULL,
    tool TEXT NOT NULL,
    credits INTEGER NOT NULL CHECK (credits > 0),
    overrun INTEGER NOT NULL CHECK (overrun >= 0),
    ttl_seconds INTEGER NOT NULL,
    policy_version TEXT NOT NULL,
    reserved_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    available_after INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'posted', 'voided', 'expired')),
    asked INTEGER CHECK (asked <= credits + overrun),
    charged INTEGER CHECK (charged >= 0 AND charged <= credits + overrun)
) STRICT, WITHOUT ROWID;
INSERT INTO reservations_with_unaccounted SELECT id, tenant_id, key_id, service, tool, credits, overrun, ttl_seconds,
    policy_version, reserved_at, expires_at, available_after, state, asked, charged FROM reservations;
DROP TABLE reservations;
ALTER TABLE reservations_with_unaccounted RENAME TO reservations;
CREATE INDEX reservations_due ON reservations (expires_at) WHERE state = 'pending';
CREATE INDEX reservations_expired ON reservations (id) WHERE state = 'expired';
CREATE TABLE reservations_given_up (
    id TEXT PRIMARY KEY,
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
