//! Clients in browsers: the `cors` filter that the shipped file has commented out, in a real Chromium.

use harness::agent::NewKey;
use harness::python::Server;
use harness::{Gate, Request, files, mcp, node, run};
use serde_json::{Value, json};
use serde_yaml_ng::Value as Yaml;

const MANAGER: &str = "static_resources/listeners/gate/filter_chains/0/filters/\
    envoy.filters.network.http_connection_manager/typed_config";

/// The shipped file's own settings for browsers, for pages from any port of this machine.
fn with_cors(bootstrap: &mut Yaml) {
    let shipped = std::fs::read_to_string(files::root().join("envoy/envoy.yaml")).unwrap();
    let mut opened: Yaml = serde_yaml_ng::from_str(&shipped.replace("#cors ", "")).unwrap();
    let field = cli::stack::bootstrap::field;
    let names = |filters: &Yaml| -> Vec<String> {
        filters
            .as_sequence()
            .unwrap()
            .iter()
            .map(|filter| filter["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let filters = field(&mut opened, &format!("{MANAGER}/http_filters")).unwrap().clone();
    assert_eq!(names(&filters), ["envoy.filters.http.cors", "agentrelay", "envoy.filters.http.router"]);
    let cors = filters[0].clone();
    field(bootstrap, &format!("{MANAGER}/http_filters")).unwrap().as_sequence_mut().unwrap().insert(0, cors);
    let host = format!("{MANAGER}/route_config/virtual_hosts/tools");
    let mut rules = field(&mut opened, &host).unwrap()["typed_per_filter_config"].clone();
    let policy = &mut rules["envoy.filters.http.cors"];
    assert!(policy["allow_origin_string_match"][0]["exact"].is_string(), "the shipped file names a page");
    policy["allow_origin_string_match"] =
        serde_yaml_ng::from_str(r"[{safe_regex: {regex: 'http://127\.0\.0\.1:[0-9]+'}}]").unwrap();
    field(bootstrap, &host).unwrap()["typed_per_filter_config"] = rules;
}

#[test]
fn a_page_in_chromium_lists_calls_and_reads_refusals() {
    run(async {
        let server = Server::start(&[]).await;
        let gate = Gate::options().upstream(&server.url).envoy(with_cors).start().await;
        let agent = gate.agent_with("hobby", 0, NewKey::default().limit(12, 60)).await;
        let page = files::root().join("tests/clients/browser_page.mjs");
        let profile = files::process_directory().join("browser");
        let url = format!("http://{}/mcp", gate.address);
        let steps = [
            json!(["list"]),
            json!(["call", "search", {"query": "lighthouses"}]),
            json!(["call", "image_generate", {"prompt": "a", "quality": "standard"}]),
        ];
        let steps: Vec<String> = steps.iter().map(Value::to_string).collect();
        let mut arguments = vec![page.to_str().unwrap(), profile.to_str().unwrap(), url.as_str()];
        arguments.extend(steps.iter().map(String::as_str));
        let output = node::client("browser", &agent.secret, &arguments).await;
        let answers: Vec<Value> =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let [list, call, refused, wrong, ok, limited] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!(list["tools"].as_array().map(Vec::len), Some(3), "{answers:?}");
        assert_eq!(call["content"][0]["text"], "3 results for lighthouses", "{answers:?}");
        assert!(refused["error"]["message"].to_string().contains("Quota exceeded"), "{answers:?}");
        assert_eq!((&wrong["status"], &wrong["body"]["error"]["code"]), (&json!(401), &json!(40101)));
        assert!(wrong["headers"]["www-authenticate"].as_str().unwrap().starts_with("Bearer"), "{wrong}");
        assert_eq!(ok["status"], 200, "{answers:?}");
        assert_eq!((&limited["status"], &limited["body"]["error"]["code"]), (&json!(429), &json!(42901)));
        for name in ["retry-after", "ratelimit", "ratelimit-policy", "x-ratelimit-remaining"] {
            assert!(limited["headers"][name].is_string(), "a script can't read {name}: {limited}");
        }
        gate.assert_healthy().await;
    });
}

#[test]
fn the_inspector_in_chromium_lists_calls_and_shows_refusals() {
    run(async {
        let server = Server::start(&[]).await;
        let gate = Gate::options().upstream(&server.url).envoy(with_cors).start().await;
        let agent = gate.agent_with("hobby", 0, NewKey::default()).await;
        let profile = files::process_directory().join("inspector");
        let url = format!("http://{}/mcp", gate.address);
        let steps = [
            json!(["list"]),
            json!(["call", "search", {"query": "lighthouses"}]),
            json!(["call", "image_generate", {"prompt": "a"}]),
        ]
        .map(|step| step.to_string());
        let [list, call, refused] = &steps;
        let arguments = [profile.to_str().unwrap(), &url, list, call, refused];
        let output = node::client("inspector", &agent.secret, &arguments).await;
        let shown: Vec<String> =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let [list, call, refused] = &shown[..] else { panic!("{shown:#?}") };
        assert!(list.contains("search") && list.contains("image_generate"), "{list}");
        assert!(call.contains("3 results for lighthouses"), "{call}");
        assert!(refused.contains("Quota exceeded"), "{refused}");
        gate.assert_healthy().await;
    });
}

#[test]
fn a_preflight_is_answered_before_the_gate_and_other_origins_are_refused() {
    run(async {
        let gate = Gate::options().envoy(with_cors).start().await;
        let agent = gate.agent("hobby").await;
        let preflight = |origin: &str, method: &str| {
            Request::new("OPTIONS", mcp::PATH)
                .header("origin", origin)
                .header("access-control-request-method", method)
                .header("access-control-request-headers", "authorization, mcp-session-id, mcp-param-region")
        };
        for method in ["POST", "GET", "DELETE"] {
            let answer = gate.send(preflight("http://127.0.0.1:1", method)).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.header("access-control-allow-origin"), Some("http://127.0.0.1:1"));
            assert!(answer.header("access-control-allow-methods").unwrap().contains(method), "{answer:?}");
            assert!(answer.header("access-control-allow-headers").unwrap().contains("authorization"));
            gate.assert_unseen(&answer.marker);
        }
        let other = gate.send(preflight("https://evil.example", "POST")).await;
        assert_eq!(other.header("access-control-allow-origin"), None, "{other:?}");
        gate.assert_unseen(&other.marker);
        for request in [mcp::post(&mcp::search()), mcp::post(&mcp::search()).key("wrong")] {
            let refused = gate.send(request.header("origin", "http://127.0.0.1:1")).await;
            refused.assert_refused(401, "auth_denied");
            assert_eq!(refused.header("access-control-allow-origin"), Some("http://127.0.0.1:1"));
            let exposed = refused.header("access-control-expose-headers").unwrap();
            for name in ["mcp-session-id", "www-authenticate", "retry-after", "ratelimit"] {
                assert!(exposed.contains(name), "{exposed}");
            }
        }
        gate.assert_serving(&agent).await;
    });
}
