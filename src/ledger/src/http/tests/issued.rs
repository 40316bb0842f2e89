//! Keys issued to other keys: they never may do more than their parents, and never last longer.

use crate::fixture::{Bench, code, expect, uuid_of};
use protocol::api_key::KeyHash;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use throwaway::Throwaway;

async fn issue(bench: &Bench, request_id: &str, parent: &str, more: Value) -> Response {
    let mut body = json!({
        "request_id": uuid_of(request_id), "parent": KeyHash::of(parent.as_bytes()), "service": "studio",
        "ttl_seconds": 3600, "rate_limit": 60,
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    bench.request(Method::POST, "/filter/v1/keys").json(&body).send().await.unwrap()
}

async fn parent(bench: &Bench, tenant: &str, more: Value) -> (String, String) {
    let mut body = json!({"tenant_id": tenant, "name": "ci", "scopes": ["read", "generate"]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let key = bench.post("/v1/keys?allow_unknown=true", body, StatusCode::CREATED).await;
    (key["id"].as_str().unwrap().to_owned(), key["secret"].as_str().unwrap().to_owned())
}

fn secret(issued: &Value) -> &str {
    issued["secret"].as_str().unwrap()
}

async fn record(bench: &Bench, secret: &str) -> Value {
    expect(bench.resolve(secret).await, StatusCode::OK).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_key_is_restricted_to_one_service_and_by_all_restrictions_of_its_parent() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(0).await;
    let restricted = json!({
        "services": [{"name": "studio", "expires_at": "2998-01-01T00:00:00Z"}, "other"], "tools": ["search"],
        "resources": ["project:42"], "limits": [{"permits": 7, "window_seconds": 60}],
        "expires_at": "2999-01-01T00:00:00Z",
    });
    let (parent_id, parent) = parent(&bench, &tenant, restricted).await;
    let issued = expect(issue(&bench, "r1", &parent, json!({})).await, StatusCode::CREATED).await;
    let record = record(&bench, secret(&issued)).await;
    assert_eq!(record["services"], json!([{"name": "studio", "expires_at": "2998-01-01T00:00:00.000Z"}]));
    assert_eq!((&record["tools"], &record["resources"]), (&json!(["search"]), &json!(["project:42"])));
    assert_eq!(record["limits"], json!([{"permits": 60, "window_seconds": 60}]));
    let expected = json!({"key_id": parent_id, "limits": [{"permits": 7, "window_seconds": 60}]});
    assert_eq!((&record["parent"], &record["source"]), (&expected, &json!("mcp")));
    assert_eq!(record["agent_id"], issued["agent_id"]);
    assert!(record["expires_at"].as_str().unwrap() < "2998");

    let listed = bench.get("/v1/keys?source=mcp&state=active").await;
    let shown = &listed["items"][0];
    assert_eq!((&shown["id"], &shown["parent_id"]), (&issued["key_id"], &json!(parent_id)));
    let agents = bench.get(&format!("/v1/agents?tenant_id={tenant}")).await;
    assert_eq!(agents["items"][0]["id"], issued["agent_id"]);
    let made = bench.get("/v1/audit?kind=key_created").await["items"][0].clone();
    assert_eq!((&made["actor"], &made["detail"]["parent_id"]), (&json!(parent_id), &json!(parent_id)));
    assert!(!made.to_string().contains(secret(&issued)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_of_an_agents_key_belongs_to_the_agent() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(0).await;
    let agent = json!({"tenant_id": tenant, "name": "bot"});
    let agent = bench.post("/v1/agents", agent, StatusCode::CREATED).await["id"].clone();
    let (_, parent) = parent(&bench, &tenant, json!({"agent_id": agent})).await;
    let issued = expect(issue(&bench, "r1", &parent, json!({})).await, StatusCode::CREATED).await;
    assert_eq!(issued["agent_id"], agent);
    assert_eq!(bench.get("/v1/agents").await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_removed_from_a_parent_are_removed_from_its_children() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(0).await;
    let (parent_id, parent) = parent(&bench, &tenant, json!({})).await;
    let issued = expect(issue(&bench, "r1", &parent, json!({})).await, StatusCode::CREATED).await;
    let child = secret(&issued);
    let path = format!("/v1/keys/{parent_id}?allow_unknown=true");
    let change = |body: Value| bench.request(Method::PATCH, &path).header("if-match", "*").json(&body).send();
    let narrowed = json!({
        "scopes": ["read"], "services": ["elsewhere"], "limits": [{"permits": 1, "window_seconds": 9}],
        "expires_at": "2999-01-01T00:00:00Z", "reason": "less",
    });
    expect(change(narrowed).await.unwrap(), StatusCode::OK).await;
    let now = record(&bench, child).await;
    assert_eq!((&now["scopes"], &now["services"]), (&json!(["read"]), &json!([])));
    assert_eq!(now["parent"]["limits"], json!([{"permits": 1, "window_seconds": 9}]));
    // A child key whose permissions an administrator extends may still do no more than its parent.
    let own = format!("/v1/keys/{}", issued["key_id"].as_str().unwrap());
    let more = json!({"scopes": ["read", "generate", "admin"], "expires_at": null, "reason": "more"});
    let patch = bench.request(Method::PATCH, &own).header("if-match", "*").json(&more).send();
    expect(patch.await.unwrap(), StatusCode::OK).await;
    let now = record(&bench, child).await;
    assert_eq!((&now["scopes"], &now["expires_at"]), (&json!(["read"]), &json!("2999-01-01T00:00:00.000Z")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_key_ends_with_its_parent_in_every_way_of_ending() {
    assert_child_ends_with_its_parent(&Bench::start().await).await;
}

async fn assert_child_ends_with_its_parent(bench: &Bench) {
    for (end, body, state) in [
        ("revoke", json!({"reason": "leaked"}), "revoked"),
        ("expire", json!({"reason": "over"}), "expired"),
        ("rotate", json!({"grace_seconds": 0}), "expired"),
    ] {
        let tenant = bench.tenant(10).await;
        let (parent_id, parent) = parent(bench, &tenant, json!({})).await;
        let issued = expect(issue(bench, end, &parent, json!({})).await, StatusCode::CREATED).await;
        let child = issued["key_id"].as_str().unwrap();
        bench.post(&format!("/v1/keys/{parent_id}/{end}"), body, StatusCode::OK).await;
        assert_eq!(record(bench, secret(&issued)).await["state"], state, "{end}");
        assert_eq!(bench.get(&format!("/v1/keys/{child}")).await["state"], state, "{end}");
        let listed = bench.get(&format!("/v1/keys?tenant_id={tenant}&source=mcp&state={state}")).await;
        assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{end}");
        let active = bench.get(&format!("/v1/keys?tenant_id={tenant}&source=mcp&state=active")).await;
        assert_eq!(active["items"], json!([]), "{end}");
        let refused = issue(bench, &format!("{end}-2"), &parent, json!({})).await;
        assert_eq!(code(&expect(refused, StatusCode::FORBIDDEN).await), "key_inactive", "{end}");
        if end != "rotate" {
            let refused = bench.reserve(end, child, 1).await;
            assert_eq!(code(&expect(refused, StatusCode::FORBIDDEN).await), "key_inactive", "{end}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_parents_grace_period_applies_to_its_child() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(0).await;
    let (parent_id, parent) = parent(&bench, &tenant, json!({})).await;
    let issued = expect(issue(&bench, "r1", &parent, json!({})).await, StatusCode::CREATED).await;
    let rotate = format!("/v1/keys/{parent_id}/rotate");
    let rotated = bench.post(&rotate, json!({"grace_seconds": 60}), StatusCode::OK).await;
    let end = record(&bench, &parent).await["expires_at"].clone();
    assert_eq!(record(&bench, secret(&issued)).await["expires_at"], end);
    let fresh = rotated["secret"].as_str().unwrap();
    let issued = expect(issue(&bench, "r2", fresh, json!({})).await, StatusCode::CREATED).await;
    assert!(record(&bench, secret(&issued)).await["expires_at"].as_str() > end.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_child_key_spends_counts_for_its_parent() {
    spends_as_its_parent(&Bench::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_hold_on_postgresql() {
    let server = std::thread::spawn(|| Throwaway::start().unwrap()).join().unwrap();
    let database = std::thread::scope(|scope| scope.spawn(|| server.database()).join().unwrap());
    let bench = Bench::start_on(&database.unwrap().parse().unwrap()).await;
    assert_child_ends_with_its_parent(&bench).await;
    spends_as_its_parent(&bench).await;
    bench.running.shutdown().await;
}

async fn spends_as_its_parent(bench: &Bench) {
    let tenant = bench.tenant(1000).await;
    let (parent_id, parent) = parent(bench, &tenant, json!({"budget": 50})).await;
    let issued = expect(issue(bench, "r1", &parent, json!({})).await, StatusCode::CREATED).await;
    let child = issued["key_id"].as_str().unwrap();
    expect(bench.reserve("a", child, 30).await, StatusCode::CREATED).await;
    expect(bench.reserve("b", &parent_id, 10).await, StatusCode::CREATED).await;
    for payer in [child, &parent_id] {
        let refused = bench.reserve("c", payer, 11).await;
        assert_eq!(code(&expect(refused, StatusCode::PAYMENT_REQUIRED).await), "quota_exceeded");
    }
    bench.settle("a", json!({"action": "post", "credits": 5})).await;
    bench.settle("b", json!({"action": "void"})).await;
    let spent = bench.get(&format!("/v1/keys/{parent_id}/budget")).await["spent"].clone();
    let of_child = bench.get(&format!("/v1/keys/{child}/budget")).await["spent"].clone();
    assert_eq!((spent, of_child), (json!(5), json!(5)));
    expect(bench.reserve("d", child, 45).await, StatusCode::CREATED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_issued_than_may_be() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(0).await;
    let (_, parent) = parent(&bench, &tenant, json!({"services": ["studio"]})).await;
    let issued = expect(issue(&bench, "r1", &parent, json!({})).await, StatusCode::CREATED).await;
    for (request, asks, more, status, expected) in [
        ("again", secret(&issued), json!({}), StatusCode::FORBIDDEN, "forbidden"),
        ("r1", &parent, json!({}), StatusCode::CONFLICT, "key_exists"),
        (
            "r1",
            &parent,
            json!({"rate_limit": 61}),
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency_key_reused",
        ),
        ("r2", &parent, json!({"service": "other"}), StatusCode::FORBIDDEN, "forbidden"),
        ("r2", "ark_unknown", json!({}), StatusCode::FORBIDDEN, "key_inactive"),
        ("r2", &parent, json!({"ttl_seconds": 0}), StatusCode::BAD_REQUEST, "invalid_request"),
        ("r2", &parent, json!({"ttl_seconds": 86401}), StatusCode::BAD_REQUEST, "invalid_request"),
        ("r2", &parent, json!({"rate_limit": 0}), StatusCode::BAD_REQUEST, "invalid_request"),
    ] {
        let refused = expect(issue(&bench, request, asks, more.clone()).await, status).await;
        assert_eq!(code(&refused), expected, "{request} {more}");
    }
    for child in 1..crate::identity::issued::CHILDREN_MAX {
        let issued = issue(&bench, &format!("many-{child}"), &parent, json!({})).await;
        expect(issued, StatusCode::CREATED).await;
    }
    let refused = expect(issue(&bench, "r2", &parent, json!({})).await, StatusCode::PAYMENT_REQUIRED).await;
    assert_eq!(code(&refused), "quota_exceeded");
    let child = format!("/v1/keys/{}/revoke", issued["key_id"].as_str().unwrap());
    bench.post(&child, json!({"reason": "room"}), StatusCode::OK).await;
    expect(issue(&bench, "r2", &parent, json!({})).await, StatusCode::CREATED).await;
    let suspend = format!("/v1/tenants/{tenant}/suspend");
    bench.post(&suspend, json!({"reason": "late"}), StatusCode::OK).await;
    let refused = expect(issue(&bench, "r3", &parent, json!({})).await, StatusCode::FORBIDDEN).await;
    assert_eq!(code(&refused), "key_inactive");
}
