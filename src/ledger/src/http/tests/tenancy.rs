//! Who may do what, over every endpoint of the table: roles, and that a tenant's own administrator neither sees nor
//! touches another tenant.

use crate::fixture::{Bench, expect};
use crate::http::admin::endpoints;
use crate::http::api::{Endpoint, Reach};
use protocol::admin::Role;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// Two tenants, each with a key, an agent, a lease and an administrator.
struct Two {
    bench: Bench,
    own: Things,
    other: Things,
}

struct Things {
    tenant: String,
    key: String,
    agent: String,
    lease: String,
    admin: String,
    secret: String,
}

async fn things(bench: &Bench, role: &str) -> Things {
    let tenant = bench.tenant(100).await;
    let (key, _) = bench.key(&tenant).await;
    let agent = json!({"tenant_id": tenant, "name": "bot"});
    let agent = bench.post("/v1/agents", agent, StatusCode::CREATED).await["id"].as_str().unwrap().to_owned();
    let lease = format!("lease-of-{tenant}");
    let ask = json!({"lease_id": lease, "tenant_id": tenant, "credits": 10, "price": 1});
    let round = json!({"instance": "i1", "envoy": "e1", "asks": [ask]});
    bench.post("/filter/v1/leases", round, StatusCode::OK).await;
    let (admin, secret) = bench.admin(role, Some(&tenant)).await;
    Things { tenant, key, agent, lease, admin, secret }
}

async fn two(role: &str) -> Two {
    let bench = Bench::start().await;
    let (own, other) = (things(&bench, role).await, things(&bench, role).await);
    Two { bench, own, other }
}

impl Things {
    fn ids(&self) -> [&str; 5] {
        [&self.tenant, &self.key, &self.agent, &self.lease, &self.admin]
    }

    fn path(&self, endpoint: &Endpoint) -> String {
        let id = match endpoint.path.split('/').nth(2).unwrap() {
            "tenants" => &self.tenant,
            "keys" => &self.key,
            "agents" => &self.agent,
            "admin-keys" => &self.admin,
            other => panic!("ids of /v1/{other} are not known here: say whose they are"),
        };
        endpoint.path.replace("{id}", id)
    }

    /// A body that the endpoint takes, and that names this tenant wherever it can name one.
    fn body(&self, endpoint: &Endpoint) -> Value {
        let reason = json!({"reason": "test"});
        match (endpoint.method.as_str(), endpoint.path) {
            ("GET", _) => Value::Null,
            ("POST", "/v1/tenants") => json!({"name": "New", "tier": "free"}),
            ("POST", "/v1/tenants/{id}/credits") => json!({"amount": 5, "reason": "test"}),
            ("POST", "/v1/tenants/{id}/corrections") => {
                json!({"direction": "withdraw", "amount": 5, "reason": "test"})
            }
            ("POST", "/v1/keys") => json!({"tenant_id": self.tenant, "name": "ci", "scopes": []}),
            ("POST", "/v1/keys/{id}/rotate") => json!({}),
            ("POST", "/v1/agents") => json!({"tenant_id": self.tenant, "name": "bot"}),
            ("POST", "/v1/admin-keys") => {
                json!({"tenant_id": self.tenant, "name": "new", "role": "auditor"})
            }
            ("PUT", "/v1/policy") => json!({"tiers": 1}),
            ("PATCH", _) => json!({"name": "Changed", "reason": "test"}),
            (_, path) if path.ends_with("/{id}/revoke") || path.contains("/{id}/") => reason,
            (method, path) => panic!("no body is known for {method} {path}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_own_administrator_neither_sees_nor_touches_another_tenant_by_any_endpoint() {
    let Two { bench, own, other } = two("owner").await;
    let everything = async || {
        let mut seen = Vec::new();
        for path in [
            format!("/v1/tenants/{}", other.tenant),
            format!("/v1/keys?tenant_id={}", other.tenant),
            format!("/v1/agents?tenant_id={}", other.tenant),
            format!("/v1/leases?tenant_id={}", other.tenant),
            format!("/v1/admin-keys?tenant_id={}", other.tenant),
            format!("/v1/audit?tenant_id={}", other.tenant),
        ] {
            seen.push(bench.get(&path).await);
        }
        seen
    };
    let before = everything().await;
    for endpoint in endpoints() {
        let place = format!("{} {}", endpoint.method, endpoint.path);
        let (path, body) = if endpoint.path.contains("{id}") {
            (other.path(&endpoint), other.body(&endpoint))
        } else {
            (endpoint.path.to_owned(), other.body(&endpoint))
        };
        let answer = bench.ask_as(&own.secret, &endpoint.method, &path, &body).await;
        let status = answer.status();
        let text = answer.text().await.unwrap();
        // Not even that the other's things exist may be learned: the answer for an id that nothing has is the same.
        if endpoint.path.contains("{id}") && endpoint.reach == Reach::OwnTenant {
            assert_eq!(status, StatusCode::NOT_FOUND, "{place}: {text}");
        } else if endpoint.reach == Reach::AllTenants {
            assert_eq!(status, StatusCode::FORBIDDEN, "{place}: {text}");
        } else if endpoint.method == Method::POST {
            assert!(matches!(status.as_u16(), 400 | 403), "{place}: {status} {text}");
        } else {
            assert_eq!(status, StatusCode::OK, "{place}: {text}");
        }
        for id in other.ids() {
            assert!(!text.contains(id), "{place} shows {id}: {text}");
        }
        // A list that is asked for the other's things.
        if endpoint.method == Method::GET && !endpoint.path.contains("{id}") {
            let asked = format!("{path}?tenant_id={}", other.tenant);
            let answer = bench.ask_as(&own.secret, &endpoint.method, &asked, &Value::Null).await;
            let found = answer.status();
            let text = answer.text().await.unwrap();
            assert!(matches!(found.as_u16(), 200 | 400 | 403 | 404), "{place}: {found}");
            assert!(found != StatusCode::OK || !endpoint_takes_tenant(&endpoint), "{place}: {text}");
            assert!(!text.contains(&other.key) && !text.contains(&other.admin), "{place}: {text}");
        }
    }
    assert_eq!(everything().await, before);
}

fn endpoint_takes_tenant(endpoint: &Endpoint) -> bool {
    matches!(
        endpoint.path,
        "/v1/keys"
            | "/v1/agents"
            | "/v1/leases"
            | "/v1/admin-keys"
            | "/v1/usage"
            | "/v1/audit"
            | "/v1/policy/shadow-report"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_own_administrator_does_at_home_what_its_role_may() {
    let Two { bench, own, .. } = two("owner").await;
    for endpoint in endpoints() {
        let place = format!("{} {}", endpoint.method, endpoint.path);
        let path =
            if endpoint.path.contains("{id}") { own.path(&endpoint) } else { endpoint.path.to_owned() };
        // The administrator's own key and the key in use stay until the end.
        if path.ends_with("/revoke") || path.ends_with("/expire") {
            continue;
        }
        let answer = bench.ask_as(&own.secret, &endpoint.method, &path, &own.body(&endpoint)).await;
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        let expected_ok = endpoint.reach == Reach::OwnTenant;
        assert_eq!(status.is_success(), expected_ok, "{place}: {status} {text}");
        assert_eq!(status == StatusCode::FORBIDDEN, !expected_ok, "{place}: {status} {text}");
    }
    // It cannot make one that reaches further than itself.
    for tenant in [Value::Null, json!("ten_other")] {
        let wide = json!({"name": "wide", "role": "auditor", "tenant_id": tenant});
        let refused = bench.ask_as(&own.secret, &Method::POST, "/v1/admin-keys", &wide).await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    }
    let reason = json!({"reason": "left"});
    let revoke = format!("/v1/admin-keys/{}/revoke", own.admin);
    expect(bench.ask_as(&own.secret, &Method::POST, &revoke, &reason).await, StatusCode::OK).await;
    let refused = bench.ask_as(&own.secret, &Method::GET, "/v1/keys", &Value::Null).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_endpoint_asks_for_its_role() {
    let bench = Bench::start().await;
    let things = things(&bench, "auditor").await;
    for (role, name) in [(Role::Auditor, "auditor"), (Role::Operator, "operator"), (Role::Owner, "owner")] {
        let (_, secret) = bench.admin(name, None).await;
        for endpoint in endpoints() {
            let place = format!("{name}: {} {}", endpoint.method, endpoint.path);
            // Ids that nothing has, so that nothing is done and all of it can be asked.
            let path = endpoint.path.replace("{id}", "none");
            let answer = bench.ask_as(&secret, &endpoint.method, &path, &things.body(&endpoint)).await;
            let refused = answer.status() == StatusCode::FORBIDDEN;
            assert_eq!(refused, role < endpoint.needs, "{place}: {}", answer.text().await.unwrap());
        }
    }
    let anonymous = bench.client.get(format!("http://{}/v1/keys", bench.running.address));
    assert_eq!(anonymous.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_owner_of_all_tenants_stays() {
    let bench = Bench::start().await;
    let own = bench.get("/v1/admin-keys").await["items"][0]["id"].as_str().unwrap().to_owned();
    let (reason, path) = (json!({"reason": "left"}), format!("/v1/admin-keys/{own}/revoke"));
    bench.post(&path, reason.clone(), StatusCode::CONFLICT).await;
    let (_, second) = bench.admin("owner", None).await;
    bench.post(&path, reason, StatusCode::OK).await;
    let listed = bench.ask_as(&second, &Method::GET, "/v1/admin-keys", &Value::Null).await;
    let listed = expect(listed, StatusCode::OK).await;
    assert!(listed["items"][0]["revoked_at"].is_string());
    let refused = bench.request(Method::GET, "/v1/admin-keys").send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
}
