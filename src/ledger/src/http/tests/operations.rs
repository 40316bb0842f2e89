//! The operations of `/openapi.json` as a list for tests; and for each operation who may call it, written here by hand.
//! An operation without a case fails every test that uses the list.

use crate::fixture::{Bench, POLICY, new_uuid, report_body};
use protocol::admin::Role;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// One operation of the document.
pub(super) struct Operation {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) described: Value,
}

impl Operation {
    pub(super) fn place(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    pub(super) fn has_id(&self) -> bool {
        self.path.contains("{id}")
    }

    /// The names of its parameters of this kind.
    pub(super) fn parameters(&self, kind: &str) -> Vec<String> {
        let all = self.described["parameters"].as_array().unwrap().iter();
        let of_kind = all.filter(|parameter| parameter["in"] == kind);
        of_kind.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect()
    }
}

/// Everything that the document describes.
pub(super) async fn operations(bench: &Bench) -> Vec<Operation> {
    let document = bench.get("/openapi.json").await;
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, described) in methods.as_object().unwrap() {
            let method = method.to_ascii_uppercase().parse().unwrap();
            found.push(Operation { method, path: path.clone(), described: described.clone() });
        }
    }
    assert!(found.len() > 30, "the document describes only {} operations", found.len());
    found
}

/// What an administrator of one tenant may do with an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// It concerns one object. Another tenant's is not found.
    Thing,
    /// Its body names a tenant. Another one is refused.
    Names,
    /// It shows data of tenants, and only that of the administrator's own tenant.
    Shows,
    /// It shows nothing that belongs to a tenant.
    Common,
    /// It is only for administrators of all tenants.
    AllTenants,
}

/// Who may call an operation.
pub(super) fn case(operation: &Operation) -> (Role, Reach) {
    use Reach::{AllTenants, Common, Names, Shows, Thing};
    use Role::{Auditor, Operator, Owner};
    match operation.place().as_str() {
        "GET /v1/tenants" => (Auditor, Shows),
        "GET /v1/tenants/{id}" | "GET /v1/tenants/{id}/balance" | "GET /v1/tenants/{id}/budget" => {
            (Auditor, Thing)
        }
        "POST /v1/tenants"
        | "PATCH /v1/tenants/{id}"
        | "POST /v1/tenants/{id}/suspend"
        | "POST /v1/tenants/{id}/resume"
        | "POST /v1/tenants/{id}/credits"
        | "POST /v1/tenants/{id}/corrections" => (Operator, AllTenants),
        "GET /v1/keys" | "GET /v1/agents" | "GET /v1/leases" | "GET /v1/reservations" => (Auditor, Shows),
        "GET /v1/keys/{id}"
        | "GET /v1/keys/{id}/budget"
        | "GET /v1/agents/{id}"
        | "GET /v1/decisions/{id}" => (Auditor, Thing),
        "POST /v1/keys" | "POST /v1/agents" => (Operator, Names),
        "PATCH /v1/keys/{id}"
        | "POST /v1/keys/{id}/rotate"
        | "POST /v1/keys/{id}/expire"
        | "POST /v1/keys/{id}/revoke" => (Operator, Thing),
        "GET /v1/admin-keys" => (Owner, Shows),
        "POST /v1/admin-keys" => (Owner, Names),
        "POST /v1/admin-keys/{id}/revoke" => (Owner, Thing),
        "GET /v1/filter-keys"
        | "POST /v1/filter-keys"
        | "POST /v1/filter-keys/{id}/rotate"
        | "POST /v1/filter-keys/{id}/revoke"
        | "PUT /v1/policy" => (Owner, AllTenants),
        "GET /v1/usage" | "GET /v1/audit" | "GET /v1/policy/shadow-report" => (Auditor, Shows),
        "GET /v1/audit/status" | "GET /v1/audit/export" | "POST /v1/policy/check" => (Auditor, AllTenants),
        "GET /v1/audit/key" | "GET /v1/policy" | "GET /v1/tiers" | "GET /v1/tools" => (Auditor, Common),
        other => panic!("{other} has no case: say who may ask for it, and what of another tenant it reaches"),
    }
}

/// A tenant with a key, an agent, an administrator, a call that a shadow rule would have refused, and a filter's key.
pub(super) struct Fixtures {
    pub(super) tenant: String,
    pub(super) key: String,
    pub(super) agent: String,
    pub(super) lease: String,
    pub(super) reservation: String,
    pub(super) admin: String,
    pub(super) filter: String,
    pub(super) decision: String,
    pub(super) secret: String,
}

impl Fixtures {
    /// With an administrator of this role.
    pub(super) async fn new(bench: &Bench, role: &str) -> Fixtures {
        let id = |made: Value| made["id"].as_str().unwrap().to_owned();
        let tenant = bench.tenant(100).await;
        let agent = json!({"tenant_id": tenant, "name": "bot"});
        let agent = id(bench.post("/v1/agents", agent, StatusCode::CREATED).await);
        let (key, _) = bench.key(&tenant).await;
        let filter = id(bench.post("/v1/filter-keys", json!({"name": "west"}), StatusCode::CREATED).await);
        let lease = new_uuid();
        let ask = json!({"lease_id": lease, "tenant_id": tenant, "credits": 10, "price": 1});
        let round = json!({"instance": new_uuid(), "envoy": "e1", "asks": [ask]});
        bench.post("/filter/v1/leases", round, StatusCode::OK).await;
        let reservation = new_uuid();
        bench.expired_reservation(&reservation, &tenant, &key, 5).await;
        let (admin, secret) = bench.admin(role, Some(&tenant)).await;
        let mut decision = super::decision("allowed", &key, &tenant, "search", 1);
        decision["agent_id"] = json!(agent);
        decision["would_deny"] = json!("rate_limited");
        let decided = decision["id"].as_str().unwrap().to_owned();
        let batch = report_body(&new_uuid(), [decision]);
        bench.post("/filter/v1/report", batch, StatusCode::OK).await;
        Fixtures { tenant, key, agent, lease, reservation, admin, filter, decision: decided, secret }
    }

    pub(super) fn ids(&self) -> [&str; 6] {
        [&self.tenant, &self.key, &self.agent, &self.lease, &self.reservation, &self.admin]
    }

    pub(super) fn path(&self, operation: &Operation) -> String {
        let id = match operation.path.split('/').nth(2).unwrap() {
            _ if !operation.has_id() => return operation.path.clone(),
            "tenants" => &self.tenant,
            "keys" => &self.key,
            "agents" => &self.agent,
            "admin-keys" => &self.admin,
            "filter-keys" => &self.filter,
            "decisions" => &self.decision,
            other => panic!("ids of /v1/{other} are not known here: say whose they are"),
        };
        operation.path.replace("{id}", id)
    }

    /// A body that the operation accepts, and that names this tenant wherever it can name one.
    pub(super) fn body(&self, operation: &Operation) -> Value {
        match operation.place().as_str() {
            place if place.starts_with("GET ") => Value::Null,
            "POST /v1/tenants" => json!({"name": "New", "tier": "free"}),
            "POST /v1/tenants/{id}/credits" => json!({"amount": 5, "reason": "test"}),
            "POST /v1/tenants/{id}/corrections" => {
                json!({"direction": "withdraw", "amount": 5, "reason": "test"})
            }
            "POST /v1/keys" => json!({"tenant_id": self.tenant, "name": "ci", "scopes": []}),
            "POST /v1/agents" => json!({"tenant_id": self.tenant, "name": "bot"}),
            "POST /v1/admin-keys" => json!({"tenant_id": self.tenant, "name": "new", "role": "auditor"}),
            "POST /v1/filter-keys" => json!({"name": "east"}),
            "PUT /v1/policy" => json!({"tiers": 1}),
            "POST /v1/policy/check" => serde_json::from_str(&policy::yaml::to_json(POLICY).unwrap()).unwrap(),
            "PATCH /v1/tenants/{id}" | "PATCH /v1/keys/{id}" => json!({"name": "Changed", "reason": "test"}),
            place if place.starts_with("POST ") && operation.has_id() => json!({"reason": "test"}),
            place => panic!("no body is known for {place}"),
        }
    }
}
