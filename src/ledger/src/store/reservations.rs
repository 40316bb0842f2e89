//! Reservations, and ids of reservations that were voided before they were created.

use super::handle::Store;
use super::row::{Column, Columns, Conditions, Cursor, Table, columns};
use super::sql::{Connection, Kind, Param, Result, ToParam, params};
use crate::book::{Request, Reservation, State};
use crate::transaction::{Needs, Rows, Unavailable};
use protocol::admin::ReservationState;
use protocol::{Credits, ReservationId, TenantId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

columns!(Request {
    fixed: id, tenant_id, key_id, service, tool, credits, overrun, ttl_seconds, policy_version;
    changing: ;
});
columns!(Reservation {
    fixed: reserved_at, available_after;
    changing: expires_at;
    nested: request, state;
});

/// The state's name, the cost and the charge.
impl Columns for State {
    fn columns() -> Vec<Column> {
        let column = |name, kind| Column { name, kind, changes: true };
        vec![column("state", Kind::Text), column("asked", Kind::Integer), column("charged", Kind::Integer)]
    }

    fn read(cursor: &mut Cursor<'_, '_>) -> Result<Self> {
        let state: String = cursor.value()?;
        let (asked, charged): (Option<Credits>, Option<Credits>) = (cursor.value()?, cursor.value()?);
        Ok(match (state.as_str(), asked, charged) {
            ("pending", None, None) => State::Pending,
            ("posted", Some(asked), Some(charged)) => State::Posted { asked, charged },
            ("voided", None, None) => State::Voided,
            ("expired", asked, Some(charged)) => State::Expired { asked, charged },
            // Earlier releases, which voided expired reservations, wrote no charge.
            ("expired", None, None) => State::Lapsed,
            _ => return Err(cursor.broken("the state contradicts the charge")),
        })
    }

    fn write<'v>(&'v self, values: &mut Vec<Param<'v>>) {
        let (asked, charged) = match self {
            State::Posted { asked, charged } => (asked.to_param(), charged.to_param()),
            State::Expired { asked, charged } => (asked.to_param(), charged.to_param()),
            State::Pending | State::Voided | State::Lapsed => (Param::Null, Param::Null),
        };
        values.extend([Param::text(self.name()), asked, charged]);
    }
}

const RESERVATIONS: Table<Reservation> = Table::new("reservations", &["id"]);
const GIVEN_UP: Table<GivenUp> = Table::new("reservations_given_up", &["id"]);

struct GivenUp {
    id: ReservationId,
    at: Timestamp,
}

columns!(GivenUp { fixed: id, at; changing: ; });

/// Which expired reservations to list.
#[derive(Debug, Clone, Default)]
pub struct ReservationFilter {
    /// Only this tenant's.
    pub tenant_id: Option<TenantId>,
    /// Only those in this state.
    pub state: Option<ReservationState>,
    /// Only those after this one.
    pub after: Option<ReservationId>,
    pub limit: u32,
}

/// Loads reservations, and collects their tenants.
pub(super) fn load(
    connection: &Connection,
    needs: &Needs,
    rows: &mut Rows,
    tenants: &mut BTreeSet<TenantId>,
) -> Result<()> {
    let mut found =
        RESERVATIONS.each(connection, "id", needs.reservations.iter().map(ReservationId::to_string))?;
    if let Some((now, limit)) = needs.due {
        let due = "WHERE state = 'pending' AND expires_at <= ? ORDER BY expires_at LIMIT ?";
        let due = RESERVATIONS.all(connection, due, &params![now, limit])?;
        rows.due.extend(due.iter().map(|reservation| reservation.request.id));
        found.extend(due);
    }
    for reservation in found {
        tenants.insert(reservation.request.tenant_id.clone());
        rows.reservations.load(reservation.request.id, reservation);
    }
    let missing = needs.reservations.iter().filter(|id| rows.reservations.get(id).is_none());
    for GivenUp { id, at } in GIVEN_UP.each(connection, "id", missing.map(ReservationId::to_string))? {
        rows.reservations_given_up.load(id, at);
    }
    Ok(())
}

pub(super) fn save(connection: &Connection, rows: &Rows) -> Result<()> {
    let given_up: Vec<GivenUp> =
        rows.reservations_given_up.dirty().into_iter().map(|(id, at)| GivenUp { id: *id, at: *at }).collect();
    GIVEN_UP.put(connection, given_up.iter())?;
    if let Some(moment) = rows.forget_ended_before {
        connection.execute("DELETE FROM reservations_given_up WHERE at < ?", &params![moment])?;
    }
    RESERVATIONS.put(connection, rows.reservations.dirty().into_iter().map(|(_, reservation)| reservation))
}

/// Lists expired reservations, which have their own index.
fn list(connection: &Connection, filter: &ReservationFilter) -> Result<Vec<Reservation>> {
    let after = filter.after.as_ref().map(ReservationId::to_string).unwrap_or_default();
    // Must match `Reservation::shown`.
    let state = match filter.state {
        None => "TRUE",
        Some(ReservationState::Unaccounted) => "asked IS NULL AND charged > 0",
        Some(ReservationState::Corrected) => "(asked IS NOT NULL OR charged = 0)",
        Some(ReservationState::Returned) => "asked IS NULL AND charged IS NULL",
    };
    let (page, params) = Conditions::new("state = 'expired' AND id > ?", Param::Text(after.into()))
        .and_if("tenant_id = ?", &filter.tenant_id)
        .and(state, [])
        .page("ORDER BY id LIMIT ?", filter.limit);
    RESERVATIONS.all(connection, &page, &params)
}

impl Store {
    /// How many reservations are pending, by service and tool.
    pub async fn pending_by_tool(&self) -> std::result::Result<BTreeMap<(String, String), u64>, Unavailable> {
        let select =
            "SELECT service, tool, count(*) FROM reservations WHERE state = 'pending' GROUP BY service, tool";
        let read = |connection: &Connection| {
            connection.all(select, &[], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))
        };
        self.operators.read(read).await.map(BTreeMap::from_iter)
    }

    /// Expired reservations, by id.
    pub async fn reservations(
        &self,
        filter: ReservationFilter,
    ) -> std::result::Result<Vec<Reservation>, Unavailable> {
        self.operators.read(move |connection| list(connection, &filter)).await
    }
}
