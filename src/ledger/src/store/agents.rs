//! Agents.

use super::handle::Store;
use super::row::{Conditions, Table, columns};
use super::sql::{Connection, Param, Result};
use crate::transaction::{Needs, Rows, Unavailable};
use protocol::admin::Agent;
use protocol::{AgentId, TenantId};

columns!(Agent { fixed: id, tenant_id, name, created_at; changing: ; });

const AGENTS: Table<Agent> = Table::new("agents", &[]);

/// Which agents to list.
#[derive(Debug, Clone, Default)]
pub struct AgentFilter {
    /// Only this tenant's.
    pub tenant_id: Option<TenantId>,
    /// Only this one.
    pub id: Option<AgentId>,
    /// Only those registered after this one.
    pub after: Option<AgentId>,
    pub limit: u32,
}

pub(super) fn load(connection: &Connection, needs: &Needs, rows: &mut Rows) -> Result<()> {
    for agent in AGENTS.each(connection, "id", needs.agents.iter().map(AgentId::as_str))? {
        rows.agents.load(agent.id.clone(), agent);
    }
    Ok(())
}

pub(super) fn save(connection: &Connection, rows: &Rows) -> Result<()> {
    AGENTS.put(connection, rows.agents.dirty().into_iter().map(|(_, agent)| agent))
}

impl Store {
    /// Agents, in the order they were registered.
    pub async fn agents(&self, filter: AgentFilter) -> std::result::Result<Vec<Agent>, Unavailable> {
        let list = move |connection: &Connection| {
            let after = filter.after.as_ref().map_or("", AgentId::as_str);
            let (page, params) = Conditions::new("id > ?", Param::text(after))
                .and_if("tenant_id = ?", &filter.tenant_id)
                .and_if("id = ?", &filter.id)
                .page("ORDER BY id LIMIT ?", filter.limit);
            AGENTS.all(connection, &page, &params)
        };
        self.operators.read(list).await
    }
}
