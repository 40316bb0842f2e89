//! Generates rows of usage for tests and benchmarks, as the ledger would write them.

use super::open::{OpenError, connect};
use super::sql::{Result, params};
use crate::store::database::Database;
use crate::transaction::Rows;
use protocol::{KeyId, TenantId, Timestamp};

/// Rows of one statement: 20 hours, of which each has 1500 rows of a tenant, for 50 keys, 5 tools and 6 latencies.
const AT_ONCE: u64 = 30_000;

/// Adds at least `rows` rows before `until`, the same number for each tenant. The ids of keys are the given one with other
/// last two characters. Blocks.
pub fn fill_usage(
    database: &Database,
    payers: &[(TenantId, KeyId)],
    rows: u64,
    until: Timestamp,
) -> std::result::Result<(), OpenError> {
    let connection = connect(database)?;
    let each = rows.checked_div(u64::try_from(payers.len()).unwrap_or(1)).unwrap_or_default();
    let newest = Rows::usage_hour(until).saturating_sub(1);
    let insert = "INSERT INTO usage (hour, tenant_id, key_id, agent_id, tool, outcome, would_deny, bucket, calls, \
         credits, input_usage_tokens, output_usage_tokens) \
         WITH RECURSIVE numbers (n) AS ( \
           SELECT CAST(?1 AS BIGINT) UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < CAST(?2 AS BIGINT)) \
         SELECT CAST(?3 AS BIGINT) - n / 1500, CAST(?4 AS TEXT), \
           CAST(?5 AS TEXT) || substr(CAST(100 + n % 50 AS TEXT), 2), '', \
           'tool_' || CAST(n / 50 % 5 AS TEXT), 'allowed', '', 4 + n / 250 % 6, 1 + n % 7, 2 + n % 11, n % 900, n % 300 \
         FROM numbers";
    let mut first = 0u64;
    while first < each {
        let end = first.saturating_add(AT_ONCE);
        connection.write(|connection| -> Result<()> {
            for (tenant, key) in payers {
                let begins = key.as_str().get(..key.as_str().len().saturating_sub(2)).unwrap_or_default();
                connection.execute(insert, &params![first, end, newest, tenant.as_str(), begins])?;
            }
            Ok(())
        })?;
        first = end;
    }
    // The databases do this by themselves after a while.
    Ok(connection.batch("ANALYZE usage")?)
}
