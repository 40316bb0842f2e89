-- A credential of a filter has a row for each of its secrets; earlier ones expire.
CREATE TABLE service_secrets (
    hash BLOB PRIMARY KEY CHECK (length(hash) = 32),
    id TEXT NOT NULL,
    door TEXT NOT NULL CHECK (door IN ('admin', 'filter')),
    name TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('owner', 'operator', 'auditor')),
    tenant_id TEXT,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER,
    secret_expires_at INTEGER
) STRICT, WITHOUT ROWID;
INSERT INTO service_secrets SELECT hash, id, door, name, role, tenant_id, created_at, revoked_at, NULL
    FROM service_credentials;
DROP TABLE service_credentials;
ALTER TABLE service_secrets RENAME TO service_credentials;
CREATE UNIQUE INDEX service_credentials_by_id ON service_credentials (id) WHERE secret_expires_at IS NULL;
