//! The Envoys that follow the change feed, and when each last did.

use super::handle::Store;
use super::row::{Table, columns};
use super::sql::{Connection, Result, params};
use crate::transaction::{Needs, Rows, Unavailable};
use protocol::{InstanceId, Timestamp};

struct Envoy {
    instance: InstanceId,
    seen_at: Timestamp,
}

columns!(Envoy { fixed: instance; changing: seen_at; });

const ENVOYS: Table<Envoy> = Table::new("envoys", &["instance"]);

pub(super) fn load(connection: &Connection, needs: &Needs, rows: &mut Rows) -> Result<()> {
    let instances = needs.envoys.iter().map(InstanceId::to_string);
    for Envoy { instance, seen_at } in ENVOYS.each(connection, "instance", instances)? {
        rows.envoys.load(instance, seen_at);
    }
    if let Some(since) = needs.envoys_seen_since {
        rows.envoys_seen = count(connection, since)?;
    }
    Ok(())
}

pub(super) fn save(connection: &Connection, rows: &Rows) -> Result<()> {
    let dirty = rows.envoys.dirty().into_iter();
    let envoys: Vec<Envoy> =
        dirty.map(|(instance, at)| Envoy { instance: *instance, seen_at: *at }).collect();
    ENVOYS.put(connection, envoys.iter())?;
    if let Some(moment) = rows.forget_ended_before {
        connection.execute("DELETE FROM envoys WHERE seen_at < ?", &params![moment])?;
    }
    Ok(())
}

fn count(connection: &Connection, since: Timestamp) -> Result<u32> {
    let select = "SELECT count(*) FROM envoys WHERE seen_at > ?";
    Ok(connection.first(select, &params![since], |row| row.get(0))?.unwrap_or(0))
}

impl Store {
    /// How many Envoys followed the change feed after `since`.
    pub async fn envoys_seen(&self, since: Timestamp) -> std::result::Result<u32, Unavailable> {
        self.filters.read(move |connection| count(connection, since)).await
    }
}
