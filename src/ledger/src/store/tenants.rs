//! Tenants and their accounts.

use super::handle::Store;
use super::row::{Cursor, Table, columns};
use super::sql::{Connection, Result, Row, params};
use crate::book::Accounts;
use crate::model::tenant::Tenant;
use crate::transaction::{Rows, Unavailable};
use protocol::TenantId;
use protocol::admin::Balance;
use std::collections::BTreeSet;

columns!(Tenant {
    fixed: id, created_at;
    changing: name, tier, suspended_at, budget, version;
});
columns!(Balance {
    fixed: ;
    changing: granted, available, pending, posted;
});
columns!(Holder { fixed: tenant_id; changing: ; });

/// The key of the accounts table.
struct Holder {
    tenant_id: TenantId,
}

const TENANTS: Table<Tenant> = Table::new("tenants", &["id"]);
const ACCOUNTS: Table<(Holder, Balance)> = Table::new("accounts", &["tenant_id"]);

fn select(more: &str) -> String {
    format!(
        "SELECT {}, {} FROM tenants JOIN accounts ON accounts.tenant_id = tenants.id WHERE {more}",
        TENANTS.columns(),
        ACCOUNTS.columns()
    )
}

fn read(row: &Row<'_>) -> Result<(Tenant, Accounts)> {
    let mut cursor = Cursor::new(row);
    let (tenant, (_, balance)) = (cursor.part()?, cursor.part::<(Holder, Balance)>()?);
    let accounts = Accounts::from_rows(balance).map_err(|why| cursor.broken(&why.to_string()))?;
    Ok((tenant, accounts))
}

pub(super) fn load(connection: &Connection, ids: &BTreeSet<TenantId>, rows: &mut Rows) -> Result<()> {
    let ids = ids.iter().map(TenantId::as_str);
    for (tenant, accounts) in connection.each(&select("tenants.id"), ids, read)? {
        rows.accounts.load(tenant.id.clone(), accounts);
        rows.tenants.load(tenant.id.clone(), tenant);
    }
    Ok(())
}

pub(super) fn save(connection: &Connection, rows: &Rows) -> Result<()> {
    TENANTS.put(connection, rows.tenants.dirty().into_iter().map(|(_, tenant)| tenant))?;
    let held: Vec<(Holder, Balance)> = rows
        .accounts
        .dirty()
        .into_iter()
        .map(|(id, accounts)| (Holder { tenant_id: id.clone() }, accounts.balance()))
        .collect();
    ACCOUNTS.put(connection, held.iter())
}

impl Store {
    /// One tenant with its accounts.
    pub async fn tenant(&self, id: TenantId) -> std::result::Result<Option<(Tenant, Accounts)>, Unavailable> {
        let read =
            move |connection: &Connection| connection.first(&select("tenants.id = ?"), &params![id], read);
        self.operators.read(read).await
    }

    /// Tenants, oldest first, after `after`.
    pub async fn tenants(
        &self,
        after: Option<TenantId>,
        limit: u32,
    ) -> std::result::Result<Vec<(Tenant, Accounts)>, Unavailable> {
        let page = move |connection: &Connection| {
            let after = after.as_ref().map_or("", TenantId::as_str);
            let select = select("tenants.id > ? ORDER BY tenants.id LIMIT ?");
            connection.all(&select, &params![after, limit], read)
        };
        self.operators.read(page).await
    }
}
