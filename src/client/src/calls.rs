//! The endpoints of `/v1`, one method each.

use crate::{Client, Error};
use protocol::admin::{
    AuditRow, Balance, CreateKey, CreateTenant, CreditsGranted, GrantCredits, Key, KeyWithSecret, Page,
    PolicyInForce, RevokeKey, RotateKey, Tenant, UsageRow,
};
use protocol::audit::Outcome;
use protocol::{KeyId, TenantId, Timestamp};
use serde_json::Value;

/// Which keys to list; an empty one lists all.
#[derive(Debug, Clone, Default)]
pub struct KeyQuery {
    /// Keys of this tenant only.
    pub tenant_id: Option<TenantId>,
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
}

impl UsageGroup {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            UsageGroup::Tool => "tool",
            UsageGroup::Key => "key",
            UsageGroup::Tenant => "tenant",
        }
    }
}

/// Which usage to sum, and how.
#[derive(Debug, Clone, Default)]
pub struct UsageQuery {
    /// One row for each combination of these that occurred.
    pub group_by: Vec<UsageGroup>,
    /// Not before this.
    pub from: Option<Timestamp>,
    /// Before this.
    pub to: Option<Timestamp>,
}

/// Which audit rows to list; an empty one lists all.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// Rows of this tenant only.
    pub tenant_id: Option<TenantId>,
    /// Decisions with this outcome only.
    pub outcome: Option<Outcome>,
}

impl Client {
    /// Makes a tenant.
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

    /// What a tenant holds.
    pub async fn balance(&self, id: &TenantId) -> Result<Balance, Error> {
        self.get(&format!("/v1/tenants/{id}/balance"), &[]).await
    }

    /// Adds to a tenant's credits.
    pub async fn grant_credits(&self, id: &TenantId, grant: &GrantCredits) -> Result<CreditsGranted, Error> {
        self.post(&format!("/v1/tenants/{id}/credits"), grant).await
    }

    /// Makes a key. Its secret is in this answer and nowhere else.
    pub async fn create_key(&self, key: &CreateKey) -> Result<KeyWithSecret, Error> {
        self.post("/v1/keys", key).await
    }

    /// One page of keys.
    pub async fn keys(&self, query: &KeyQuery, cursor: Option<&str>) -> Result<Page<Key>, Error> {
        let filter = query.tenant_id.iter().map(|id| ("tenant_id", id.to_string())).collect();
        self.get("/v1/keys", &with_cursor(filter, cursor)).await
    }

    /// One key.
    pub async fn key(&self, id: &KeyId) -> Result<Key, Error> {
        self.get(&format!("/v1/keys/{id}"), &[]).await
    }

    /// Gives a key a new secret, shown only here; the old one works on for the grace.
    pub async fn rotate_key(&self, id: &KeyId, rotation: &RotateKey) -> Result<KeyWithSecret, Error> {
        self.post(&format!("/v1/keys/{id}/rotate"), rotation).await
    }

    /// Withdraws a key for good.
    pub async fn revoke_key(&self, id: &KeyId, revocation: &RevokeKey) -> Result<Key, Error> {
        self.post(&format!("/v1/keys/{id}/revoke"), revocation).await
    }

    /// Sums of usage.
    pub async fn usage(&self, query: &UsageQuery) -> Result<Page<UsageRow>, Error> {
        let groups: Vec<&str> = query.group_by.iter().map(|group| group.as_str()).collect();
        let mut filter = vec![("group_by", groups.join(","))];
        filter.extend(query.from.map(|from| ("from", from.to_string())));
        filter.extend(query.to.map(|to| ("to", to.to_string())));
        self.get("/v1/usage", &filter).await
    }

    /// One page of the audit trail, newest first.
    pub async fn audit(
        &self,
        query: &AuditQuery,
        cursor: Option<&str>,
    ) -> Result<Page<AuditRow<Value>>, Error> {
        let mut filter: Vec<_> = query.tenant_id.iter().map(|id| ("tenant_id", id.to_string())).collect();
        filter.extend(query.outcome.map(|outcome| ("outcome", outcome.to_string())));
        self.get("/v1/audit", &with_cursor(filter, cursor)).await
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
