-- What may be charged beyond a reservation. SQLite has no other way to change a table's check.
CREATE TABLE reservations_with_overrun (
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
    asked INTEGER,
    charged INTEGER CHECK (charged <= asked AND asked <= credits + overrun)
) STRICT, WITHOUT ROWID;
INSERT INTO reservations_with_overrun SELECT id, tenant_id, key_id, service, tool, credits, 0, ttl_seconds,
    policy_version, reserved_at, expires_at, available_after, state, asked, charged FROM reservations;
DROP TABLE reservations;
ALTER TABLE reservations_with_overrun RENAME TO reservations;
CREATE INDEX reservations_due ON reservations (expires_at) WHERE state = 'pending';
