//! The server: every statement prepared once, many rows by one statement (`unnest`), because each costs a round trip.

use super::{Broken, Error, Insert, Kind, Param, Purpose, Result, Row, tls};
use crate::database::{Protection, Server};
use postgres::fallible_iterator::FallibleIterator;
use postgres::types::private::BytesMut;
use postgres::types::{IsNull, ToSql, Type};
use postgres::{Client, NoTls, Statement};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the network may take to deliver what was sent, before the connection counts as lost.
const NETWORK_TIMEOUT: Duration = Duration::from_secs(10);
/// Prepared statements of one connection; beyond that it starts over.
const STATEMENTS_KEPT: usize = 256;
/// Rows of a long answer that are held at once.
const SCANNED_AT_ONCE: u32 = 2000;
/// On which channel ledgers tell each other that the change feed moved.
const CHANNEL: &str = "agentrelay_changes";

/// No statement and no forgotten transaction keeps the others waiting for long, but for [`UNHURRIED`] ones. A server that is set not to wait for
/// its disk is told to wait: an answer is a promise.
const SETTINGS: &str = "
SET statement_timeout = '10s';
SET lock_timeout = '5s';
SET idle_in_transaction_session_timeout = '10s';
SET client_min_messages = 'warning';
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
";

/// For the rest of a transaction whose statements go through whole tables, as long as those are.
pub(super) const UNHURRIED: &str = "SET LOCAL statement_timeout = 0";

/// The lock is of the database, not of a table, for at first there is none. Who waits for it waits until another's
/// migration is through; no migration waits for long for a table that is in use.
pub(super) const BEGIN_MIGRATION: &str = "
BEGIN;
SET LOCAL statement_timeout = 0;
SET LOCAL lock_timeout = 0;
SELECT pg_advisory_xact_lock(hashtext('agentrelay migration'));
SET LOCAL lock_timeout = '5s';
CREATE TABLE IF NOT EXISTS agentrelay_schema (version BIGINT NOT NULL);
INSERT INTO agentrelay_schema (version) SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM agentrelay_schema);
";

/// One connection with its prepared statements.
pub(super) struct Session {
    /// Taken only when the session ends.
    client: RefCell<Option<Client>>,
    statements: RefCell<HashMap<String, Statement>>,
}

impl Drop for Session {
    /// The client owns a small runtime, which must not end inside of another one.
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            let _ = std::thread::Builder::new().spawn(move || drop(client));
        }
    }
}

impl Session {
    pub(super) fn open(server: &Server, purpose: Purpose) -> Result<Session> {
        let mut config = server.config().clone();
        config
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(NETWORK_TIMEOUT)
            .keepalives_idle(NETWORK_TIMEOUT)
            .application_name("agentrelay");
        let mut client = match server.tls().protection {
            Protection::Disable => config.connect(NoTls)?,
            _ => config.connect(tls::connector(server.tls())?)?,
        };
        client.batch_execute(SETTINGS)?;
        client.batch_execute(match purpose {
            Purpose::Read => "SET default_transaction_read_only = on",
            // A writer finds rows by their keys alone. The plans that it keeps are made while the tables are small, when
            // reading all of one seems cheap.
            Purpose::Write => "SET enable_seqscan = off",
        })?;
        Ok(Session { client: RefCell::new(Some(client)), statements: RefCell::default() })
    }

    pub(super) fn is_open(&self) -> bool {
        self.client.borrow().as_ref().is_some_and(|client| !client.is_closed())
    }

    pub(super) fn batch(&self, sql: &str) -> Result<()> {
        self.with(|client| client.batch_execute(sql))
    }

    pub(super) fn execute(&self, sql: &str, params: &[Param<'_>]) -> Result<u64> {
        let statement = self.prepared(sql)?;
        let params: Vec<_> = params.iter().map(|param| param as &(dyn ToSql + Sync)).collect();
        self.with(|client| client.execute(&statement, &params))
    }

    pub(super) fn visit(
        &self,
        sql: &str,
        params: &[Param<'_>],
        visit: &mut dyn FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()> {
        let params: Vec<_> = params.iter().map(|param| param as &(dyn ToSql + Sync)).collect();
        self.found(sql, &params, visit)
    }

    pub(super) fn scan(
        &self,
        name: &str,
        select: &str,
        visit: &mut dyn FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()> {
        self.batch(&format!("DECLARE scan_{name} NO SCROLL CURSOR FOR {select}"))?;
        loop {
            let mut rows = 0u32;
            self.found(&format!("FETCH {SCANNED_AT_ONCE} FROM scan_{name}"), &[], &mut |row| {
                rows = rows.saturating_add(1);
                visit(row)
            })?;
            if rows < SCANNED_AT_ONCE {
                return Ok(());
            }
        }
    }

    pub(super) fn count_on(&self, table: &str, column: &str) -> Result<()> {
        self.batch(&format!(
            "SELECT setval(sequence, greatest((SELECT max({column}) FROM {table}), 1)) \
             FROM pg_get_serial_sequence('{table}', '{column}') AS sequence WHERE sequence IS NOT NULL"
        ))
    }

    pub(super) fn each<'t>(
        &self,
        select: &str,
        texts: impl Iterator<Item = &'t str>,
        visit: &mut dyn FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()> {
        let texts: Vec<Cow<'t, str>> = texts.map(storable).collect();
        if texts.is_empty() {
            return Ok(());
        }
        self.found(&format!("{select} = ANY (?1)"), &[&texts], visit)
    }

    pub(super) fn insert<'p, R: IntoIterator<Item = Param<'p>>>(
        &self,
        insert: &Insert<'_>,
        rows: impl Iterator<Item = R>,
    ) -> Result<()> {
        let mut columns: Vec<Array<'p>> = insert.columns.iter().map(|(_, kind)| Array::new(*kind)).collect();
        for row in rows {
            for (column, value) in columns.iter_mut().zip(row) {
                column.push(value)?;
            }
        }
        let names: Vec<&str> = insert.columns.iter().map(|(name, _)| *name).collect();
        let places: Vec<String> = (1..=names.len())
            .zip(insert.columns)
            .map(|(place, (_, kind))| match kind {
                Kind::Integer => format!("${place}::bigint[]"),
                Kind::Text => format!("${place}::text[]"),
                Kind::Bytes => format!("${place}::bytea[]"),
            })
            .collect();
        let (names, places) = (names.join(", "), places.join(", "));
        let Insert { table, conflict, .. } = insert;
        let sql = format!("INSERT INTO {table} ({names}) SELECT * FROM unnest({places}) {conflict}");
        let statement = self.prepared(&sql)?;
        let params: Vec<_> = columns.iter().map(Array::as_param).collect();
        self.with(|client| client.execute(&statement, &params)).map(drop)
    }

    pub(super) fn tell_news(&self) -> Result<()> {
        self.batch(&format!("NOTIFY {CHANNEL}"))
    }

    /// Waits for a word on [`CHANNEL`]. The first time it only begins to listen: what came before was not heard.
    pub(super) fn wait_for_news(&self, at_most: Duration) -> Result<()> {
        self.batch(&format!("LISTEN {CHANNEL}"))?;
        self.with(|client| client.notifications().timeout_iter(at_most).next().map(drop))
    }

    fn found(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
        visit: &mut dyn FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()> {
        let statement = self.prepared(sql)?;
        let rows = self.with(|client| client.query(&statement, params))?;
        rows.iter().try_for_each(|row| visit(&Row::Postgres(row)))
    }

    fn prepared(&self, sql: &str) -> Result<Statement> {
        if let Some(statement) = self.statements.borrow().get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.with(|client| client.prepare(&numbered(sql)))?;
        let mut statements = self.statements.borrow_mut();
        if statements.len() >= STATEMENTS_KEPT {
            statements.clear();
        }
        statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    fn with<T>(&self, ask: impl FnOnce(&mut Client) -> std::result::Result<T, postgres::Error>) -> Result<T> {
        match self.client.borrow_mut().as_mut() {
            Some(client) => Ok(ask(client)?),
            None => Err(Error::Row("the connection has ended".to_owned())),
        }
    }
}

/// `?` and `?1` as PostgreSQL spells them. No statement of this program has a question mark anywhere else.
fn numbered(sql: &str) -> String {
    let mut numbered = String::with_capacity(sql.len());
    let mut place = 0u32;
    let mut rest = sql.chars().peekable();
    while let Some(character) = rest.next() {
        if character != '?' {
            numbered.push(character);
            continue;
        }
        numbered.push('$');
        if !rest.peek().is_some_and(char::is_ascii_digit) {
            place = place.saturating_add(1);
            numbered.push_str(&place.to_string());
        }
    }
    numbered
}

/// PostgreSQL's text has no NUL, which JSON can name. Nothing that this program compares holds one.
fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// One column of many rows.
enum Array<'p> {
    Integers(Vec<Option<i64>>),
    Texts(Vec<Option<Cow<'p, str>>>),
    Bytes(Vec<Option<&'p [u8]>>),
}

impl<'p> Array<'p> {
    fn new(kind: Kind) -> Array<'p> {
        match kind {
            Kind::Integer => Array::Integers(Vec::new()),
            Kind::Text => Array::Texts(Vec::new()),
            Kind::Bytes => Array::Bytes(Vec::new()),
        }
    }

    fn push(&mut self, value: Param<'p>) -> Result<()> {
        match (self, value) {
            (Array::Integers(column), Param::Null) => column.push(None),
            (Array::Texts(column), Param::Null) => column.push(None),
            (Array::Bytes(column), Param::Null) => column.push(None),
            (Array::Integers(column), Param::Integer(number)) => column.push(Some(number)),
            (Array::Texts(column), Param::Text(text)) => column.push(Some(storable(text))),
            (Array::Bytes(column), Param::Bytes(bytes)) => column.push(Some(bytes)),
            (_, value) => return Err(Error::Row(format!("a column of another kind was given {value:?}"))),
        }
        Ok(())
    }

    fn as_param(&self) -> &(dyn ToSql + Sync) {
        match self {
            Array::Integers(column) => column,
            Array::Texts(column) => column,
            Array::Bytes(column) => column,
        }
    }
}

impl ToSql for Param<'_> {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Param::Null => Ok(IsNull::Yes),
            Param::Integer(number) if *kind == Type::INT4 => i32::try_from(*number)?.to_sql(kind, out),
            Param::Integer(number) if *kind == Type::BOOL => (*number != 0).to_sql(kind, out),
            Param::Integer(number) => number.to_sql(kind, out),
            Param::Text(text) => storable(text).to_sql(kind, out),
            Param::Bytes(bytes) => bytes.to_sql(kind, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    postgres::types::to_sql_checked!();
}

pub(super) fn column(row: &postgres::Row, column: usize) -> Result<Param<'_>> {
    let kind = row.columns().get(column).map(postgres::Column::type_);
    let value = match kind {
        Some(&Type::INT8) => row.try_get::<_, Option<i64>>(column)?.map(Param::Integer),
        Some(&Type::INT4) => row.try_get::<_, Option<i32>>(column)?.map(|n| Param::Integer(n.into())),
        Some(&Type::BOOL) => row.try_get::<_, Option<bool>>(column)?.map(|b| Param::Integer(b.into())),
        Some(&Type::TEXT | &Type::VARCHAR) => row.try_get::<_, Option<&str>>(column)?.map(Param::Text),
        Some(&Type::BYTEA) => row.try_get::<_, Option<&[u8]>>(column)?.map(Param::Bytes),
        _ => return Err(Error::broken(column, Broken)),
    };
    Ok(value.unwrap_or(Param::Null))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_numbered_as_postgresql_numbers_them() {
        assert_eq!(numbered("a = ? AND b = ? LIMIT ?"), "a = $1 AND b = $2 LIMIT $3");
        assert_eq!(numbered("a > ?2 AND b = ?1"), "a > $2 AND b = $1");
    }
}
