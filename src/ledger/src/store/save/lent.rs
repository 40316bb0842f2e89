//! Writes what is out in Envoys' hands: leases of credits and shares of limits.

use super::{integer, integer_or_null};
use crate::store::Rows;
use crate::store::sql::{Connection, Insert, Kind, Param, Result, params};

const LEASES: Insert<'_> = Insert {
    table: "leases",
    columns: &[
        ("id", Kind::Text),
        ("tenant_id", Kind::Text),
        ("instance", Kind::Text),
        ("envoy", Kind::Text),
        ("granted", Kind::Integer),
        ("spent", Kind::Integer),
        ("revision", Kind::Integer),
        ("state", Kind::Text),
        ("opened_at", Kind::Integer),
        ("renewed_at", Kind::Integer),
        ("expires_at", Kind::Integer),
        ("recalled_at", Kind::Integer),
    ],
    conflict: "ON CONFLICT (id) DO UPDATE SET spent = excluded.spent, revision = excluded.revision, \
               state = excluded.state, renewed_at = excluded.renewed_at, expires_at = excluded.expires_at, \
               recalled_at = excluded.recalled_at",
};

const GIVEN_UP: Insert<'_> = Insert {
    table: "leases_given_up",
    columns: &[("id", Kind::Text), ("at", Kind::Integer)],
    conflict: "ON CONFLICT (id) DO NOTHING",
};

const SHARES: Insert<'_> = Insert {
    table: "shares",
    columns: &[
        ("key_id", Kind::Text),
        ("limit_id", Kind::Integer),
        ("instance", Kind::Text),
        ("permits", Kind::Integer),
        ("revision", Kind::Integer),
        ("window_seconds", Kind::Integer),
        ("renewed_at", Kind::Integer),
        ("expires_at", Kind::Integer),
        ("called_at", Kind::Integer),
    ],
    conflict: "ON CONFLICT (key_id, limit_id, instance) DO UPDATE SET permits = excluded.permits, \
               revision = excluded.revision, window_seconds = excluded.window_seconds, \
               renewed_at = excluded.renewed_at, expires_at = excluded.expires_at, called_at = excluded.called_at",
};

pub(super) fn save(connection: &Connection, rows: &Rows) -> Result<()> {
    let leases = rows.leases.dirty();
    connection.insert(
        &LEASES,
        leases.iter().map(|(id, lease, _)| {
            [
                Param::Text(id.as_str()),
                Param::Text(lease.tenant_id.as_str()),
                Param::Text(lease.instance.as_str()),
                Param::Text(&lease.envoy),
                integer(lease.granted.get()),
                integer(lease.spent.get()),
                integer_or_null(lease.revision),
                Param::Text(lease.state.as_str()),
                integer(lease.opened_at.as_millis()),
                integer(lease.renewed_at.as_millis()),
                integer(lease.expires_at.as_millis()),
                integer_or_null(lease.recalled_at.map(|moment| moment.as_millis())),
            ]
        }),
    )?;
    let given_up = rows.leases_given_up.dirty();
    connection.insert(
        &GIVEN_UP,
        given_up.iter().map(|(id, at, _)| [Param::Text(id.as_str()), integer(at.as_millis())]),
    )?;
    let shares = rows.shares.dirty();
    connection.insert(
        &SHARES,
        shares.iter().map(|(at, share, _)| {
            [
                Param::Text(at.key_id.as_str()),
                integer(at.limit_id.into()),
                Param::Text(at.instance.as_str()),
                integer(share.permits.into()),
                integer(share.revision),
                integer(share.window_seconds.into()),
                integer(share.renewed_at.as_millis()),
                integer(share.expires_at.as_millis()),
                integer_or_null(share.called_at.map(|moment| moment.as_millis())),
            ]
        }),
    )?;
    if let Some(moment) = rows.forget_ended_before {
        connection.execute("DELETE FROM shares WHERE expires_at < ?", &params![moment.as_millis()])?;
        connection.execute("DELETE FROM leases_given_up WHERE at < ?", &params![moment.as_millis()])?;
    }
    Ok(())
}
