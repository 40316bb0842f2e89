//! OAuth metadata: served if the operator names an authorization server, and not otherwise.

use harness::agent::NewKey;
use harness::{Gate, Request, mcp, policy, run};
use serde_json::json;

const METADATA: &str = "/.well-known/oauth-protected-resource/mcp";

#[test]
fn clients_find_the_authorization_server() {
    run(async {
        let named = |policy: &mut serde_yaml_ng::Value| {
            policy["services"]["studio"]["oauth"] = policy::yaml(
                "{resource: 'https://gate.test/mcp', authorization_servers: ['https://login.test']}",
            );
        };
        let gate = Gate::options().policy(named).start().await;
        let refused = gate.send(mcp::post(&mcp::search())).await;
        refused.assert_refused(401, "auth_denied");
        let url = format!("resource_metadata=\"https://gate.test{METADATA}\"");
        assert_eq!(refused.header("www-authenticate"), Some(format!("Bearer {url}").as_str()));

        let answer = gate.send(Request::get(METADATA)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(
            answer.json(),
            json!({
                "resource": "https://gate.test/mcp",
                "authorization_servers": ["https://login.test"],
                "scopes_supported": ["generate", "read"],
                "bearer_methods_supported": ["header"],
            })
        );
        gate.assert_unseen(&answer.marker);

        let reader = gate.agent_with("pro", 0, NewKey::with_scopes(&["read"])).await;
        let refused = reader.call(&mcp::image("standard")).await;
        let expected = format!("Bearer error=\"insufficient_scope\", scope=\"generate\", {url}");
        assert_eq!(refused.header("www-authenticate"), Some(expected.as_str()));
        // Only this document is public.
        for request in [Request::post(METADATA).body(b"{}"), Request::get(format!("{METADATA}/x"))] {
            let refused = gate.send(request).await;
            assert_eq!(refused.status, 401, "{refused:?}");
            gate.assert_unseen(&refused.marker);
        }
        gate.assert_healthy().await;
    });
}

#[test]
fn without_an_authorization_server_no_metadata_is_served() {
    run(async {
        let gate = Gate::shared().await;
        let refused = gate.send(mcp::post(&mcp::search())).await;
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
        let answer = gate.send(Request::get(METADATA)).await;
        assert_eq!(answer.status, 401, "{answer:?}");
        gate.assert_unseen(&answer.marker);
    });
}
