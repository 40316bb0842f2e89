//! All policies that were ever in force.

use super::handle::Store;
use super::sql::{Connection, Result, params};
use crate::transaction::{Needs, Rows, Unavailable};
use protocol::PolicyVersion;

pub(super) fn load(connection: &Connection, needs: &Needs, rows: &mut Rows) -> Result<()> {
    if needs.policy {
        let newest = "SELECT version FROM policies ORDER BY sequence DESC LIMIT 1";
        rows.policy = connection.first(newest, &[], |row| row.get(0))?;
    }
    Ok(())
}

pub(super) fn save(connection: &Connection, rows: &Rows) -> Result<()> {
    for (version, document, in_force_at) in &rows.policies {
        let insert = "INSERT INTO policies (version, in_force_at, document) VALUES (?, ?, ?)";
        connection.execute(insert, &params![version, in_force_at, document])?;
    }
    Ok(())
}

impl Store {
    /// The policy in force, version and document, unless it is this one.
    pub async fn policy_other_than(
        &self,
        known: PolicyVersion,
    ) -> std::result::Result<Option<(PolicyVersion, String)>, Unavailable> {
        let select = "SELECT version, document FROM policies \
                      WHERE sequence = (SELECT max(sequence) FROM policies) AND version <> ?";
        let other = move |connection: &Connection| {
            connection.first(select, &params![known], |row| Ok((row.get(0)?, row.get(1)?)))
        };
        self.filters.read(other).await
    }

    /// Whether this policy was ever in force.
    pub async fn knows_policy(&self, version: PolicyVersion) -> std::result::Result<bool, Unavailable> {
        let select = "SELECT sequence FROM policies WHERE version = ? LIMIT 1";
        let known = move |connection: &Connection| {
            Ok(connection.first(select, &params![version], |_| Ok(()))?.is_some())
        };
        self.filters.read(known).await
    }
}
