//! Session secrets.

use super::handle::Store;
use super::sql::{Connection, Result, Row, params};
use crate::transaction::{Needs, Rows, Unavailable};
use protocol::session::SessionSecret;

/// Oldest first.
const SELECT: &str = "SELECT number, secret, signs_from FROM session_secrets ORDER BY number";

fn read(row: &Row<'_>) -> Result<(u64, SessionSecret)> {
    Ok((row.get(0)?, SessionSecret::new(row.get(1)?, row.get(2)?)))
}

pub(super) fn load(connection: &Connection, needs: &Needs, rows: &mut Rows) -> Result<()> {
    if needs.session_secrets {
        rows.session_secrets.extend(connection.all(SELECT, &[], read)?);
    }
    Ok(())
}

pub(super) fn save(connection: &Connection, rows: &Rows) -> Result<()> {
    for (number, secret) in &rows.new_session_secrets {
        let insert = "INSERT INTO session_secrets (number, secret, signs_from) VALUES (?, ?, ?)";
        connection.execute(insert, &params![number, secret.bytes(), secret.signs_from])?;
    }
    for number in &rows.forget_session_secrets {
        connection.execute("DELETE FROM session_secrets WHERE number = ?", &params![number])?;
    }
    Ok(())
}

impl Store {
    /// Session secrets, oldest first.
    pub async fn session_secrets(&self) -> std::result::Result<Vec<SessionSecret>, Unavailable> {
        self.filters.read(|connection| connection.all(SELECT, &[], |row| Ok(read(row)?.1))).await
    }
}
