//! Monthly sums of spending.

use super::handle::Store;
use super::row::{Column, Columns, Cursor, Table};
use super::sql::{Connection, Kind, Param, Result, ToParam, params};
use crate::model::spending::SpendingKey;
use crate::transaction::{Needs, Rows, Unavailable};
use protocol::{Credits, KeyId, TenantId};
use std::collections::BTreeSet;

const SPENDING: Table<(SpendingKey, Spent)> = Table::new("spending", &["tenant_id", "key_id", "month"]);
const AT: &str = "WHERE tenant_id = ? AND key_id = ? AND month = ?";

struct Spent {
    credits: Credits,
}

super::row::columns!(Spent { fixed: ; changing: credits; });

/// A tenant's total has an empty key id, because a primary key can't be null.
impl Columns for SpendingKey {
    fn columns() -> Vec<Column> {
        let column = |name, kind| Column { name, kind, changes: false };
        vec![column("tenant_id", Kind::Text), column("key_id", Kind::Text), column("month", Kind::Integer)]
    }

    fn read(cursor: &mut Cursor<'_, '_>) -> Result<Self> {
        let (tenant_id, key_id, month) = (cursor.value()?, cursor.value::<String>()?, cursor.value()?);
        let key_id = Some(key_id).filter(|id| !id.is_empty()).map(KeyId::try_from).transpose();
        let key_id = key_id.map_err(|why| cursor.broken(&why.to_string()))?;
        Ok(SpendingKey { tenant_id, key_id, month })
    }

    fn write<'v>(&'v self, values: &mut Vec<Param<'v>>) {
        let key_id = self.key_id.as_ref().map_or("", KeyId::as_str);
        values.extend([self.tenant_id.to_param(), Param::text(key_id), self.month.to_param()]);
    }
}

fn spent(connection: &Connection, at: &SpendingKey) -> Result<Option<Credits>> {
    let mut params = Vec::new();
    at.write(&mut params);
    Ok(SPENDING.first(connection, AT, &params)?.map(|(_, spent)| spent.credits))
}

/// Loads the sums that the operations need, including those of loaded reservations and leases.
pub(super) fn load(connection: &Connection, needs: &Needs, rows: &mut Rows) -> Result<()> {
    let mut wanted: BTreeSet<SpendingKey> = BTreeSet::new();
    let of_tenant =
        |tenant_id: &TenantId, month| SpendingKey { tenant_id: tenant_id.clone(), key_id: None, month };
    let mut want = |tenant_id: &TenantId, key_id: &KeyId, month| {
        let parent_id = rows.parents.get(key_id);
        for key_id in [Some(key_id), parent_id].into_iter().flatten() {
            wanted.insert(SpendingKey { key_id: Some(key_id.clone()), ..of_tenant(tenant_id, month) });
        }
        wanted.insert(of_tenant(tenant_id, month));
    };
    for (key_id, month) in &needs.spending {
        if let Some(key) = rows.keys.get(key_id) {
            want(&key.tenant_id, key_id, *month);
        }
    }
    for (_, reservation) in rows.reservations.rows() {
        let request = &reservation.request;
        want(&request.tenant_id, &request.key_id, reservation.reserved_at.month());
    }
    wanted.extend(needs.spending_of.iter().map(|(tenant_id, month)| of_tenant(tenant_id, *month)));
    for (tenant_id, month) in &needs.spending_by_key {
        wanted.insert(of_tenant(tenant_id, *month));
        let all = "WHERE month = ? AND key_id <> '' AND tenant_id = ?";
        let keys = SPENDING.all(connection, all, &params![month, tenant_id])?;
        wanted.extend(keys.into_iter().map(|(at, _)| at));
    }
    wanted.extend(rows.leases.rows().map(|(_, lease)| of_tenant(&lease.tenant_id, lease.opened_at.month())));
    for at in wanted {
        if let Some(credits) = spent(connection, &at)? {
            rows.spending.load(at, credits);
        }
    }
    Ok(())
}

pub(super) fn save(connection: &Connection, rows: &Rows) -> Result<()> {
    let dirty: Vec<(&SpendingKey, Spent)> =
        rows.spending.dirty().into_iter().map(|(at, credits)| (at, Spent { credits: *credits })).collect();
    SPENDING.put(connection, dirty.iter().map(|(at, spent)| (*at, spent)))
}

impl Store {
    /// What a tenant, or one of its keys, spent in a month.
    pub async fn spent(&self, at: SpendingKey) -> std::result::Result<Credits, Unavailable> {
        self.operators.read(move |connection| Ok(spent(connection, &at)?.unwrap_or_default())).await
    }
}
