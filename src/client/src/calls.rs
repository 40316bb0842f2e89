//! The endpoints of `/v1`, one method each.

use crate::{Client, Error, Export, Tagged};
use protocol::admin::{
    AdminKey, AdminKeyWithSecret, Agent, AuditKeys, AuditRow, AuditStatus, Balance, Budget, CorrectCredits,
    CreateAdminKey, CreateAgent, CreateFilterKey, CreateKey, CreateTenant, CreditsGranted, Explanation,
    FilterKey, FilterKeyWithSecret, GrantCredits, Key, KeyWithSecret, Lease, LeaseState, Page, PolicyChecked,
    PolicyInForce, Reason, Reservation, ReservationState, RotateKey, ShadowRow, Tenant, UpdateKey,
    UpdateTenant, UsageRow,
};
use protocol::audit::Outcome;
use protocol::key::{KeySource, KeyState};
use protocol::{AgentId, CredentialId, EventId, KeyId, TenantId, Timestamp};
use reqwest::Method;
use serde::Serialize;
use serde_json::Value;

/// Which keys to list; the default lists all.
#[derive(Debug, Clone, Default)]
pub struct KeyQuery {
    /// Keys of this tenant only.
    pub tenant_id: Option<TenantId>,
    /// Keys of this agent only.
    pub agent_id: Option<AgentId>,
    /// Keys in this state only.
    pub state: Option<KeyState>,
    /// Keys created this way only.
    pub source: Option<KeySource>,
}

/// What usage is summed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageGroup {
    /// By tool.
    Tool,
    /// By key.
    Key,
    /// By tenant.
    Tenant,
    /// By agent.
    Agent,
    /// By outcome.
    Outcome,
}

impl UsageGroup {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            UsageGroup::Tool => "tool",
            UsageGroup::Key => "key",
            UsageGroup::Tenant => "tenant",
            UsageGroup::Agent => "agent",
            UsageGroup::Outcome => "outcome",
        }
    }
}

/// Which usage to sum, and how.
#[derive(Debug, Clone, Default)]
pub struct UsageQuery {
    /// One row for each combination of these that occurred.
    pub group_by: Vec<UsageGroup>,
    /// From this time on, a full hour in UTC.
    pub from: Option<Timestamp>,
    /// Before this time, a full hour in UTC.
    pub to: Option<Timestamp>,
    /// Of this tenant only.
    pub tenant_id: Option<TenantId>,
    /// Of this key only.
    pub key_id: Option<KeyId>,
    /// Of this agent only.
    pub agent_id: Option<AgentId>,
    /// Of this tool only.
    pub tool: Option<String>,
    /// With this outcome only.
    pub outcome: Option<Outcome>,
}

/// Which audit rows to list; the default lists all.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// Rows of this tenant only.
    pub tenant_id: Option<TenantId>,
    /// Decisions with this outcome only.
    pub outcome: Option<Outcome>,
    /// Events of this kind only, such as `key_created`.
    pub kind: Option<String>,
    /// Events of this actor only.
    pub actor: Option<String>,
    /// What is about this request only.
    pub request_id: Option<EventId>,
    /// What this key did and what was done to it only.
    pub key_id: Option<KeyId>,
    /// What is about this service only.
    pub service: Option<String>,
    /// What is about this tool only.
    pub tool: Option<String>,
    /// From this time on.
    pub from: Option<Timestamp>,
    /// Before this time.
    pub to: Option<Timestamp>,
}

/// The query parameters that are set.
fn given<const COUNT: usize>(all: [(&str, Option<String>); COUNT]) -> Vec<(&str, String)> {
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn text<T: ToString>(value: &Option<T>) -> Option<String> {
    value.as_ref().map(ToString::to_string)
}

/// The wire name of an enum value.
fn word<T: Serialize>(value: &Option<T>) -> Option<String> {
    serde_json::to_value(value.as_ref()?).ok()?.as_str().map(str::to_owned)
}

impl Client {
    /// Creates a tenant.
    pub async fn create_tenant(&self, tenant: &CreateTenant) -> Result<Tenant, Error> {
        self.post("/v1/tenants", tenant).await
    }

    /// One page of all tenants; `cursor` is the `next_cursor` of the page before.
    pub async fn tenants(&self, cursor: Option<&str>) -> Result<Page<Tenant>, Error> {
        self.get("/v1/tenants", &with_cursor(Vec::new(), cursor)).await
    }

    /// One tenant.
    pub async fn tenant(&self, id: &TenantId) -> Result<Tenant, Error> {
        self.get(&format!("/v1/tenants/{id}"), &[]).await
    }

    /// A tenant's balance.
    pub async fn balance(&self, id: &TenantId) -> Result<Balance, Error> {
        self.get(&format!("/v1/tenants/{id}/balance"), &[]).await
    }

    /// Grants credits to a tenant.
    pub async fn grant_credits(&self, id: &TenantId, grant: &GrantCredits) -> Result<CreditsGranted, Error> {
        self.post(&format!("/v1/tenants/{id}/credits"), grant).await
    }

    /// Creates a key. Only this answer has its secret. Names that the policy in force lacks are refused, see
    /// [`Client::allowing_unknown`].
    pub async fn create_key(&self, key: &CreateKey) -> Result<KeyWithSecret, Error> {
        self.post(&format!("/v1/keys{}", self.names_query()), key).await
    }

    fn names_query(&self) -> &'static str {
        if self.allows_unknown { "?allow_unknown=true" } else { "" }
    }

    /// One page of keys.
    pub async fn keys(&self, query: &KeyQuery, cursor: Option<&str>) -> Result<Page<Key>, Error> {
        let filter = given([
            ("tenant_id", text(&query.tenant_id)),
            ("agent_id", text(&query.agent_id)),
            ("state", word(&query.state)),
            ("source", word(&query.source)),
        ]);
        self.get("/v1/keys", &with_cursor(filter, cursor)).await
    }

    /// One key.
    pub async fn key(&self, id: &KeyId) -> Result<Key, Error> {
        self.get(&format!("/v1/keys/{id}"), &[]).await
    }

    /// Gives a key a new secret, which only this answer has. The old one works for the grace period.
    pub async fn rotate_key(&self, id: &KeyId, rotation: &RotateKey) -> Result<KeyWithSecret, Error> {
        self.post(&format!("/v1/keys/{id}/rotate"), rotation).await
    }

    /// Revokes a key, finally.
    pub async fn revoke_key(&self, id: &KeyId, reason: &Reason) -> Result<Key, Error> {
        self.post(&format!("/v1/keys/{id}/revoke"), reason).await
    }

    /// One page of sums of usage.
    pub async fn usage(&self, query: &UsageQuery, cursor: Option<&str>) -> Result<Page<UsageRow>, Error> {
        let groups: Vec<&str> = query.group_by.iter().map(|group| group.as_str()).collect();
        let mut filter = vec![("group_by", groups.join(","))];
        filter.extend(given([
            ("from", text(&query.from)),
            ("to", text(&query.to)),
            ("tenant_id", text(&query.tenant_id)),
            ("key_id", text(&query.key_id)),
            ("agent_id", text(&query.agent_id)),
            ("tool", query.tool.clone()),
            ("outcome", text(&query.outcome)),
        ]));
        self.get("/v1/usage", &with_cursor(filter, cursor)).await
    }

    /// One page of the audit trail, newest first.
    pub async fn audit(
        &self,
        query: &AuditQuery,
        cursor: Option<&str>,
    ) -> Result<Page<AuditRow<Value>>, Error> {
        let filter = given([
            ("tenant_id", text(&query.tenant_id)),
            ("outcome", text(&query.outcome)),
            ("kind", query.kind.clone()),
            ("actor", query.actor.clone()),
            ("request_id", text(&query.request_id)),
            ("key_id", text(&query.key_id)),
            ("service", query.service.clone()),
            ("tool", query.tool.clone()),
            ("from", text(&query.from)),
            ("to", text(&query.to)),
        ]);
        self.get("/v1/audit", &with_cursor(filter, cursor)).await
    }

    /// Why a request ended as it did.
    pub async fn explain(&self, request_id: &EventId) -> Result<Explanation, Error> {
        self.get(&format!("/v1/decisions/{request_id}"), &[]).await
    }

    /// Changes a tenant's name, tier or budget; with an ETag only if it still matches.
    pub async fn update_tenant(
        &self,
        id: &TenantId,
        update: &UpdateTenant,
        if_match: Option<&str>,
    ) -> Result<Tenant, Error> {
        self.change(Method::PATCH, &format!("/v1/tenants/{id}"), update, if_match).await
    }

    /// Suspends a tenant: its keys are refused.
    pub async fn suspend_tenant(&self, id: &TenantId, reason: &Reason) -> Result<Tenant, Error> {
        self.post(&format!("/v1/tenants/{id}/suspend"), reason).await
    }

    /// Resumes a tenant: its keys are accepted again.
    pub async fn resume_tenant(&self, id: &TenantId, reason: &Reason) -> Result<Tenant, Error> {
        self.post(&format!("/v1/tenants/{id}/resume"), reason).await
    }

    /// Refunds a charge or withdraws a grant.
    pub async fn correct_credits(
        &self,
        id: &TenantId,
        correction: &CorrectCredits,
    ) -> Result<CreditsGranted, Error> {
        self.post(&format!("/v1/tenants/{id}/corrections"), correction).await
    }

    /// A tenant's budget and spending of this month.
    pub async fn tenant_budget(&self, id: &TenantId) -> Result<Budget, Error> {
        self.get(&format!("/v1/tenants/{id}/budget"), &[]).await
    }

    /// A key's budget and spending of this month.
    pub async fn key_budget(&self, id: &KeyId) -> Result<Budget, Error> {
        self.get(&format!("/v1/keys/{id}/budget"), &[]).await
    }

    /// One tenant with its ETag.
    pub async fn tagged_tenant(&self, id: &TenantId) -> Result<Tagged<Tenant>, Error> {
        self.tagged(&format!("/v1/tenants/{id}")).await
    }

    /// One key with its ETag.
    pub async fn tagged_key(&self, id: &KeyId) -> Result<Tagged<Key>, Error> {
        self.tagged(&format!("/v1/keys/{id}")).await
    }

    /// Changes what a key may do; with an ETag only if it still matches.
    pub async fn update_key(
        &self,
        id: &KeyId,
        update: &UpdateKey,
        if_match: Option<&str>,
    ) -> Result<Key, Error> {
        self.change(Method::PATCH, &format!("/v1/keys/{id}{}", self.names_query()), update, if_match).await
    }

    /// Expires a key now.
    pub async fn expire_key(&self, id: &KeyId, reason: &Reason) -> Result<Key, Error> {
        self.post(&format!("/v1/keys/{id}/expire"), reason).await
    }

    /// Registers an agent.
    pub async fn create_agent(&self, agent: &CreateAgent) -> Result<Agent, Error> {
        self.post("/v1/agents", agent).await
    }

    /// One page of agents.
    pub async fn agents(
        &self,
        tenant_id: Option<&TenantId>,
        cursor: Option<&str>,
    ) -> Result<Page<Agent>, Error> {
        let filter = given([("tenant_id", tenant_id.map(ToString::to_string))]);
        self.get("/v1/agents", &with_cursor(filter, cursor)).await
    }

    /// One agent.
    pub async fn agent(&self, id: &AgentId) -> Result<Agent, Error> {
        self.get(&format!("/v1/agents/{id}"), &[]).await
    }

    /// One page of leases.
    pub async fn leases(
        &self,
        tenant_id: Option<&TenantId>,
        state: Option<LeaseState>,
        cursor: Option<&str>,
    ) -> Result<Page<Lease>, Error> {
        let state = state.map(|state| state.as_str().to_owned());
        let filter = given([("tenant_id", tenant_id.map(ToString::to_string)), ("state", state)]);
        self.get("/v1/leases", &with_cursor(filter, cursor)).await
    }

    /// One page of expired reservations.
    pub async fn reservations(
        &self,
        tenant_id: Option<&TenantId>,
        state: Option<ReservationState>,
        cursor: Option<&str>,
    ) -> Result<Page<Reservation>, Error> {
        let state = state.map(|state| state.as_str().to_owned());
        let filter = given([("tenant_id", tenant_id.map(ToString::to_string)), ("state", state)]);
        self.get("/v1/reservations", &with_cursor(filter, cursor)).await
    }

    /// Creates an administrator's key. Only this answer has its secret.
    pub async fn create_admin_key(&self, key: &CreateAdminKey) -> Result<AdminKeyWithSecret, Error> {
        self.post("/v1/admin-keys", key).await
    }

    /// One page of administrators' keys.
    pub async fn admin_keys(
        &self,
        tenant_id: Option<&TenantId>,
        cursor: Option<&str>,
    ) -> Result<Page<AdminKey>, Error> {
        let filter = given([("tenant_id", tenant_id.map(ToString::to_string))]);
        self.get("/v1/admin-keys", &with_cursor(filter, cursor)).await
    }

    /// Revokes an administrator's key, finally.
    pub async fn revoke_admin_key(&self, id: &CredentialId, reason: &Reason) -> Result<AdminKey, Error> {
        self.post(&format!("/v1/admin-keys/{id}/revoke"), reason).await
    }

    /// Creates a filter's key. Only this answer has its secret.
    pub async fn create_filter_key(&self, key: &CreateFilterKey) -> Result<FilterKeyWithSecret, Error> {
        self.post("/v1/filter-keys", key).await
    }

    /// One page of filters' keys.
    pub async fn filter_keys(&self, cursor: Option<&str>) -> Result<Page<FilterKey>, Error> {
        self.get("/v1/filter-keys", &with_cursor(Vec::new(), cursor)).await
    }

    /// Gives a filter's key a new secret, which only this answer has.
    pub async fn rotate_filter_key(
        &self,
        id: &CredentialId,
        rotate: &RotateKey,
    ) -> Result<FilterKeyWithSecret, Error> {
        self.post(&format!("/v1/filter-keys/{id}/rotate"), rotate).await
    }

    /// Revokes a filter's key, finally.
    pub async fn revoke_filter_key(&self, id: &CredentialId, reason: &Reason) -> Result<FilterKey, Error> {
        self.post(&format!("/v1/filter-keys/{id}/revoke"), reason).await
    }

    /// The public keys that sign the audit trail.
    pub async fn audit_keys(&self) -> Result<AuditKeys, Error> {
        self.get("/v1/audit/key", &[]).await
    }

    /// The status of the audit trail.
    pub async fn audit_status(&self) -> Result<AuditStatus, Error> {
        self.get("/v1/audit/status", &[]).await
    }

    /// The audit trail as lines of JSON: the whole trail, or the rows sealed on one day (UTC).
    pub async fn export_audit(&self, day: Option<&str>) -> Result<Export, Error> {
        self.stream("/v1/audit/export", &given([("day", day.map(str::to_owned))])).await
    }

    /// One page of what shadow rules would have refused.
    pub async fn shadow_report(
        &self,
        query: &UsageQuery,
        cursor: Option<&str>,
    ) -> Result<Page<ShadowRow>, Error> {
        let filter = given([
            ("from", text(&query.from)),
            ("to", text(&query.to)),
            ("tenant_id", text(&query.tenant_id)),
            ("tool", query.tool.clone()),
        ]);
        self.get("/v1/policy/shadow-report", &with_cursor(filter, cursor)).await
    }

    /// Puts a policy in force, YAML or JSON; with a version only if that one is in force.
    pub async fn replace_policy(
        &self,
        text: String,
        if_match: Option<&str>,
    ) -> Result<PolicyInForce<Value>, Error> {
        self.send_text(Method::PUT, "/v1/policy", text, if_match).await
    }

    /// The same, even if tenants or keys use names that it no longer has.
    pub async fn force_policy(
        &self,
        text: String,
        if_match: Option<&str>,
    ) -> Result<PolicyInForce<Value>, Error> {
        self.send_text(Method::PUT, "/v1/policy?force=true", text, if_match).await
    }

    /// Names that tenants and keys use and a policy would drop. Changes nothing.
    pub async fn check_policy(&self, text: String) -> Result<PolicyChecked, Error> {
        self.send_text(Method::POST, "/v1/policy/check", text, None).await
    }

    /// The policy's tiers, verbatim.
    pub async fn tiers(&self) -> Result<Value, Error> {
        self.get("/v1/tiers", &[]).await
    }

    /// The policy's services and tools, verbatim.
    pub async fn tools(&self) -> Result<Value, Error> {
        self.get("/v1/tools", &[]).await
    }

    /// The policy in force.
    pub async fn policy(&self) -> Result<PolicyInForce<Value>, Error> {
        self.get("/v1/policy", &[]).await
    }
}

fn with_cursor<'a>(mut filter: Vec<(&'a str, String)>, cursor: Option<&str>) -> Vec<(&'a str, String)> {
    filter.extend(cursor.map(|cursor| ("cursor", cursor.to_owned())));
    filter
}
