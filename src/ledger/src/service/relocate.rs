//! Moves a ledger from a SQLite file to an empty PostgreSQL database, in one transaction, and verifies the copy.
//!
//! Tables and columns are read from the source, so none can be forgotten. The source is locked, so that no ledger serves it
//! meanwhile, and is not changed.

use crate::service::backup::{self, BackupError, Trusted};
use crate::service::{self, lock_database};
use crate::store::database::Database;
use crate::store::sql::{self, Connection, Insert, Kind, Param, Purpose, Row};
use crate::store::{OpenError, check_encoding, connect, laws, schema};
use sha2::{Digest, Sha256};

/// Rows in one statement.
const ROWS: usize = 2000;

/// What was moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Each table and its number of rows.
    pub tables: Vec<(String, u64)>,
}

/// Why nothing was moved, or the copy must not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Only SQLite to PostgreSQL is supported.
    #[error("a ledger can only be moved from sqlite:PATH to postgres://...")]
    Direction,
    /// The target has a ledger already.
    #[error("{0} has a ledger already; name an empty database")]
    NotEmpty(Database),
    /// A ledger serves the source, or the lock failed.
    #[error("nothing was moved: {0}")]
    Served(#[source] Box<service::Error>),
    /// A database can't be opened.
    #[error("can't open {0}: {1}")]
    Open(Database, #[source] OpenError),
    /// The copy failed; the target is still empty.
    #[error("nothing was moved: {0}")]
    NothingMoved(#[source] Fault),
    /// The rows may have been copied, but the copy is not verified.
    #[error(
        "the rows were copied to {0}, but the copy is not verified: {1}; don't use it, drop that database and move \
         to a new one"
    )]
    Unverified(Database, #[source] Box<Fault>),
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A database failed.
    #[error("{0}")]
    Sql(#[from] sql::Error),
    /// The copy differs from its source in this table.
    #[error("the copy differs from its source in the table {0}")]
    Differs(String),
    /// The audit trail is invalid.
    #[error("the audit trail is faulty: {0}")]
    Chain(#[source] Box<BackupError>),
    /// Rows break the laws of money and audit.
    #[error("the rows break invariants: {}", .0.join("; "))]
    Unlawful(Vec<String>),
}

/// Copies and verifies, and reports each table to `progress`. Blocks. `trusted` are the keys that may have signed the audit
/// trail, see [`crate::service::signing_key::trusted`].
pub fn relocate(
    from: &Database,
    to: &Database,
    trusted: Trusted<'_>,
    mut progress: impl FnMut(&str),
) -> Result<Moved, Error> {
    let (Database::Sqlite(_), Database::Postgres(_)) = (from, to) else { return Err(Error::Direction) };
    // Rows written after the copy would be lost.
    let _lock = lock_database(from).map_err(|why| Error::Served(why.into()))?;
    let source = connect(from).map_err(|cause| Error::Open(from.clone(), cause))?;
    let target = Connection::open(to, Purpose::Write);
    let target = target.map_err(|cause| Error::Open(to.clone(), OpenError::Failed(cause)))?;
    check_encoding(&target).map_err(|cause| Error::Open(to.clone(), cause))?;
    let version = schema::version(&target).map_err(|cause| Error::NothingMoved(cause.into()))?;
    if version != schema::Version::Empty {
        return Err(Error::NotEmpty(to.clone()));
    }
    let mut is_copied = false;
    copy(&source, &target, trusted, &mut is_copied, &mut progress)
        .and_then(|tables| compare(&source, &target, trusted, tables, &mut progress))
        .map_err(|fault| {
            if is_copied { Error::Unverified(to.clone(), fault.into()) } else { Error::NothingMoved(fault) }
        })
}

/// Copies everything in one transaction. `is_copied` tells whether a failed call may have committed.
fn copy(
    source: &Connection,
    target: &Connection,
    trusted: Trusted<'_>,
    is_copied: &mut bool,
    progress: &mut impl FnMut(&str),
) -> Result<Vec<Table>, Fault> {
    source.write(|source| {
        // A damaged ledger must not be moved.
        progress("verifying the source");
        if let Err(fault) = verify(source, trusted)? {
            return Ok(Err(fault));
        }
        let tables = tables(source)?;
        // Tables and rows in one transaction.
        target.migrate(|target| {
            schema::run_all(target)?;
            for table in &tables {
                progress(&table.name);
                table.copy(source, target)?;
            }
            *is_copied = true;
            Ok(())
        })?;
        Ok(Ok(tables))
    })?
}

/// Compares the copy with the source, and verifies its invariants.
fn compare(
    source: &Connection,
    target: &Connection,
    trusted: Trusted<'_>,
    tables: Vec<Table>,
    progress: &mut impl FnMut(&str),
) -> Result<Moved, Fault> {
    let mut moved = Moved { tables: Vec::new() };
    for table in tables {
        progress(&format!("verifying {}", table.name));
        let (ours, theirs) = (table.digest(source)?, table.digest(target)?);
        if ours != theirs {
            return Err(Fault::Differs(table.name));
        }
        moved.tables.push((table.name, ours.0));
    }
    progress("verifying money and audit trail");
    target.long_snapshot(|target| verify(target, trusted))?.map(|()| moved)
}

/// Verifies the laws of money and audit, in a transaction.
fn verify(connection: &Connection, trusted: Trusted<'_>) -> sql::Result<Result<(), Fault>> {
    match backup::check_audit(connection, trusted) {
        Ok(()) => {}
        Err(BackupError::Open(OpenError::Failed(cause))) => return Err(cause),
        Err(fault) => return Ok(Err(Fault::Chain(fault.into()))),
    }
    let broken = laws::broken_in_transaction(connection)?;
    Ok(if broken.is_empty() { Ok(()) } else { Err(Fault::Unlawful(broken)) })
}

struct Table {
    name: String,
    columns: Vec<(String, Kind)>,
    /// The columns of its primary key.
    order: Vec<String>,
}

/// The tables in order of creation, so that referenced tables come first.
fn tables(source: &Connection) -> sql::Result<Vec<Table>> {
    let select =
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY rowid";
    let names: Vec<String> = source.all(select, &[], |row| row.get(0))?;
    let table = |name: String| {
        let (mut columns, mut order) = (Vec::new(), Vec::new());
        source.for_each(&format!("PRAGMA table_info({name})"), &[], |row| {
            let (column, kind): (String, String) = (row.get(1)?, row.get(2)?);
            let kind = match kind.as_str() {
                "INTEGER" => Kind::Integer,
                "BLOB" => Kind::Bytes,
                _ => Kind::Text,
            };
            if row.get::<bool>(5)? {
                order.push(column.clone());
            }
            columns.push((column, kind));
            Ok(())
        })?;
        Ok(Table { name, columns, order })
    };
    names.into_iter().map(table).collect()
}

/// An owned column value.
enum Value {
    Null,
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
}

impl Value {
    fn of(param: Param<'_>) -> Value {
        match param {
            Param::Null => Value::Null,
            Param::Integer(number) => Value::Integer(number),
            Param::Text(text) => Value::Text(text.into_owned()),
            Param::Bytes(bytes) => Value::Bytes(bytes.to_vec()),
        }
    }

    fn param(&self) -> Param<'_> {
        match self {
            Value::Null => Param::Null,
            Value::Integer(number) => Param::Integer(*number),
            Value::Text(text) => Param::text(text),
            Value::Bytes(bytes) => Param::Bytes(bytes),
        }
    }
}

impl Table {
    fn select(&self) -> String {
        let columns: Vec<&str> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
        let order = if self.order.is_empty() { columns.join(", ") } else { self.order.join(", ") };
        format!("SELECT {} FROM {} ORDER BY {order}", columns.join(", "), self.name)
    }

    fn copy(&self, source: &Connection, target: &Connection) -> sql::Result<()> {
        // The migrations inserted a new ledger's initial rows.
        target.execute(&format!("DELETE FROM {}", self.name), &[])?;
        let columns: Vec<(&str, Kind)> =
            self.columns.iter().map(|(name, kind)| (name.as_str(), *kind)).collect();
        let insert = Insert { table: &self.name, columns: &columns, conflict: "" };
        let put = |rows: &mut Vec<Vec<Value>>| {
            target.insert(&insert, rows.iter().map(|row| row.iter().map(Value::param)))?;
            rows.clear();
            Ok::<(), sql::Error>(())
        };
        let mut rows: Vec<Vec<Value>> = Vec::with_capacity(ROWS);
        source.for_each(&self.select(), &[], |row| {
            rows.push(
                (0..columns.len())
                    .map(|place| row.column(place).map(Value::of))
                    .collect::<sql::Result<_>>()?,
            );
            if rows.len() >= ROWS { put(&mut rows) } else { Ok(()) }
        })?;
        put(&mut rows)?;
        match self.columns.iter().find(|(name, _)| self.order.as_slice() == std::slice::from_ref(name)) {
            Some((column, Kind::Integer)) => target.continue_sequence(&self.name, column),
            _ => Ok(()),
        }
    }

    /// The number of rows, and the hash of all rows in order.
    fn digest(&self, connection: &Connection) -> sql::Result<(u64, [u8; 32])> {
        let (mut count, mut digest) = (0u64, Sha256::new());
        let mut add = |row: &Row<'_>| {
            count = count.saturating_add(1);
            for place in 0..self.columns.len() {
                // Kind and length come first, so that different rows have different bytes.
                let column = row.column(place)?;
                let number;
                let (kind, bytes): (u8, &[u8]) = match &column {
                    Param::Null => (0, &[]),
                    Param::Integer(value) => {
                        number = value.to_be_bytes();
                        (1, &number)
                    }
                    Param::Text(text) => (2, text.as_bytes()),
                    Param::Bytes(bytes) => (3, bytes),
                };
                digest.update([kind]);
                digest.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
                digest.update(bytes);
            }
            Ok(())
        };
        connection.long_snapshot(|snapshot| snapshot.scan(&self.name, &self.select(), &mut add))?;
        Ok((count, digest.finalize().into()))
    }
}
