//! PostgreSQL: every statement is prepared once, and one statement writes many rows (`unnest`), because each statement
//! costs a round trip.

use super::value::{POOLED, STANDBY};
use super::{Error, Insert, Kind, Param, Purpose, Result, Row, tls};
use crate::store::database::{Primary, Protection, Server};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, SimpleQueryMessage, Socket, Statement};

/// How long a server may take to accept a connection and complete the handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the network may take to deliver data before the connection counts as lost.
const NETWORK_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that does not answer a check for this long has stopped, even if its sockets are open.
const SILENCE_TIMEOUT: Duration = Duration::from_millis(2500);
/// How often a waiting connection checks whether another one found that the server stopped.
const WAKE_EVERY: Duration = Duration::from_millis(200);
/// A connection that was not checked for this long may lead to a standby by now. It adds to the time until a revocation
/// takes effect.
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// Prepared statements of one connection; when there are more, all are dropped.
const STATEMENTS_KEPT: usize = 256;
/// Rows of a long result that are fetched at once.
const SCANNED_AT_ONCE: u32 = 2000;
/// The channel on which ledgers notify each other of changes.
const CHANNEL: &str = "agentrelay_changes";

/// Timeouts bound how long a statement or an idle transaction blocks others, except with [`NO_STATEMENT_TIMEOUT`]. Commits
/// wait for the disk even if the server is configured otherwise, because an answer promises durability. A report uses one
/// processor of the server.
const SETTINGS: &str = "
SET agentrelay.opened = 'yes';
SET statement_timeout = '10s';
SET lock_timeout = '5s';
SET idle_in_transaction_session_timeout = '10s';
SET client_min_messages = 'warning';
SET max_parallel_workers_per_gather = 0;
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
";

/// For the rest of a transaction that reads whole tables.
pub(super) const NO_STATEMENT_TIMEOUT: &str = "SET LOCAL statement_timeout = 0";

/// Locks the database, not a table, because at first there is none. Waits without a timeout for another process's
/// migration, but not for a table in use.
pub(super) const BEGIN_MIGRATION: &str = "
BEGIN;
SET LOCAL statement_timeout = 0;
SET LOCAL lock_timeout = 0;
SELECT pg_advisory_xact_lock(hashtext('agentrelay migration'));
SET LOCAL lock_timeout = '5s';
CREATE TABLE IF NOT EXISTS agentrelay_schema (version BIGINT NOT NULL);
INSERT INTO agentrelay_schema (version) SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM agentrelay_schema);
";

/// Identifies the server and its process. A simple query, so that it needs no prepared statement.
const IDENTITY: &str = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only'), \
     pg_postmaster_start_time()::text, pg_backend_pid(), coalesce(current_setting('agentrelay.opened', true), '')";

const SILENT: &str = "the server does not answer, though the connection is open";
const ENDED: &str = "the connection has ended";

/// SQLSTATE codes after which the connection is not used again: it leads to a standby, to a stopping server, or through a
/// pooler that lost the session's state.
const FATAL_CODES: [&str; 8] = ["25006", "0A000", "57P01", "57P02", "57P03", "26000", "42P05", "08P01"];

type Moved = Poll<Option<std::result::Result<AsyncMessage, tokio_postgres::Error>>>;
type Driver = Box<dyn FnMut(&mut Context<'_>) -> Moved + Send>;

/// A connection with its prepared statements. The thread that waits for an answer drives it.
pub(super) struct Session {
    /// `None` only during drop.
    runtime: Option<Runtime>,
    client: Client,
    driver: RefCell<Driver>,
    statements: RefCell<HashMap<String, Statement>>,
    is_notified: Cell<bool>,
    has_ended: Cell<bool>,
    checked_at: Cell<Instant>,
    process: String,
    statement_timeout: Cell<Duration>,
    primary: Arc<Primary>,
    epoch: u64,
    hosts: usize,
}

impl Drop for Session {
    /// A runtime must not be dropped, which blocks, inside another one.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Session {
    /// Connects to the primary. Of several hosts the last known primary is tried first.
    pub(super) fn open(server: &Server, purpose: Purpose) -> Result<Session> {
        let hosts = server.hosts();
        let first = server.primary().first();
        let mut failed = Error::Unusable(ENDED);
        let order = hosts.iter().enumerate().cycle().skip(first).take(hosts.len());
        for (host, config) in order {
            match Session::open_at(server, host, config, purpose) {
                Ok(session) => return Ok(session),
                // That a server can't be used is more useful to report than that another one is down.
                Err(_) if matches!(failed, Error::Unusable(STANDBY | POOLED)) => {}
                Err(cause) => failed = cause,
            }
        }
        Err(failed)
    }

    fn open_at(server: &Server, host: usize, config: &Config, purpose: Purpose) -> Result<Session> {
        let mut config = config.clone();
        config
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(NETWORK_TIMEOUT)
            .keepalives_idle(NETWORK_TIMEOUT)
            .application_name("agentrelay");
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|cause| Error::Row(cause.to_string()))?;
        let (client, driver) = match server.tls().protection {
            Protection::Disable => connect(&runtime, &config, NoTls)?,
            _ => connect(&runtime, &config, tls::connector(server.tls())?)?,
        };
        let mut session = Session {
            runtime: Some(runtime),
            client,
            driver: RefCell::new(driver),
            statements: RefCell::default(),
            is_notified: Cell::new(false),
            has_ended: Cell::new(false),
            checked_at: Cell::new(Instant::now()),
            process: String::new(),
            statement_timeout: Cell::new(Duration::ZERO),
            primary: Arc::clone(server.primary()),
            epoch: server.primary().epoch(),
            hosts: server.hosts().len(),
        };
        let [in_recovery, read_only, started, process, opened] = session.identity()?;
        if in_recovery == "t" || read_only == "on" {
            return Err(Error::Unusable(STANDBY));
        }
        if !opened.is_empty() {
            return Err(Error::Unusable(POOLED));
        }
        session.process = process;
        session.batch(SETTINGS)?;
        session.batch(match purpose {
            Purpose::Read => "SET default_transaction_read_only = on",
            // A writer finds rows by key. Its plans are cached while tables are small, when a full scan seems cheap.
            Purpose::Write => "SET enable_seqscan = off",
        })?;
        session.epoch = session.primary.found(host, &started);
        Ok(session)
    }

    /// Whether it can be used, as far as known without asking the server.
    pub(super) fn is_open(&self) -> bool {
        !self.has_ended.get() && !self.client.is_closed() && self.epoch == self.primary.epoch()
    }

    /// Checks that it still leads to the primary, unless that was checked recently.
    pub(super) fn check_primary(&self) -> Result<()> {
        if !self.is_open() {
            return Err(Error::Unusable(ENDED));
        }
        if self.checked_at.get().elapsed() < CHECK_EVERY {
            return Ok(());
        }
        let [in_recovery, _, _, process, _] = self.identity()?;
        let reason = match () {
            () if in_recovery == "t" => STANDBY,
            () if process != self.process => POOLED,
            () => {
                self.checked_at.set(Instant::now());
                return Ok(());
            }
        };
        self.has_ended.set(true);
        Err(Error::Unusable(reason))
    }

    fn identity(&self) -> Result<[String; 5]> {
        let messages =
            self.wait(SILENCE_TIMEOUT, self.client.simple_query(IDENTITY)).inspect_err(|cause| {
                if matches!(cause, Error::Unusable(SILENT)) {
                    self.primary.stopped_answering(self.epoch, self.hosts);
                }
            })?;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let row = row.ok_or(Error::Unusable(ENDED))?;
        Ok([0, 1, 2, 3, 4].map(|column| row.get(column).unwrap_or_default().to_owned()))
    }

    /// Sets the timeout of all following statements.
    pub(super) fn set_timeout(&self, time: Duration) -> Result<()> {
        if self.statement_timeout.get() != time {
            self.batch(&format!("SET statement_timeout = {}", time.as_millis()))?;
            self.statement_timeout.set(time);
        }
        Ok(())
    }

    pub(super) fn batch(&self, sql: &str) -> Result<()> {
        self.ask(self.client.batch_execute(sql))
    }

    pub(super) fn execute(&self, sql: &str, params: &[Param<'_>]) -> Result<u64> {
        let statement = self.prepared(sql)?;
        let params: Vec<_> = params.iter().map(|param| param as &(dyn ToSql + Sync)).collect();
        self.ask(self.client.execute(&statement, &params))
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

    pub(super) fn continue_sequence(&self, table: &str, column: &str) -> Result<()> {
        self.batch(&format!(
            "SELECT setval(sequence, greatest((SELECT max({column}) FROM {table}), 1)) \
             FROM pg_get_serial_sequence('{table}', '{column}') AS sequence WHERE sequence IS NOT NULL"
        ))
    }

    pub(super) fn each<'t>(
        &self,
        select: &str,
        texts: impl Iterator<Item = impl Into<Cow<'t, str>>>,
        visit: &mut dyn FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()> {
        let texts: Vec<Cow<'t, str>> = texts.map(|text| storable(text.into())).collect();
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
        self.ask(self.client.execute(&statement, &params)).map(drop)
    }

    pub(super) fn notify_changed(&self) -> Result<()> {
        self.batch(&format!("NOTIFY {CHANNEL}"))
    }

    /// Waits for a notification on [`CHANNEL`]. Earlier ones than the first call are not received.
    pub(super) fn wait_for_notification(&self, at_most: Duration) -> Result<()> {
        self.batch(&format!("LISTEN {CHANNEL}"))?;
        let began = Instant::now();
        // `wait` also detects that the connection has ended.
        while !self.is_notified.replace(false) && began.elapsed() < at_most {
            let left = at_most.saturating_sub(began.elapsed());
            match self.wait(
                left,
                poll_fn(|_| if self.is_notified.get() { Poll::Ready(Ok(())) } else { Poll::Pending }),
            ) {
                Err(Error::Unusable(SILENT)) => self.has_ended.set(false),
                result => return result,
            }
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
        let rows = self.ask(self.client.query(&statement, params))?;
        rows.iter().try_for_each(|row| visit(&Row::Postgres(row)))
    }

    fn prepared(&self, sql: &str) -> Result<Statement> {
        if let Some(statement) = self.statements.borrow().get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.ask(self.client.prepare(&numbered(sql)))?;
        let mut statements = self.statements.borrow_mut();
        if statements.len() >= STATEMENTS_KEPT {
            statements.clear();
        }
        statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// Waits for an answer. The server bounds the time; other connections detect that it has stopped.
    fn ask<T>(
        &self,
        query: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        self.wait(Duration::MAX, query)
    }

    /// The same, at most this long.
    fn wait<T>(
        &self,
        at_most: Duration,
        query: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        let Some(runtime) = self.runtime.as_ref().filter(|_| !self.has_ended.get()) else {
            return Err(Error::Unusable(ENDED));
        };
        let began = Instant::now();
        let mut query = pin!(query);
        let answer = runtime.block_on(async {
            loop {
                let wake_in = WAKE_EVERY.min(at_most.saturating_sub(began.elapsed()));
                let round = timeout(
                    wake_in,
                    poll_fn(|context| {
                        self.drive(context);
                        query.as_mut().poll(context)
                    }),
                );
                if let Ok(answer) = round.await {
                    return Some(answer);
                }
                if began.elapsed() >= at_most || self.epoch != self.primary.epoch() || self.has_ended.get() {
                    return None;
                }
            }
        });
        match answer {
            Some(Ok(value)) => Ok(value),
            Some(Err(cause)) => {
                let is_fatal = |code: &str| FATAL_CODES.contains(&code);
                if cause.is_closed() || cause.code().is_some_and(|code| is_fatal(code.code())) {
                    self.has_ended.set(true);
                }
                Err(cause.into())
            }
            None => {
                self.has_ended.set(true);
                Err(Error::Unusable(SILENT))
            }
        }
    }

    /// Sends and receives until nothing is ready.
    fn drive(&self, context: &mut Context<'_>) {
        loop {
            let moved = (self.driver.borrow_mut())(context);
            match moved {
                Poll::Ready(Some(Ok(AsyncMessage::Notification(_)))) => self.is_notified.set(true),
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => {
                    self.has_ended.set(true);
                    // Dropping the driver closes the client, so that waiting queries fail.
                    *self.driver.borrow_mut() = Box::new(|_| Poll::Pending);
                    return;
                }
                Poll::Pending => return,
            }
        }
    }
}

/// The handshake needs a timeout too: a stopped server's sockets still accept connections.
fn connect<T>(runtime: &Runtime, config: &Config, tls: T) -> Result<(Client, Driver)>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let connected = runtime.block_on(async { timeout(CONNECT_TIMEOUT, config.connect(tls)).await });
    let (client, mut connection) = connected.map_err(|_| Error::Unusable(SILENT))??;
    Ok((client, Box::new(move |context| connection.poll_message(context))))
}

/// Translates `?` and `?1` to `$1`. No statement has a question mark elsewhere.
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

/// PostgreSQL's text can't contain NUL, which JSON can. No compared text contains one.
fn storable(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { text }
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
            Param::Text(text) => storable(Cow::Borrowed(text)).to_sql(kind, out),
            Param::Bytes(bytes) => bytes.to_sql(kind, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    tokio_postgres::types::to_sql_checked!();
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
