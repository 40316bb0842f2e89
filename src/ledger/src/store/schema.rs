//! The tables, and how an older database becomes a newer one. A number in the database counts the migrations that ran.
//!
//! The tables are written once, in SQLite's words; [`for_postgres`] says how PostgreSQL spells the same. So no table of
//! one can be forgotten in the other.

use super::sql::{Connection, Result};

/// In order; a released one is never edited.
pub(super) const MIGRATIONS: [&str; 12] = [
    FIRST,
    SECOND,
    USAGE_TOKENS,
    OVERRUNS,
    SECRETS,
    ISSUED_KEYS,
    LEASES,
    SESSION_SECRETS,
    UNACCOUNTED,
    CONCURRENCY,
    RETENTION,
    USAGE_BY_TENANT,
];

// Checks repeat the book's laws: the last line of defence if a program other than this one writes.
// Tables whose rows are found by a text or hash have no rowid: one B-tree instead of two.
const FIRST: &str = "
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
-- Positions of the change feed start at the time of the database's making, so that a position of another database,
-- which this one replaced, is older than all that this one has, and whoever holds it is told to start over.
INSERT INTO feed (base) VALUES (CAST(unixepoch('subsec') * 1000 AS INTEGER));
";

// Roles, budgets, agents, the audit trail's chain, and usage by agent and latency.
const SECOND: &str = "
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
";

// LLM tokens in the sums of usage.
const USAGE_TOKENS: &str = "
ALTER TABLE usage ADD COLUMN input_usage_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN output_usage_tokens INTEGER NOT NULL DEFAULT 0;
";

// What may be charged beyond a reservation. SQLite has no other way to change a table's check.
const OVERRUNS: &str = "
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
";

// A credential of a filter with several secrets, each a row: earlier ones end.
const SECRETS: &str = "
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
";

// Keys that keys asked for: which key, and by which of its secrets.
const ISSUED_KEYS: &str = "
ALTER TABLE keys ADD COLUMN parent_id TEXT;
ALTER TABLE keys ADD COLUMN parent_hash BLOB;
CREATE INDEX keys_by_parent ON keys (parent_id, expires_at) WHERE parent_id IS NOT NULL;
";

// Leases of credits, and shares of limits. Who asks for a share need not be a key that the ledger knows, so it refers
// to none: a row that can't be written would take all others of its transaction with it.
const LEASES: &str = "
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
";

// What binds session ids. Beside the audit trail's signing key it is the one secret that is kept as it is.
const SESSION_SECRETS: &str = "
CREATE TABLE session_secrets (
    number INTEGER PRIMARY KEY,
    secret BLOB NOT NULL CHECK (length(secret) = 32),
    signs_from INTEGER NOT NULL
) STRICT;
";

// A reservation that expired has its charge beside it, and none where it was given back: earlier releases did that, and
// their rows stay what they are. What is charged may be more than was asked, where a refund that named nothing left less to
// undo. Then reservations that were voided before they were made, as leases above.
const UNACCOUNTED: &str = "
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
";

/// How far a database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// It has no table of ours.
    Empty,
    /// It is this program's, or was made so by [`migrate`].
    Current,
    /// It needs [`migrate`].
    Older,
    /// A newer program wrote it.
    Newer,
}

/// Looks without changing anything.
pub fn version(connection: &Connection) -> Result<Version> {
    let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    Ok(match count(connection)? {
        0 => Version::Empty,
        found if found == known => Version::Current,
        found if found < known => Version::Older,
        _ => Version::Newer,
    })
}

// What a key may have under way.
const CONCURRENCY: &str = "ALTER TABLE keys ADD COLUMN concurrency TEXT;";

// How far the ledger's clock had come, and before which day rows of the audit trail were removed last.
const RETENTION: &str = "
ALTER TABLE audit_state ADD COLUMN clock INTEGER;
ALTER TABLE audit_state ADD COLUMN removed_before INTEGER;
";

// A tenant's report reads the tenant's rows.
const USAGE_BY_TENANT: &str = "CREATE INDEX usage_by_tenant ON usage (tenant_id, hour);";

/// Runs what has not run yet, all of it or nothing. Of several processes one does it, the others find it done.
pub fn migrate(connection: &Connection) -> Result<()> {
    migrate_to(connection, MIGRATIONS.len())
}

/// Runs the first so many.
pub(super) fn migrate_to(connection: &Connection, version: usize) -> Result<()> {
    connection.migrate(|connection| run(connection, version))
}

/// Runs all of them in a transaction that [`Connection::migrate`] began.
pub fn run_all(connection: &Connection) -> Result<()> {
    run(connection, MIGRATIONS.len())
}

fn run(connection: &Connection, version: usize) -> Result<()> {
    let done = count(connection)?;
    for (number, migration) in (1u32..).zip(MIGRATIONS).take(version) {
        if number <= done {
            continue;
        }
        if connection.is_shared() {
            connection.batch(&for_postgres(migration))?;
            connection.batch(&format!("UPDATE agentrelay_schema SET version = {number}"))?;
        } else {
            connection.batch(migration)?;
            connection.batch(&format!("PRAGMA user_version = {number}"))?;
        }
    }
    Ok(())
}

/// How many migrations have run.
fn count(connection: &Connection) -> Result<u32> {
    if !connection.is_shared() {
        return Ok(connection.first("PRAGMA user_version", &[], |row| row.get(0))?.unwrap_or_default());
    }
    let there = "SELECT to_regclass('agentrelay_schema') IS NOT NULL";
    if !connection.first(there, &[], |row| row.get(0))?.unwrap_or(false) {
        return Ok(0);
    }
    let version = connection.first("SELECT version FROM agentrelay_schema", &[], |row| row.get(0))?;
    Ok(version.unwrap_or_default())
}

/// What SQLite's words are in PostgreSQL, longer ones first. Text is compared byte by byte in both.
const SPELLINGS: [(&str, &str); 7] = [
    (
        "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
        "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
    ),
    ("sequence INTEGER PRIMARY KEY", "sequence BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY"),
    (" INTEGER", " BIGINT"),
    (" TEXT", " TEXT COLLATE \"C\""),
    (" BLOB", " BYTEA"),
    (" STRICT, WITHOUT ROWID;", ";"),
    (" STRICT;", ";"),
];

/// A migration as PostgreSQL spells it.
fn for_postgres(migration: &str) -> String {
    SPELLINGS.iter().fold(migration.to_owned(), |sql, (ours, theirs)| sql.replace(ours, theirs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_of_one_database_reaches_the_other() {
        for migration in MIGRATIONS {
            let sql = for_postgres(migration);
            for word in ["INTEGER", "BLOB", "STRICT", "ROWID", "unixepoch"] {
                assert!(!sql.contains(word), "{word} in {sql}");
            }
        }
    }
}
