//! The journal of transfers.

use super::row::{Table, columns};
use super::sql::{Connection, Result};
use crate::transaction::{JournalLine, Rows};
use protocol::{Credits, LeaseId, ReservationId, TenantId, Timestamp, TransferId};

const TRANSFERS: Table<Line> = Table::new("transfers", &[]);

/// A transfer as stored.
struct Line {
    id: Option<TransferId>,
    tenant_id: TenantId,
    reservation_id: Option<ReservationId>,
    lease_id: Option<LeaseId>,
    kind: String,
    from_account: String,
    to_account: String,
    credits: Credits,
    at: Timestamp,
}

columns!(Line {
    fixed: id, tenant_id, reservation_id, lease_id, kind, from_account, to_account, credits, at;
    changing: ;
});

impl From<&JournalLine> for Line {
    fn from(line: &JournalLine) -> Line {
        let JournalLine { transfer, tenant_id, reservation_id, lease_id, id } = line;
        let (from, to) = transfer.kind.route();
        Line {
            id: id.clone(),
            tenant_id: tenant_id.clone(),
            reservation_id: *reservation_id,
            lease_id: *lease_id,
            kind: transfer.kind.as_str().to_owned(),
            from_account: from.as_str().to_owned(),
            to_account: to.as_str().to_owned(),
            credits: transfer.credits,
            at: transfer.at,
        }
    }
}

pub(super) fn save(connection: &Connection, rows: &Rows) -> Result<()> {
    let lines: Vec<Line> = rows.journal.iter().map(Line::from).collect();
    TRANSFERS.put(connection, lines.iter())
}
