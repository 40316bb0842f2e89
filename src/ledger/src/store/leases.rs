//! Leases of credits, and ids of leases that were closed before they were opened.

use super::handle::Store;
use super::row::{Conditions, Table, columns};
use super::sql::{Connection, Param, Result, params};
use crate::book::lease::Lease;
use crate::transaction::{Needs, Rows, Unavailable};
use protocol::admin::LeaseState;
use protocol::{LeaseId, TenantId, Timestamp};
use std::collections::BTreeSet;

columns!(Lease {
    fixed: id, tenant_id, instance, envoy, granted, opened_at;
    changing: spent, revision, state, renewed_at, expires_at, recalled_at;
});

const LEASES: Table<Lease> = Table::new("leases", &["id"]);
const GIVEN_UP: Table<GivenUp> = Table::new("leases_given_up", &["id"]);

struct GivenUp {
    id: LeaseId,
    at: Timestamp,
}

columns!(GivenUp { fixed: id, at; changing: ; });

/// Which leases to list.
#[derive(Debug, Clone, Default)]
pub struct LeaseFilter {
    /// Only this tenant's.
    pub tenant_id: Option<TenantId>,
    /// Only those in this state.
    pub state: Option<LeaseState>,
    /// Only those after this one.
    pub after: Option<LeaseId>,
    pub limit: u32,
}

/// Loads leases, and collects their tenants. Keys must be loaded before.
pub(super) fn load(
    connection: &Connection,
    needs: &Needs,
    rows: &mut Rows,
    tenants: &mut BTreeSet<TenantId>,
) -> Result<()> {
    let mut found = LEASES.each(connection, "id", needs.leases.iter().map(LeaseId::to_string))?;
    let mut of = needs.leases_of.clone();
    of.extend(needs.leases_of_keys.iter().filter_map(|id| Some(rows.keys.get(id)?.tenant_id.clone())));
    found.extend(LEASES.each(connection, "state = 'open' AND tenant_id", of.iter().map(TenantId::as_str))?);
    if let Some((now, limit)) = needs.leases_due {
        let due = "WHERE state = 'open' AND expires_at <= ? ORDER BY expires_at LIMIT ?";
        let due = LEASES.all(connection, due, &params![now, limit])?;
        rows.leases_due.extend(due.iter().map(|lease| lease.id));
        found.extend(due);
    }
    for lease in found {
        tenants.insert(lease.tenant_id.clone());
        rows.load_lease(lease);
    }
    for GivenUp { id, at } in GIVEN_UP.each(connection, "id", needs.leases.iter().map(LeaseId::to_string))? {
        rows.leases_given_up.load(id, at);
    }
    tenants.extend(needs.leases_of.iter().cloned());
    Ok(())
}

pub(super) fn save(connection: &Connection, rows: &Rows) -> Result<()> {
    LEASES.put(connection, rows.leases.dirty().into_iter().map(|(_, lease)| lease))?;
    let given_up: Vec<GivenUp> =
        rows.leases_given_up.dirty().into_iter().map(|(id, at)| GivenUp { id: *id, at: *at }).collect();
    GIVEN_UP.put(connection, given_up.iter())?;
    if let Some(moment) = rows.forget_ended_before {
        connection.execute("DELETE FROM leases_given_up WHERE at < ?", &params![moment])?;
    }
    Ok(())
}

impl Store {
    /// How many leases are open.
    pub async fn open_leases(&self) -> std::result::Result<u64, Unavailable> {
        let select = "SELECT count(*) FROM leases WHERE state = 'open'";
        let read = |connection: &Connection| connection.first(select, &[], |row| row.get(0));
        self.operators.read(read).await.map(Option::unwrap_or_default)
    }

    /// Leases, by id.
    pub async fn leases(&self, filter: LeaseFilter) -> std::result::Result<Vec<Lease>, Unavailable> {
        let list = move |connection: &Connection| {
            let after = filter.after.as_ref().map(LeaseId::to_string).unwrap_or_default();
            let (page, params) = Conditions::new("id > ?", Param::Text(after.into()))
                .and_if("tenant_id = ?", &filter.tenant_id)
                .and_if("state = ?", &filter.state)
                .page("ORDER BY id LIMIT ?", filter.limit);
            LEASES.all(connection, &page, &params)
        };
        self.operators.read(list).await
    }

    /// How many leases are open, and the credits that they hold.
    pub async fn open_lease_totals(&self) -> std::result::Result<(u64, u64), Unavailable> {
        let select = "SELECT count(*), CAST(coalesce(sum(granted - spent), 0) AS BIGINT) FROM leases \
                      WHERE state = 'open'";
        let totals = move |connection: &Connection| {
            let totals = connection.first(select, &[], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(totals.unwrap_or_default())
        };
        self.operators.read(totals).await
    }
}
