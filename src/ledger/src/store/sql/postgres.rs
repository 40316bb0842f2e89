//! The server: every statement prepared once, many rows by one statement (`unnest`), because each costs a round trip.

use super::{Broken, Error, Insert, Kind, Param, Purpose, Result, Row, tls};
use crate::database::{Protection, Server, Tls};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Statement};

/// How long a server may take to accept a connection and to say that it takes writes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a server may take to answer: a little longer than [`SETTINGS`] lets a statement take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(11);
/// How long a server that took writes is believed to take them. Revocations are promised within 2 s.
const PRIMARY_FOR: Duration = Duration::from_millis(500);
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
const UNHURRIED: &str = "SET LOCAL statement_timeout = 0";

/// The lock is of the database, not of a table, for at first there is none. Who waits for it waits until another's
/// migration is through; no migration waits for long for a table that is in use.
const BEGIN_MIGRATION: &str = "
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
    runtime: Option<Runtime>,
    client: Client,
    /// What other ledgers say.
    news: RefCell<mpsc::UnboundedReceiver<()>>,
    statements: RefCell<HashMap<String, Statement>>,
    /// It broke, or leads to a server that no longer takes writes.
    is_broken: Cell<bool>,
    /// When it was last seen that the server takes writes.
    seen_primary: Cell<Instant>,
    /// For the rest of a transaction no answer is late.
    is_unhurried: Cell<bool>,
}

impl Drop for Session {
    /// A runtime must not end inside of another one by waiting.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Session {
    pub(super) fn open(server: &Server, purpose: Purpose) -> Result<Session> {
        let mut last = Error::Row("the URL names no host".to_owned());
        for config in server.configs() {
            match Session::open_at(&config, server.tls(), purpose) {
                Ok(session) => {
                    server.answered(&config);
                    return Ok(session);
                }
                Err(cause) => last = cause,
            }
        }
        Err(last)
    }

    /// Of one host. A server that hangs accepts connections all the same, so the whole of it has a bound.
    fn open_at(config: &Config, tls: &Tls, purpose: Purpose) -> Result<Session> {
        let mut config = config.clone();
        config
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(NETWORK_TIMEOUT)
            .keepalives_idle(NETWORK_TIMEOUT)
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .application_name("agentrelay");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|cause| Error::Row(format!("no runtime for a connection: {cause}")))?;
        let (told, news) = mpsc::unbounded_channel();
        let connecting = async {
            Ok::<_, Error>(match tls.protection {
                Protection::Disable => {
                    let (client, connection) = config.connect(NoTls).await?;
                    tokio::spawn(drive(connection, told));
                    client
                }
                _ => {
                    let (client, connection) = config.connect(tls::connector(tls)?).await?;
                    tokio::spawn(drive(connection, told));
                    client
                }
            })
        };
        let connected = runtime.block_on(async { timeout(CONNECT_TIMEOUT, connecting).await });
        let client = match connected {
            Ok(client) => client?,
            Err(_) => return Err(Error::Silent(CONNECT_TIMEOUT)),
        };
        let session = Session {
            runtime: Some(runtime),
            client,
            news: RefCell::new(news),
            statements: RefCell::default(),
            is_broken: Cell::new(false),
            seen_primary: Cell::new(Instant::now()),
            is_unhurried: Cell::new(false),
        };
        session.batch(SETTINGS)?;
        session.batch(match purpose {
            Purpose::Read => "SET default_transaction_read_only = on",
            // A writer finds rows by their keys alone. The plans that it keeps are made while the tables are small, when
            // reading all of one seems cheap.
            Purpose::Write => "SET enable_seqscan = off",
        })?;
        Ok(session)
    }

    /// Whether it works and its server takes writes. What a server said before it became a standby may be old, and some
    /// poolers change the server behind a connection.
    pub(super) fn is_open(&self) -> bool {
        if self.is_broken.get() || self.client.is_closed() {
            return false;
        }
        if self.seen_primary.get().elapsed() < PRIMARY_FOR {
            return true;
        }
        let now = Instant::now();
        let is_standby = self.with(self.client.query_one("SELECT pg_is_in_recovery()", &[]));
        let is_primary = is_standby.and_then(|row| Ok(!row.try_get::<_, bool>(0)?)).unwrap_or(false);
        self.seen_primary.set(now);
        self.is_broken.set(!is_primary);
        is_primary
    }

    /// For the rest of a transaction statements go through whole tables, and take as long as those are.
    pub(super) fn unhurried(&self) -> Result<()> {
        self.is_unhurried.set(true);
        self.batch(UNHURRIED)
    }

    /// Begins one in which tables are changed.
    pub(super) fn begin_migration(&self) -> Result<()> {
        self.is_unhurried.set(true);
        self.batch(BEGIN_MIGRATION)
    }

    /// The transaction has ended.
    pub(super) fn ended(&self) {
        self.is_unhurried.set(false);
    }

    pub(super) fn batch(&self, sql: &str) -> Result<()> {
        self.with(self.client.batch_execute(sql))
    }

    pub(super) fn execute(&self, sql: &str, params: &[Param<'_>]) -> Result<u64> {
        let statement = self.prepared(sql)?;
        let params: Vec<_> = params.iter().map(|param| param as &(dyn ToSql + Sync)).collect();
        self.with(self.client.execute(&statement, &params))
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
        self.with(self.client.execute(&statement, &params)).map(drop)
    }

    pub(super) fn tell_news(&self) -> Result<()> {
        self.batch(&format!("NOTIFY {CHANNEL}"))
    }

    /// Waits for a word on [`CHANNEL`]. The first time it only begins to listen: what came before was not heard.
    pub(super) fn wait_for_news(&self, at_most: Duration) -> Result<()> {
        self.batch(&format!("LISTEN {CHANNEL}"))?;
        let Some(runtime) = &self.runtime else { return Ok(()) };
        let mut news = self.news.borrow_mut();
        // The end of the connection shows at the next statement.
        let heard = async { timeout(at_most, news.recv()).await };
        if let Ok(None) = runtime.block_on(heard) {
            self.is_broken.set(true);
        }
        Ok(())
    }

    fn found(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
        visit: &mut dyn FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()> {
        let statement = self.prepared(sql)?;
        let rows = self.with(self.client.query(&statement, params))?;
        rows.iter().try_for_each(|row| visit(&Row::Postgres(row)))
    }

    fn prepared(&self, sql: &str) -> Result<Statement> {
        if let Some(statement) = self.statements.borrow().get(sql) {
            return Ok(statement.clone());
        }
        let numbered = numbered(sql);
        let statement = self.with(self.client.prepare(&numbered))?;
        let mut statements = self.statements.borrow_mut();
        if statements.len() >= STATEMENTS_KEPT {
            statements.clear();
        }
        statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// Asks, and waits for the answer no longer than a server that is alive takes: the network alone does not tell of one
    /// that hangs.
    fn with<T>(
        &self,
        asked: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        let runtime = self.runtime.as_ref().filter(|_| !self.is_broken.get());
        let runtime = runtime.ok_or_else(|| Error::Row("the connection has ended".to_owned()))?;
        let answered = runtime.block_on(async {
            if self.is_unhurried.get() { Ok(asked.await) } else { timeout(ANSWER_TIMEOUT, asked).await }
        });
        let answered = match answered {
            Ok(answered) => answered.map_err(Error::from),
            Err(_) => Err(Error::Silent(ANSWER_TIMEOUT)),
        };
        answered.inspect_err(|cause| {
            if cause.is_of_connection() {
                self.is_broken.set(true);
            }
        })
    }
}

/// Moves the connection's bytes, and passes on what other ledgers say.
async fn drive<S, T>(mut connection: tokio_postgres::Connection<S, T>, told: mpsc::UnboundedSender<()>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notification(_) = message {
            // Who does not listen has nothing to be told.
            let _ = told.send(());
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

    tokio_postgres::types::to_sql_checked!();
}

pub(super) fn column(row: &tokio_postgres::Row, column: usize) -> Result<Param<'_>> {
    let kind = row.columns().get(column).map(tokio_postgres::Column::type_);
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
