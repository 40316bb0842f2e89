//! Writes the rows of reservations and commits as fast as the database accepts them: no queue, no rules, no reads. The
//! contents are made before the measurement begins.

use super::{CREDITS, GRANTED, Payer, rate};
use rusqlite::types::Value;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

pub(super) const SERVICE: &str = "studio";
pub(super) const TOOL: &str = "image_generate";
/// As long as a real one.
pub(super) const POLICY_VERSION: &str = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

/// A table with its columns, and what to do if the row exists. Placeholders are written as `#`.
struct Table {
    name: &'static str,
    columns: &'static [&'static str],
    conflict: &'static str,
}

const ACCOUNTS: Table = Table {
    name: "accounts",
    columns: &["tenant_id", "#granted", "#available", "#pending", "#posted"],
    conflict: "ON CONFLICT (tenant_id) DO UPDATE SET granted = excluded.granted, available = excluded.available, \
               pending = excluded.pending, posted = excluded.posted",
};

const RESERVATIONS: Table = Table {
    name: "reservations",
    columns: &[
        "id",
        "tenant_id",
        "key_id",
        "service",
        "tool",
        "#credits",
        "#overrun",
        "#ttl_seconds",
        "policy_version",
        "#reserved_at",
        "#expires_at",
        "#available_after",
        "state",
        "#asked",
        "#charged",
    ],
    conflict: "ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at, state = excluded.state, \
               asked = excluded.asked, charged = excluded.charged",
};

const TRANSFERS: Table = Table {
    name: "transfers",
    columns: &["tenant_id", "reservation_id", "kind", "from_account", "to_account", "#credits", "#at"],
    conflict: "",
};

const AUDIT: Table = Table {
    name: "audit",
    columns: &["#sequence", "#recorded_at", "kind", "actor", "tenant_id", "detail"],
    conflict: "",
};

/// One connection that writes.
enum Connection {
    Sqlite(rusqlite::Connection),
    Postgres(Box<postgres::Client>),
}

impl Connection {
    /// Uses the settings with which the ledger writes.
    fn open(url: &str) -> anyhow::Result<Connection> {
        Ok(match url.strip_prefix("sqlite:") {
            Some(path) => {
                let connection = rusqlite::Connection::open(path)?;
                connection.execute_batch(
                    "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = TRUE; \
                     PRAGMA wal_autocheckpoint = 4096",
                )?;
                Connection::Sqlite(connection)
            }
            None => Connection::Postgres(Box::new(postgres::Client::connect(url, postgres::NoTls)?)),
        })
    }

    fn batch(&mut self, sql: &str) -> anyhow::Result<()> {
        match self {
            Connection::Sqlite(connection) => connection.execute_batch(sql)?,
            Connection::Postgres(client) => client.batch_execute(sql)?,
        }
        Ok(())
    }

    /// An embedded database gets one row per statement, a server all rows in one statement.
    fn put(&mut self, table: &Table, rows: Vec<Vec<Value>>) -> anyhow::Result<()> {
        let Table { name, columns, conflict } = table;
        let names: Vec<&str> = columns.iter().map(|column| column.trim_start_matches('#')).collect();
        let names = names.join(", ");
        match self {
            Connection::Sqlite(connection) => {
                let places = vec!["?"; columns.len()].join(", ");
                let insert = format!("INSERT INTO {name} ({names}) VALUES ({places}) {conflict}");
                let mut statement = connection.prepare_cached(&insert)?;
                for row in rows {
                    statement.execute(rusqlite::params_from_iter(row))?;
                }
            }
            Connection::Postgres(client) => {
                let arrays: Vec<Array> = (0..columns.len())
                    .zip(*columns)
                    .map(|(place, column)| Array::of(&rows, place, column))
                    .collect();
                let places: Vec<String> = (1..)
                    .zip(*columns)
                    .map(|(place, column)| {
                        let kind = if column.starts_with('#') { "bigint" } else { "text" };
                        format!("${place}::{kind}[]")
                    })
                    .collect();
                let places = places.join(", ");
                let insert =
                    format!("INSERT INTO {name} ({names}) SELECT * FROM unnest({places}) {conflict}");
                let params: Vec<_> = arrays.iter().map(Array::param).collect();
                client.execute(&insert, &params)?;
            }
        }
        Ok(())
    }
}

/// One column of many rows.
enum Array {
    Numbers(Vec<Option<i64>>),
    Texts(Vec<Option<String>>),
}

impl Array {
    fn of(rows: &[Vec<Value>], place: usize, column: &str) -> Array {
        let values = rows.iter().map(|row| row.get(place));
        if column.starts_with('#') {
            Array::Numbers(
                values
                    .map(|value| if let Some(Value::Integer(number)) = value { Some(*number) } else { None })
                    .collect(),
            )
        } else {
            Array::Texts(
                values
                    .map(|value| if let Some(Value::Text(text)) = value { Some(text.clone()) } else { None })
                    .collect(),
            )
        }
    }

    fn param(&self) -> &(dyn postgres::types::ToSql + Sync) {
        match self {
            Array::Numbers(column) => column,
            Array::Texts(column) => column,
        }
    }
}

/// Writes without any checks.
pub(super) struct Ceiling<'p> {
    connection: Connection,
    payers: &'p [Payer],
    sequence: i64,
}

/// What is written about one call.
struct Call<'p> {
    id: String,
    payer: &'p Payer,
    reserved: String,
    posted: String,
}

/// Which half of a pair a transaction writes.
#[derive(Clone, Copy, PartialEq)]
enum Half {
    Reserve,
    Commit,
}

impl<'p> Ceiling<'p> {
    pub(super) fn open(url: &str, payers: &'p [Payer]) -> anyhow::Result<Ceiling<'p>> {
        let mut connection = Connection::open(url)?;
        let newest = "SELECT coalesce(max(sequence), 0) FROM audit";
        let sequence = match &mut connection {
            Connection::Sqlite(connection) => connection.query_row(newest, [], |row| row.get(0))?,
            Connection::Postgres(client) => client.query_one(newest, &[])?.get(0),
        };
        Ok(Ceiling { connection, payers, sequence })
    }

    /// Runs transactions of so many operations for so long. Returns pairs per second, without the time for making the
    /// contents.
    pub(super) fn run(mut self, operations: u32, turn: Duration) -> anyhow::Result<f64> {
        let (mut spent, mut pairs) = (Duration::ZERO, 0usize);
        while spent < turn {
            let calls: Vec<Call<'p>> =
                (0..operations).zip(self.payers.iter().cycle()).map(|(_, payer)| Call::new(payer)).collect();
            let began = Instant::now();
            self.write(&calls, Half::Reserve)?;
            self.write(&calls, Half::Commit)?;
            spent += began.elapsed();
            pairs += calls.len();
        }
        Ok(rate(pairs, spent))
    }

    fn write(&mut self, calls: &[Call<'p>], half: Half) -> anyhow::Result<()> {
        let text = |text: &str| Value::Text(text.to_owned());
        let now = now_ms();
        let (first, granted) = (self.sequence + 1, i64::try_from(GRANTED)?);
        self.sequence += i64::try_from(calls.len())?;
        let credits = i64::try_from(CREDITS)?;
        let (kind, from, to, state, charged, fact) = match half {
            Half::Reserve => ("reserve", "available", "pending", "pending", Value::Null, "reserved"),
            Half::Commit => ("post", "pending", "posted", "posted", Value::Integer(credits), "posted"),
        };
        let payers = self.payers.get(..calls.len().min(self.payers.len())).unwrap_or(self.payers);
        let number = Value::Integer;
        self.connection.batch("BEGIN")?;
        let accounts = payers.iter().map(|payer| {
            vec![
                text(payer.tenant_id.as_str()),
                number(granted),
                number(granted - first),
                number(0),
                number(first),
            ]
        });
        self.connection.put(&ACCOUNTS, accounts.collect())?;
        let reservations = calls.iter().map(|call| {
            vec![
                text(&call.id),
                text(call.payer.tenant_id.as_str()),
                text(call.payer.key_id.as_str()),
                text(SERVICE),
                text(TOOL),
                number(credits),
                number(0),
                number(60),
                text(POLICY_VERSION),
                number(now),
                number(now + 60_000),
                number(granted),
                text(state),
                charged.clone(),
                charged.clone(),
            ]
        });
        self.connection.put(&RESERVATIONS, reservations.collect())?;
        let transfers = calls.iter().map(|call| {
            let tenant_id = text(call.payer.tenant_id.as_str());
            vec![tenant_id, text(&call.id), text(kind), text(from), text(to), number(credits), number(now)]
        });
        self.connection.put(&TRANSFERS, transfers.collect())?;
        let audit = (first..).zip(calls).map(|(sequence, call)| {
            let detail = if half == Half::Reserve { &call.reserved } else { &call.posted };
            let (actor, tenant_id) = (call.payer.key_id.as_str(), call.payer.tenant_id.as_str());
            vec![number(sequence), number(now), text(fact), text(actor), text(tenant_id), text(detail)]
        });
        self.connection.put(&AUDIT, audit.collect())?;
        self.connection.batch("COMMIT")
    }
}

impl<'p> Call<'p> {
    fn new(payer: &'p Payer) -> Call<'p> {
        let id = fresh();
        let reserved = format!(
            r#"{{"credits":{CREDITS},"expires_at":"2026-11-28T00:00:00.000Z","policy_version":"{POLICY_VERSION}","reservation_id":"{id}","service":"{SERVICE}","tool":"{TOOL}"}}"#,
        );
        let posted = format!(
            r#"{{"credits":{CREDITS},"reservation_id":"{id}","reserved":{CREDITS},"tool":"{TOOL}"}}"#
        );
        Call { id, payer, reserved, posted }
    }
}

/// A new id.
pub(super) fn fresh() -> String {
    Uuid::now_v7().to_string()
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
