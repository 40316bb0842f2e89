//! Prompts and resources: those that the policy names can be read with their scopes, and all others are hidden.

use harness::agent::NewKey;
use harness::python::Server;
use harness::{Agent, Gate, Response, mcp, policy, run};
use serde_json::{Value, json};

async fn gate(server: &Server) -> Gate {
    let named = |policy: &mut serde_yaml_ng::Value| {
        let studio = &mut policy["services"]["studio"];
        studio["prompts"] = policy::yaml(
            "{test_simple_prompt: {risk: read_only}, test_prompt_with_image: {risk: destructive}}",
        );
        studio["resources"] = policy::yaml(
            "{'test://static-*': {risk: read_only}, 'test://template/*': {risk: read_only, scopes: [generate]}}",
        );
    };
    Gate::options().upstream(&server.url).policy(named).start().await
}

/// Sends a request of the modern era to the real server behind the gate.
async fn send(agent: &Agent, method: &str, params: Value) -> Response {
    // The server accepts only hosts of this machine, and requires a port.
    let request = mcp::modern(mcp::request(method, params.clone())).header("host", "localhost:1");
    agent
        .send(match params["uri"].as_str() {
            Some(uri) => request.header("mcp-name", uri),
            None => request,
        })
        .await
}

/// The names in a list, and whether caches may share it.
async fn listed(agent: &Agent, method: &str, list: &str, name: &str) -> (Vec<String>, String) {
    let answer = send(agent, method, json!({})).await;
    answer.assert_allowed();
    let result = answer.json()["result"].clone();
    let items = result[list].as_array().unwrap_or_else(|| panic!("no list: {result}"));
    let names = items.iter().map(|item| item[name].as_str().unwrap().to_owned()).collect();
    (names, result["cacheScope"].as_str().unwrap().to_owned())
}

#[test]
fn lists_show_what_the_key_may_read() {
    run(async {
        let server = Server::start_program("fixture_server", &[]).await;
        let gate = gate(&server).await;
        let reader = gate.agent_with("pro", 0, NewKey::with_scopes(&["read"])).await;
        let both = gate.agent_with("pro", 0, NewKey::with_scopes(&["read", "generate"])).await;
        for (agent, templates) in [(&reader, 0), (&both, 1)] {
            let (prompts, scope) = listed(agent, "prompts/list", "prompts", "name").await;
            assert_eq!((prompts, scope.as_str()), (vec!["test_simple_prompt".to_owned()], "private"));
            let (resources, scope) = listed(agent, "resources/list", "resources", "uri").await;
            assert_eq!(resources, ["test://static-text", "test://static-binary"]);
            assert_eq!(scope, "private");
            let method = "resources/templates/list";
            let (found, _) = listed(agent, method, "resourceTemplates", "uriTemplate").await;
            assert_eq!(found.len(), templates, "{found:?}");
        }
        gate.assert_healthy().await;
    });
}

#[test]
fn unnamed_or_ungranted_resources_can_not_be_read() {
    run(async {
        let server = Server::start_program("fixture_server", &[]).await;
        let gate = gate(&server).await;
        let agent = gate.agent_with("pro", 0, NewKey::with_scopes(&["read"])).await;
        let completion = |name: &str| json!({"ref": {"type": "ref/prompt", "name": name}, "argument": {"name": "a", "value": ""}});
        for (method, params, status) in [
            ("prompts/get", json!({"name": "test_simple_prompt"}), 200),
            ("prompts/get", json!({"name": "test_prompt_with_arguments"}), 404),
            ("prompts/get", json!({"name": "test_prompt_with_image"}), 403),
            ("prompts/get", json!({}), 404),
            ("resources/read", json!({"uri": "test://static-text"}), 200),
            ("resources/read", json!({"uri": "test://watched-resource"}), 404),
            ("resources/read", json!({"uri": "test://static-x/../watched-resource"}), 404),
            ("resources/read", json!({"uri": "test://template/1/data"}), 403),
            ("completion/complete", completion("test_simple_prompt"), 200),
            ("completion/complete", completion("test_prompt_with_arguments"), 404),
        ] {
            let answer = send(&agent, method, params.clone()).await;
            assert_eq!(answer.status, status, "{method} {params}: {answer:?}");
        }
    });
}
