//! The invariants ("laws") of money and audit, as queries on the rows. The operations uphold them; these queries check them
//! after a ledger was moved, for `agentrelay check`, and in tests.

use super::sql::{Connection, Result};

/// Each law with a query for a row that breaks it.
const LAWS: [(&str, &str); 6] = [
    (
        "a tenant's granted credits are the sum of available, pending and posted, and none is below zero",
        "SELECT tenant_id FROM accounts WHERE granted <> available + pending + posted \
         OR available < 0 OR pending < 0 OR posted < 0 LIMIT 1",
    ),
    (
        "a tenant's accounts are the sums of its transfers",
        "SELECT accounts.tenant_id FROM accounts LEFT JOIN ( \
           SELECT tenant_id, \
             sum(CASE 'issuer' WHEN from_account THEN credits WHEN to_account THEN -credits ELSE 0 END) AS granted, \
             sum(CASE 'available' WHEN to_account THEN credits WHEN from_account THEN -credits ELSE 0 END) AS available, \
             sum(CASE 'pending' WHEN to_account THEN credits WHEN from_account THEN -credits ELSE 0 END) AS pending, \
             sum(CASE 'posted' WHEN to_account THEN credits WHEN from_account THEN -credits ELSE 0 END) AS posted \
           FROM transfers GROUP BY tenant_id) AS sums ON sums.tenant_id = accounts.tenant_id \
         WHERE accounts.granted <> coalesce(sums.granted, 0) OR accounts.available <> coalesce(sums.available, 0) \
         OR accounts.pending <> coalesce(sums.pending, 0) OR accounts.posted <> coalesce(sums.posted, 0) LIMIT 1",
    ),
    (
        "pending credits are those of pending reservations and open leases",
        "SELECT accounts.tenant_id FROM accounts LEFT JOIN ( \
           SELECT tenant_id, sum(credits) AS held FROM reservations WHERE state = 'pending' GROUP BY tenant_id \
         ) AS reserved ON reserved.tenant_id = accounts.tenant_id LEFT JOIN ( \
           SELECT tenant_id, sum(granted - spent) AS held FROM leases WHERE state = 'open' GROUP BY tenant_id \
         ) AS leased ON leased.tenant_id = accounts.tenant_id \
         WHERE accounts.pending <> coalesce(reserved.held, 0) + coalesce(leased.held, 0) LIMIT 1",
    ),
    (
        "a lease has one transfer of its credits, and what was spent of it, or lost, equals what moved to posted",
        "SELECT leases.id FROM leases LEFT JOIN ( \
           SELECT lease_id, sum(CASE kind WHEN 'lease' THEN 1 ELSE 0 END) AS times, \
             sum(CASE kind WHEN 'lease' THEN credits ELSE 0 END) AS granted, \
             sum(CASE 'posted' WHEN to_account THEN credits WHEN from_account THEN -credits ELSE 0 END) AS charged \
           FROM transfers WHERE lease_id IS NOT NULL GROUP BY lease_id \
         ) AS sums ON sums.lease_id = leases.id \
         WHERE coalesce(sums.times, 0) <> 1 OR sums.granted <> leases.granted \
         OR sums.charged <> CASE leases.state WHEN 'lost' THEN leases.granted ELSE leases.spent END LIMIT 1",
    ),
    (
        "a reservation has one transfer of its credits, and its charge equals what moved to posted",
        "SELECT reservations.id FROM reservations LEFT JOIN ( \
           SELECT reservation_id, sum(CASE kind WHEN 'reserve' THEN 1 ELSE 0 END) AS times, \
             sum(CASE kind WHEN 'reserve' THEN credits ELSE 0 END) AS reserved, \
             sum(CASE 'posted' WHEN to_account THEN credits WHEN from_account THEN -credits ELSE 0 END) AS charged \
           FROM transfers WHERE reservation_id IS NOT NULL GROUP BY reservation_id \
         ) AS sums ON sums.reservation_id = reservations.id \
         WHERE coalesce(sums.times, 0) <> 1 OR sums.reserved <> reservations.credits \
         OR sums.charged <> coalesce(reservations.charged, 0) LIMIT 1",
    ),
    (
        "the audit trail has no gap",
        "SELECT CAST(gap AS TEXT) FROM ( \
           SELECT coalesce(max(sequence) - min(sequence) + 1, 0) - count(*) AS gap FROM audit \
         ) AS sums WHERE gap <> 0",
    ),
];

/// The broken laws, each with the first row that breaks it. Reads every row.
#[cfg(test)]
pub fn broken(connection: &Connection) -> Result<Vec<String>> {
    connection.long_snapshot(broken_in_transaction)
}

/// The broken laws, each with the first row that breaks it, in an open transaction. Reads every row.
pub fn broken_in_transaction(connection: &Connection) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for (law, question) in LAWS {
        if let Some(row) = connection.first(question, &[], |row| row.get::<String>(0))? {
            broken.push(format!("{law}: {row} breaks this"));
        }
    }
    Ok(broken)
}
