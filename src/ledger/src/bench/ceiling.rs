//! The rows of reservations and commits, by the ledger's own statements, written as fast as the database takes them: no
//! queue, no rules, nothing read back. What they say is made before the clock runs.

use super::{CREDITS, Error, GRANTED, Payer, rate};
use crate::moment;
use crate::store::database::Database;
use crate::store::sql::{Connection, Insert, Kind, Param, Purpose};
use std::time::{Duration, Instant};

pub(super) const SERVICE: &str = "studio";
pub(super) const TOOL: &str = "image_generate";
/// As long as a real one.
pub(super) const POLICY_VERSION: &str = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

const ACCOUNTS: Insert<'_> = Insert {
    table: "accounts",
    columns: &[
        ("tenant_id", Kind::Text),
        ("granted", Kind::Integer),
        ("available", Kind::Integer),
        ("pending", Kind::Integer),
        ("posted", Kind::Integer),
    ],
    conflict: "ON CONFLICT (tenant_id) DO UPDATE SET granted = excluded.granted, \
               available = excluded.available, pending = excluded.pending, posted = excluded.posted",
};

const RESERVATIONS: Insert<'_> = Insert {
    table: "reservations",
    columns: &[
        ("id", Kind::Text),
        ("tenant_id", Kind::Text),
        ("key_id", Kind::Text),
        ("service", Kind::Text),
        ("tool", Kind::Text),
        ("credits", Kind::Integer),
        ("overrun", Kind::Integer),
        ("ttl_seconds", Kind::Integer),
        ("policy_version", Kind::Text),
        ("reserved_at", Kind::Integer),
        ("expires_at", Kind::Integer),
        ("available_after", Kind::Integer),
        ("state", Kind::Text),
        ("asked", Kind::Integer),
        ("charged", Kind::Integer),
    ],
    conflict: "ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at, state = excluded.state, \
               asked = excluded.asked, charged = excluded.charged",
};

const TRANSFERS: Insert<'_> = Insert {
    table: "transfers",
    columns: &[
        ("id", Kind::Text),
        ("tenant_id", Kind::Text),
        ("reservation_id", Kind::Text),
        ("lease_id", Kind::Text),
        ("kind", Kind::Text),
        ("from_account", Kind::Text),
        ("to_account", Kind::Text),
        ("credits", Kind::Integer),
        ("at", Kind::Integer),
    ],
    conflict: "",
};

const AUDIT: Insert<'_> = Insert {
    table: "audit",
    columns: &[
        ("sequence", Kind::Integer),
        ("recorded_at", Kind::Integer),
        ("kind", Kind::Text),
        ("actor", Kind::Text),
        ("tenant_id", Kind::Text),
        ("outcome", Kind::Text),
        ("event_id", Kind::Text),
        ("detail", Kind::Text),
    ],
    conflict: "",
};

/// One connection that writes.
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
    pub(super) fn open(database: &Database, payers: &'p [Payer]) -> Result<Ceiling<'p>, Error> {
        let connection = Connection::open(database, Purpose::Write)?;
        let newest = connection.first("SELECT max(sequence) FROM audit", &[], |row| row.get(0))?;
        Ok(Ceiling { connection, payers, sequence: newest.unwrap_or_default() })
    }

    /// So many operations in each transaction, for so long. Pairs per second, not counting the making of texts.
    pub(super) fn run(mut self, operations: u32, turn: Duration) -> Result<f64, Error> {
        let (mut spent, mut pairs) = (Duration::ZERO, 0usize);
        while spent < turn {
            let calls: Vec<Call<'p>> =
                (0..operations).zip(self.payers.iter().cycle()).map(|(_, payer)| Call::new(payer)).collect();
            let began = Instant::now();
            self.write(&calls, Half::Reserve)?;
            self.write(&calls, Half::Commit)?;
            spent = spent.saturating_add(began.elapsed());
            pairs = pairs.saturating_add(calls.len());
        }
        Ok(rate(pairs, spent))
    }

    fn write(&mut self, calls: &[Call<'p>], half: Half) -> Result<(), Error> {
        let now = i64::try_from(moment::now().as_millis()).unwrap_or(i64::MAX);
        let (first, granted) = (self.sequence.saturating_add(1), i64::try_from(GRANTED).unwrap_or(i64::MAX));
        self.sequence = self.sequence.saturating_add(i64::try_from(calls.len()).unwrap_or(i64::MAX));
        let credits = Param::Integer(i64::try_from(CREDITS).unwrap_or(i64::MAX));
        let (kind, from, to, state, charged) = match half {
            Half::Reserve => ("reserve", "available", "pending", "pending", Param::Null),
            Half::Commit => ("post", "pending", "posted", "posted", credits.clone()),
        };
        let payers = self.payers.get(..calls.len().min(self.payers.len())).unwrap_or(self.payers);
        self.connection.write(|connection| {
            let accounts = payers.iter().map(|payer| {
                let rest = granted.saturating_sub(first);
                [
                    Param::text(payer.tenant_id.as_str()),
                    Param::Integer(granted),
                    Param::Integer(rest),
                    Param::Integer(0),
                    Param::Integer(first),
                ]
            });
            connection.insert(&ACCOUNTS, accounts)?;
            let reservations = calls.iter().map(|call| {
                [
                    Param::text(&call.id),
                    Param::text(call.payer.tenant_id.as_str()),
                    Param::text(call.payer.key_id.as_str()),
                    Param::text(SERVICE),
                    Param::text(TOOL),
                    credits.clone(),
                    Param::Integer(0),
                    Param::Integer(60),
                    Param::text(POLICY_VERSION),
                    Param::Integer(now),
                    Param::Integer(now.saturating_add(60_000)),
                    Param::Integer(granted),
                    Param::text(state),
                    charged.clone(),
                    charged.clone(),
                ]
            });
            connection.insert(&RESERVATIONS, reservations)?;
            let transfers = calls.iter().map(|call| {
                [
                    Param::Null,
                    Param::text(call.payer.tenant_id.as_str()),
                    Param::text(&call.id),
                    Param::Null,
                    Param::text(kind),
                    Param::text(from),
                    Param::text(to),
                    credits.clone(),
                    Param::Integer(now),
                ]
            });
            connection.insert(&TRANSFERS, transfers)?;
            let audit = (first..).zip(calls).map(|(sequence, call)| {
                [
                    Param::Integer(sequence),
                    Param::Integer(now),
                    Param::text(if half == Half::Reserve { "reserved" } else { "posted" }),
                    Param::text(call.payer.key_id.as_str()),
                    Param::text(call.payer.tenant_id.as_str()),
                    Param::Null,
                    Param::Null,
                    Param::text(if half == Half::Reserve { &call.reserved } else { &call.posted }),
                ]
            });
            connection.insert(&AUDIT, audit)
        })?;
        Ok(())
    }
}

impl<'p> Call<'p> {
    fn new(payer: &'p Payer) -> Call<'p> {
        let id = moment::new_name("");
        let reserved = format!(
            r#"{{"credits":{CREDITS},"expires_at":"{}","policy_version":"{POLICY_VERSION}","reservation_id":"{id}","service":"{SERVICE}","tool":"{TOOL}"}}"#,
            moment::now(),
        );
        let posted = format!(
            r#"{{"credits":{CREDITS},"reservation_id":"{id}","reserved":{CREDITS},"tool":"{TOOL}"}}"#
        );
        Call { id, payer, reserved, posted }
    }
}
