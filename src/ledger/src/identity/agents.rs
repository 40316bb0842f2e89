//! Agents: the registered callers of a tenant. A key may belong to an agent of its tenant.

use crate::model::event::{Event, Kind};
use crate::model::replay::Idempotency;
use crate::transaction::{Needs, Operation, Refusal, Rows};
use protocol::admin::Agent;
use serde_json::json;

/// Registers an agent.
#[derive(Clone)]
pub struct Create {
    pub agent: Agent,
    pub actor: String,
    pub idempotency: Option<Idempotency>,
}

impl Operation for Create {
    type Answer = Agent;

    fn needs(&self, needs: &mut Needs) {
        needs.tenants.insert(self.agent.tenant_id.clone());
        needs.replays.extend(self.idempotency.as_ref().map(|idempotency| idempotency.at.clone()));
    }

    fn apply(self, rows: &mut Rows) -> Result<Agent, Refusal> {
        if let Some(answer) = rows.replay(&self.idempotency)? {
            return Ok(answer);
        }
        let Create { agent, actor, idempotency } = self;
        if rows.tenants.get(&agent.tenant_id).is_none() {
            return Err(Refusal::TenantUnknown);
        }
        let detail = json!({"agent_id": agent.id, "name": agent.name});
        rows.record(Event::new(Kind::AgentCreated, agent.created_at, actor, &detail).of(&agent.tenant_id));
        rows.keep_answer_as_json(idempotency, &agent, agent.created_at);
        rows.agents.insert(agent.id.clone(), agent.clone());
        Ok(agent)
    }
}
