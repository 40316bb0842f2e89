//! Permissions for every operation of `/openapi.json`: roles, and that a tenant's own administrator can't access
//! another tenant.

use super::operations::{Fixtures, Operation, Reach, case, operations};
use crate::fixture::{Bench, expect};
use protocol::admin::Role;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// All of a tenant's that an administrator of all tenants sees.
async fn everything(bench: &Bench, of: &Fixtures) -> Vec<Value> {
    let mut seen = Vec::new();
    for path in [
        format!("/v1/tenants/{}", of.tenant),
        format!("/v1/keys?tenant_id={}", of.tenant),
        format!("/v1/agents?tenant_id={}", of.tenant),
        format!("/v1/leases?tenant_id={}", of.tenant),
        format!("/v1/reservations?tenant_id={}", of.tenant),
        format!("/v1/admin-keys?tenant_id={}", of.tenant),
        format!("/v1/audit?tenant_id={}", of.tenant),
        "/v1/filter-keys".to_owned(),
    ] {
        seen.push(bench.get(&path).await);
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_administrator_can_not_access_another_tenant_by_any_operation() {
    let bench = Bench::start().await;
    let (own, other) = (Fixtures::new(&bench, "owner").await, Fixtures::new(&bench, "owner").await);
    let before = everything(&bench, &other).await;
    for operation in operations(&bench).await {
        let place = operation.place();
        let (path, body) = (other.path(&operation), other.body(&operation));
        let answer = bench.ask_as(&own.secret, &operation.method, &path, &body).await;
        let status = answer.status();
        let text = answer.text().await.unwrap();
        let expected = match case(&operation).1 {
            // Not even the existence may be visible: the answer for an unknown id is the same.
            Reach::Thing => [StatusCode::NOT_FOUND].as_slice(),
            Reach::AllTenants => &[StatusCode::FORBIDDEN],
            Reach::Names => &[StatusCode::BAD_REQUEST, StatusCode::FORBIDDEN],
            Reach::Shows | Reach::Common => &[StatusCode::OK],
        };
        assert!(expected.contains(&status), "{place}: {status} {text}");
        assert_silent(&other, &text, &place);
        if case(&operation).1 == Reach::Shows {
            ask_for_the_others(&bench, &operation, &own, &other).await;
        }
    }
    assert_eq!(everything(&bench, &other).await, before);
}

fn assert_silent(other: &Fixtures, text: &str, place: &str) {
    for id in other.ids() {
        assert!(!text.contains(id), "{place} shows {id}: {text}");
    }
}

/// A list that is asked for the other tenant's fixtures by every parameter that can name one, alone and beside its own.
async fn ask_for_the_others(bench: &Bench, operation: &Operation, own: &Fixtures, other: &Fixtures) {
    let parameters = operation.parameters("query");
    let groups =
        if parameters.iter().any(|name| name == "group_by") { "group_by=tenant,key,agent&" } else { "" };
    let sees = async |query: String| {
        let path = format!("{}?{groups}{query}", operation.path);
        let answer = bench.ask_as(&own.secret, &Method::GET, &path, &Value::Null).await;
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert_silent(other, &text, &path);
        (status, text)
    };
    let (status, text) = sees(String::new()).await;
    assert!(status == StatusCode::OK && text.contains(&own.tenant), "{}: {text}", operation.path);
    for name in &parameters {
        let value = match name.as_str() {
            "tenant_id" => &other.tenant,
            "key_id" | "actor" => &other.key,
            "agent_id" => &other.agent,
            "request_id" => &other.decision,
            "from" | "to" | "tool" | "service" | "outcome" | "kind" | "state" | "source" | "limit"
            | "cursor" | "group_by" => continue,
            unknown => panic!("{}: can `{unknown}` name another tenant's fixtures?", operation.path),
        };
        let (status, text) = sees(format!("{name}={value}")).await;
        let found = serde_json::from_str::<Value>(&text).unwrap();
        match name.as_str() {
            "tenant_id" => assert_eq!(status, StatusCode::NOT_FOUND, "{}: {text}", operation.path),
            _ => assert_eq!((status, &found["items"]), (StatusCode::OK, &json!([])), "{}", operation.path),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_administrator_may_do_what_its_role_allows_within_its_tenant() {
    let bench = Bench::start().await;
    let own = Fixtures::new(&bench, "owner").await;
    for operation in operations(&bench).await {
        let place = operation.place();
        let path = own.path(&operation);
        // The administrator's own key and the key in use stay until the end.
        if path.ends_with("/revoke") || path.ends_with("/expire") {
            continue;
        }
        let answer = bench.ask_as(&own.secret, &operation.method, &path, &own.body(&operation)).await;
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        let is_its_own = case(&operation).1 != Reach::AllTenants;
        assert_eq!(status.is_success(), is_its_own, "{place}: {status} {text}");
        assert_eq!(status == StatusCode::FORBIDDEN, !is_its_own, "{place}: {status} {text}");
    }
    // It can't create a credential with wider reach than its own.
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
async fn each_operation_asks_for_its_role_and_says_so() {
    let bench = Bench::start().await;
    let fixtures = Fixtures::new(&bench, "auditor").await;
    for (role, name) in [(Role::Auditor, "auditor"), (Role::Operator, "operator"), (Role::Owner, "owner")] {
        let (_, secret) = bench.admin(name, None).await;
        for operation in operations(&bench).await {
            let place = format!("{name}: {}", operation.place());
            let (needs, reach) = case(&operation);
            // With unknown ids, so that nothing changes and every operation can be called.
            let path = operation.path.replace("{id}", "none");
            let answer = bench.ask_as(&secret, &operation.method, &path, &fixtures.body(&operation)).await;
            let refused = answer.status() == StatusCode::FORBIDDEN;
            assert_eq!(refused, role < needs, "{place}: {}", answer.text().await.unwrap());
            let of_all = if reach == Reach::AllTenants { " of all tenants" } else { "" };
            let says = operation.described["description"].as_str().unwrap();
            assert!(says.starts_with(&format!("Needs role `{needs}`{of_all}.")), "{place}: {says}");
        }
    }
    for operation in operations(&bench).await {
        let url = format!("http://{}{}", bench.running.address, fixtures.path(&operation));
        let anonymous = bench.client.request(operation.method.clone(), url).json(&fixtures.body(&operation));
        assert_eq!(
            anonymous.send().await.unwrap().status(),
            StatusCode::UNAUTHORIZED,
            "{}",
            operation.place()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_admin_credential_works_as_a_filter_and_no_filter_credential_as_an_admin() {
    let bench = Bench::start().await;
    let own = Fixtures::new(&bench, "owner").await;
    for (method, path) in [
        (Method::GET, protocol::filter::POLICY_PATH),
        (Method::POST, protocol::filter::RESOLVE_PATH),
        (Method::POST, protocol::filter::RESERVE_PATH),
        (Method::POST, protocol::filter::REPORT_PATH),
        (Method::GET, protocol::filter::CHANGES_PATH),
    ] {
        for secret in [&own.secret, &bench.credentials.admin_key] {
            let refused = bench.ask_as(secret, &method, path, &json!({})).await;
            assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
        }
    }
    for operation in operations(&bench).await {
        let (path, body) = (own.path(&operation), own.body(&operation));
        let refused = bench.ask_as(&bench.credentials.filter_key, &operation.method, &path, &body).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{}", operation.place());
    }
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
