//! Shares of global limits.

use super::row::{Table, columns};
use super::sql::{Connection, Result, params};
use crate::model::share::{Share, ShareKey};
use crate::transaction::{Needs, Rows};

columns!(ShareKey { fixed: owner, limit_id, instance; changing: ; });
columns!(Share {
    fixed: ;
    changing: permits, used, revision, window_seconds, renewed_at, expires_at, called_at;
});

const SHARES: Table<(ShareKey, Share)> = Table::new("shares", &["owner", "limit_id", "instance"]);

pub(super) fn load(connection: &Connection, needs: &Needs, rows: &mut Rows) -> Result<()> {
    for (owner, limit_id) in &needs.shares {
        let of_limit = "WHERE owner = ? AND limit_id = ?";
        for (at, share) in SHARES.all(connection, of_limit, &params![owner, limit_id])? {
            rows.load_share(at, share);
        }
    }
    Ok(())
}

pub(super) fn save(connection: &Connection, rows: &Rows) -> Result<()> {
    SHARES.put(connection, rows.shares.dirty().into_iter())?;
    if let Some(moment) = rows.forget_ended_before {
        connection.execute("DELETE FROM shares WHERE expires_at < ?", &params![moment])?;
    }
    Ok(())
}
