//! Sums of decisions, and reports on them.

use super::handle::Store;
use super::row::{Conditions, Table, columns};
use super::sql::{Connection, Param, Result, Row};
use crate::model::latency::{BUCKETS_MAX, Histogram};
use crate::model::usage::{UsageKey, UsageSum};
use crate::transaction::{HOUR_MILLIS, Rows, Unavailable};
use protocol::admin::{ShadowRow, UsageRow, UsageTokenSums};
use protocol::audit::Outcome;
use protocol::{AgentId, Credits, KeyId, TenantId, Timestamp};

columns!(UsageKey { fixed: hour, tenant_id, key_id, agent_id, tool, outcome, would_deny, bucket; changing: ; });
columns!(UsageSum { fixed: ; changing: calls, credits, input_usage_tokens, output_usage_tokens; });

const USAGE: Table<(UsageKey, UsageSum)> = Table::new("usage", &[]);

/// Which decisions to sum, and into which groups.
#[derive(Debug, Clone, Default)]
pub struct UsageQuery {
    /// Group by tenant.
    pub by_tenant: bool,
    /// Group by key.
    pub by_key: bool,
    /// Group by agent.
    pub by_agent: bool,
    /// Group by tool.
    pub by_tool: bool,
    /// Group by outcome.
    pub by_outcome: bool,
    /// Only this tenant's.
    pub tenant_id: Option<TenantId>,
    /// Only this key's.
    pub key_id: Option<KeyId>,
    /// Only this agent's.
    pub agent_id: Option<AgentId>,
    /// Only of this tool.
    pub tool: Option<String>,
    /// Only with this outcome.
    pub outcome: Option<protocol::audit::Outcome>,
    /// Only hours that end after this.
    pub from: Option<Timestamp>,
    /// Only hours that begin before this.
    pub to: Option<Timestamp>,
    /// Only groups after this one.
    pub after: Option<Group>,
    /// Most groups in the answer.
    pub limit: u32,
}

/// The values that a sum is grouped by. A page begins after the last group of the page before.
pub type Group = Vec<String>;

/// Number of texts in a group of usage.
pub const USAGE_TEXTS: usize = 5;
/// Number of texts in a group of the shadow report.
pub const SHADOW_TEXTS: usize = 3;

/// Adds to a column of sums, and stops at the largest integer: an overflow would fail the whole transaction.
macro_rules! added {
    ($column:literal) => {
        concat!(
            $column,
            " = CASE WHEN usage.",
            $column,
            " > 9223372036854775807 - excluded.",
            $column,
            " THEN 9223372036854775807 ELSE usage.",
            $column,
            " + excluded.",
            $column,
            " END"
        )
    };
}

const ADDED: &str = concat!(
    "ON CONFLICT (hour, tenant_id, key_id, agent_id, tool, outcome, would_deny, bucket) DO UPDATE SET ",
    added!("calls"),
    ", ",
    added!("credits"),
    ", ",
    added!("input_usage_tokens"),
    ", ",
    added!("output_usage_tokens")
);

pub(super) fn save(connection: &Connection, rows: &Rows) -> Result<()> {
    USAGE.put_or(connection, ADDED, rows.usage.iter())
}

/// The conditions of a query.
fn asked(query: &UsageQuery) -> Conditions<'_> {
    // An hour belongs to the period in which it begins, so that adjacent periods don't overlap.
    let hour = |moment: Timestamp| Rows::usage_hour(moment.plus_millis(HOUR_MILLIS.saturating_sub(1)));
    let (first, end) = (query.from.map_or(0, hour), query.to.map_or(u64::MAX, hour));
    Conditions::new("hour >= ?", Param::number(first))
        .and("hour < ?", [Param::number(end)])
        .and_if("tenant_id = ?", &query.tenant_id)
        .and_if("key_id = ?", &query.key_id)
        .and_if("agent_id = ?", &query.agent_id)
        .and_if("tool = ?", &query.tool)
        .and_if("outcome = ?", &query.outcome)
}

/// A sum that overflows in neither database: capped at the largest credits, and exact below, because a double holds
/// integers of up to 53 bits.
fn sum(of: &str) -> String {
    let (sum, most) = (format!("sum(CAST({of} AS DOUBLE PRECISION))"), Credits::MAX);
    format!("CAST(CASE WHEN {sum} < {most} THEN {sum} ELSE {most} END AS BIGINT)")
}

/// The conditions of a query, after the last group of the page before.
fn on_page<'q>(columns: &str, query: &'q UsageQuery) -> Conditions<'q> {
    let conditions = asked(query);
    let Some(after) = &query.after else { return conditions };
    let places = vec!["?"; after.len()].join(", ");
    conditions.and(&format!("({columns}) > ({places})"), after.iter().map(|text| Param::text(text)))
}

/// The group of a row: its first columns.
fn group(row: &Row<'_>, texts: usize) -> Result<Group> {
    (0..texts).map(|column| row.get(column)).collect()
}

fn usage(connection: &Connection, query: &UsageQuery) -> Result<Vec<(Group, UsageRow)>> {
    let columns: [(bool, &str); USAGE_TEXTS] = [
        (query.by_tenant, "tenant_id"),
        (query.by_key, "key_id"),
        (query.by_agent, "agent_id"),
        (query.by_tool, "tool"),
        (query.by_outcome, "outcome"),
    ];
    let names: String =
        columns.iter().filter(|(grouped, _)| *grouped).map(|(_, name)| format!("{name}, ")).collect();
    let columns = columns.map(|(grouped, name)| if grouped { name } else { "''" }).join(", ");
    let rows_max = query.limit.saturating_mul(BUCKETS_MAX);
    let allowed = "CASE outcome WHEN 'allowed' THEN calls ELSE 0 END";
    let sums = ["calls", allowed, "credits", "input_usage_tokens", "output_usage_tokens"].map(sum).join(", ");
    let order = format!("GROUP BY {names}bucket ORDER BY {names}bucket LIMIT ?");
    let (page, params) = on_page(&columns, query).page(&order, rows_max);
    let select = format!("SELECT {columns}, bucket, {sums} FROM usage {page}");
    // One row for each group and bucket, sorted by group: one pass over the table. There are enough rows for all groups of
    // the page; incomplete groups after them are left out.
    let mut sums: Vec<(Group, UsageRow, Histogram)> = Vec::new();
    connection.for_each(&select, &params, |row| {
        let group = group(row, USAGE_TEXTS)?;
        if sums.last().is_none_or(|(last, ..)| *last != group) {
            sums.push((group, usage_of_group(row)?, Histogram::default()));
        }
        if let Some((_, sum, histogram)) = sums.last_mut() {
            let (bucket, calls): (u32, u64) = (row.get(5)?, row.get(6)?);
            sum.calls = sum.calls.saturating_add(calls);
            sum.allowed = sum.allowed.saturating_add(row.get(7)?);
            sum.credits = sum_of_credits(sum.credits.get().saturating_add(row.get(8)?));
            sum.usage_tokens.input = sum.usage_tokens.input.saturating_add(row.get(9)?);
            sum.usage_tokens.output = sum.usage_tokens.output.saturating_add(row.get(10)?);
            histogram.add(bucket, calls);
        }
        Ok(())
    })?;
    let finished = |(group, row, histogram): (Group, UsageRow, Histogram)| {
        (group, UsageRow { latency_ms: histogram.percentiles(), ..row })
    };
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    Ok(sums.into_iter().take(limit).map(finished).collect())
}

/// An empty sum for the group of a row.
fn usage_of_group(row: &Row<'_>) -> Result<UsageRow> {
    let named = |column: usize| -> Result<Option<String>> {
        Ok(Some(row.get::<String>(column)?).filter(|text| !text.is_empty()))
    };
    Ok(UsageRow {
        tenant_id: named(0)?.and_then(|id| TenantId::parse(&id).ok()),
        key_id: named(1)?.and_then(|id| KeyId::parse(&id).ok()),
        agent_id: named(2)?.and_then(|id| AgentId::parse(&id).ok()),
        tool: named(3)?,
        outcome: named(4)?.as_deref().and_then(outcome),
        calls: 0,
        allowed: 0,
        credits: sum_of_credits(0),
        usage_tokens: UsageTokenSums::default(),
        latency_ms: None,
    })
}

fn shadow(connection: &Connection, query: &UsageQuery) -> Result<Vec<(Group, ShadowRow)>> {
    let columns = "would_deny, tenant_id, tool";
    let order = format!("GROUP BY {columns} ORDER BY {columns} LIMIT ?");
    let (page, params) = on_page(columns, query).and("would_deny <> ''", []).page(&order, query.limit);
    let (calls, charged) = (sum("calls"), sum("credits"));
    let select = format!("SELECT {columns}, {calls}, {charged} FROM usage {page}");
    connection.all(&select, &params, |row| {
        let sums = ShadowRow {
            would_deny: row.get(0)?,
            tenant_id: TenantId::parse(&row.get::<String>(1)?).ok(),
            tool: Some(row.get::<String>(2)?).filter(|tool| !tool.is_empty()),
            calls: row.get(3)?,
            credits: sum_of_credits(row.get(4)?),
        };
        Ok((group(row, SHADOW_TEXTS)?, sums))
    })
}

impl Store {
    /// Sums of decisions, ordered by group.
    pub async fn usage(&self, query: UsageQuery) -> std::result::Result<Vec<(Group, UsageRow)>, Unavailable> {
        self.reports.read(move |connection| usage(connection, &query)).await
    }

    /// What shadow rules would have refused, ordered by group.
    pub async fn shadow(
        &self,
        query: UsageQuery,
    ) -> std::result::Result<Vec<(Group, ShadowRow)>, Unavailable> {
        self.reports.read(move |connection| shadow(connection, &query)).await
    }
}

/// Credits from a sum, at most [`Credits::MAX`].
fn sum_of_credits(sum: u64) -> Credits {
    Credits::new(sum).unwrap_or(Credits::MAX)
}

fn outcome(name: &str) -> Option<Outcome> {
    Outcome::ALL.into_iter().find(|outcome| outcome.as_str() == name)
}
