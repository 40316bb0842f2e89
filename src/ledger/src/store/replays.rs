//! Stored answers to `Idempotency-Key`s.

use super::row::{Table, columns};
use super::sql::{Connection, Result, params};
use crate::model::replay::{Replay, ReplayKey};
use crate::transaction::{Needs, Rows};

columns!(ReplayKey { fixed: actor, route, key; changing: ; });
columns!(Replay { fixed: body, answer, created_at; changing: ; });

const REPLAYS: Table<(ReplayKey, Replay)> = Table::new("replays", &[]);

pub(super) fn load(connection: &Connection, needs: &Needs, rows: &mut Rows) -> Result<()> {
    for at in &needs.replays {
        let found = "WHERE actor = ? AND route = ? AND key = ?";
        if let Some((at, replay)) = REPLAYS.first(connection, found, &params![at.actor, at.route, at.key])? {
            rows.replays.load(at, replay);
        }
    }
    Ok(())
}

pub(super) fn save(connection: &Connection, rows: &Rows) -> Result<()> {
    REPLAYS.put(connection, rows.replays.dirty().into_iter())?;
    if let Some(moment) = rows.forget_replays_before {
        connection.execute("DELETE FROM replays WHERE created_at < ?", &params![moment])?;
    }
    Ok(())
}
