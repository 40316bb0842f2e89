//! What the gate reads is what the server reads: forms that servers read differently are sent to real servers directly,
//! and through the gate with a key that may not do what some servers read.
//!
//! `servers/README.md` has the results of each server without the gate; UPDATE=1 rewrites it.

#[path = "servers/arguments.rs"]
mod arguments;
#[path = "servers/forms.rs"]
mod forms;
#[path = "servers/heads.rs"]
mod heads;

use forms::Form;
use harness::agent::NewKey;
use harness::servers::Server;
use harness::{Agent, Gate, files, mcp, policy, run};
use std::fs;
use std::sync::Mutex;

/// A gate in front of a server whose MCP endpoint is at this path. The tests' key may call `search` (except deeply),
/// read `docs://*` except private ones, and use what is not listed.
async fn gate(server: &Server, path: &'static str) -> Gate {
    let edit = move |policy: &mut serde_yaml_ng::Value| {
        policy::limit_tier(policy, "free", 100_000, "60s");
        policy["services"] = policy::yaml(&format!(
            "{{studio: {{kind: mcp, path: {path}, tools: {{image_generate: {{risk: local_mutation}},
                search: {{risk: read_only, requires: [{{argument: depth, value: deep, tier: pro}}]}}}},
                resources: {{'docs://*': {{risk: read_only}}, 'docs://private/*': {{risk: destructive}}}}}},
              ci: {{kind: http, path: /api, unlisted: {{risk: read_only}}, tools: {{
                'POST /projects/{{project}}/trigger': {{risk: external_mutation, scopes: [trigger],
                  resource: 'project:{{project}}'}}}}}},
              all: {{kind: http, path: /, unlisted: {{risk: read_only}}, tools: {{}}}}}}"
        ));
    };
    Gate::options().upstream(server.url()).policy(edit).start().await
}

fn is_expensive(what: &str) -> bool {
    what.starts_with("image_generate")
        || what.starts_with("trigger")
        || ["search deep", "read private/one"].contains(&what)
}

/// What the server executed since then.
async fn since(server: &Server, before: usize) -> Vec<String> {
    server.executed().await.split_off(before)
}

/// Sends each form to the server and through the gate. Returns those that the server itself read as something that the
/// key may not do.
async fn expensive_forms(server: &Server, gate: &Gate, agent: &Agent, forms: Vec<Form>) -> Vec<String> {
    let mut dear = Vec::new();
    for Form { shown, request } in forms {
        let request = request.header("host", "localhost:1");
        let before = server.executed().await.len();
        // Some servers close the connection.
        let _ = request.clone().try_send(server.address).await;
        let ran = since(server, before).await;
        if ran.iter().any(|what| is_expensive(what)) {
            dear.push(shown.clone());
        }
        let before = before + ran.len();
        let answer = agent.with_key(request).try_send(gate.address).await;
        let ran = since(server, before).await;
        assert!(!ran.iter().any(|what| is_expensive(what)), "{shown}: {ran:?} {answer:?}");
    }
    dear
}

/// Compares what a server reads with its section of the table.
fn compare(title: &str, rows: &[(&str, Vec<String>)]) {
    static WRITING: Mutex<()> = Mutex::new(());
    let path = files::root().join("tests/servers/README.md");
    let mut section =
        format!("## {title}\n\n| kind | forms that it takes for the dear call |\n| --- | --- |\n");
    for (kind, forms) in rows {
        let forms: Vec<String> = forms.iter().map(|form| format!("`{}`", form.replace('|', "\\|"))).collect();
        let forms = if forms.is_empty() { "none".to_owned() } else { forms.join(" ") };
        section.push_str(&format!("| {kind} | {forms} |\n"));
    }
    let _writing = WRITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let text = fs::read_to_string(&path).expect("the table can be read");
    let start = text.find(&format!("## {title}\n"));
    let end = start.map(|start| text[start + 3..].find("\n## ").map_or(text.len(), |end| start + 4 + end));
    let (start, end) = start.zip(end).unwrap_or((text.len(), text.len()));
    if std::env::var_os("UPDATE").is_some() {
        let gap = if end == text.len() { "" } else { "\n" };
        let before = if text[..start].ends_with("\n\n") { "" } else { "\n" };
        let text = format!("{}{before}{section}{gap}{}", &text[..start], &text[end..]);
        fs::write(&path, text).expect("the table can be written");
    } else {
        assert_eq!(
            text[start..end].trim(),
            section.trim(),
            "tests/servers/README.md: UPDATE=1 writes it anew"
        );
    }
}

/// The results of a server at this path for each kind of form.
async fn examine(title: &str, server: &Server, path: &'static str) {
    let gate = gate(server, path).await;
    let agent = gate.agent_with("free", 0, NewKey::with_scopes(&["read"])).await;
    // The control: a plain request passes, and an expensive one runs if nobody refuses it.
    let plain = forms::post(path, &mcp::search().to_string()).header("host", "localhost:1");
    let before = server.executed().await.len();
    let answer = agent.with_key(plain).send(gate.address).await;
    answer.assert_allowed();
    assert_eq!(since(server, before).await, ["search"]);
    // Names of arguments belong to the tool.
    let own = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{"N":1,"n":2}}}"#;
    let answer =
        agent.with_key(forms::post(path, own).header("host", "localhost:1")).send(gate.address).await;
    answer.assert_allowed();
    let direct = forms::post(path, &mcp::call("image_generate", serde_json::json!({})).to_string());
    direct.header("host", "localhost:1").send(server.address).await;
    assert!(is_expensive(server.executed().await.last().expect("something ran")));

    let mut rows = vec![
        ("content type", expensive_forms(server, &gate, &agent, forms::content_types(path)).await),
        ("names of members", expensive_forms(server, &gate, &agent, forms::names(path)).await),
        ("URI of a resource", expensive_forms(server, &gate, &agent, forms::uris(path)).await),
        ("path of the endpoint", expensive_forms(server, &gate, &agent, forms::endpoints(path)).await),
    ];
    if path == "/mcp" && title != "PyPI mcp" {
        rows.push(("path of a route", expensive_forms(server, &gate, &agent, forms::routes()).await));
        let granted = NewKey::with_scopes(&["trigger"]).resource("project:a", None);
        let granted = gate.agent_with("free", 0, granted).await;
        forms_of_a_grant(server, &gate, &granted).await;
    }
    gate.assert_healthy().await;
    compare(title, &rows);
}

/// A key that is restricted to one project triggers no other, however the path is written.
async fn forms_of_a_grant(server: &Server, gate: &Gate, granted: &Agent) {
    for project in forms::resource_values("a") {
        let before = server.executed().await.len();
        let request = harness::Request::post(format!("/api/projects/{project}/trigger"));
        let answer = granted.with_key(request.body(b"{}")).try_send(gate.address).await;
        let ran = since(server, before).await;
        assert!(ran.iter().all(|what| what == "trigger a"), "{project}: {ran:?} {answer:?}");
        assert!(project != "a" || ran.len() == 1, "{answer:?}");
    }
}

#[test]
fn express_reads_what_the_gate_reads() {
    run(async {
        let server = Server::express().await;
        examine("Express 5", &server, "/mcp").await;
        examine("MCP SDK for TypeScript", &server, "/sdk").await;
    });
}

#[test]
fn aiohttp_reads_what_the_gate_reads() {
    run(async { examine("aiohttp", &Server::aiohttp().await, "/mcp").await });
}

#[test]
fn the_python_sdk_reads_what_the_gate_reads() {
    run(async { examine("PyPI mcp", &Server::python().await, "/mcp").await });
}

#[test]
fn go_reads_what_the_gate_reads() {
    run(async {
        let server = Server::go().await;
        examine("Go net/http and encoding/json", &server, "/mcp").await;
        examine("MCP SDK for Go", &server, "/sdk").await;
    });
}

#[test]
fn rust_reads_what_the_gate_reads() {
    run(async {
        let server = Server::rust().await;
        examine("axum and serde", &server, "/mcp").await;
        examine("MCP SDK for Rust", &server, "/sdk").await;
    });
}

#[test]
fn java_reads_what_the_gate_reads() {
    run(async {
        let Some(server) = Server::java().await else { return };
        examine("Tomcat and Jackson", &server, "/mcp").await;
        examine("MCP SDK for Java", &server, "/sdk").await;
    });
}

/// A gate for a service of which the key may use everything but two routes.
async fn gate_of_forms(server: &Server, path: &'static str) -> (Gate, Agent) {
    let edit = move |policy: &mut serde_yaml_ng::Value| {
        policy::limit_tier(policy, "free", 100_000, "60s");
        policy["services"] = policy::yaml(&format!(
            "{{ci: {{kind: http, path: {path}, unlisted: {{risk: read_only}}, tools: {{
                'POST /{{project}}': {{risk: read_only}},
                'DELETE /{{project}}': {{risk: external_mutation, scopes: [trigger]}},
                'POST /projects/{{project}}/trigger': {{risk: external_mutation, scopes: [trigger]}}}}}}}}"
        ));
    };
    let gate = Gate::options().upstream(server.url()).policy(edit).start().await;
    let agent = gate.agent_with("free", 0, NewKey::with_scopes(&["read"])).await;
    (gate, agent)
}

#[test]
fn no_query_replaces_the_method_that_the_gate_reads() {
    run(async {
        let server = Server::express().await;
        let (gate, agent) = gate_of_forms(&server, "/forms").await;
        let request = |target: &str| harness::Request::post(target).body(b"{}");
        request("/forms/1?_method=DELETE").send(server.address).await;
        request("/forms/2").header("x-http-method-override", "DELETE").send(server.address).await;
        assert_eq!(server.executed().await, ["remove 1", "remove 2"], "the server itself does it");
        for query in [
            "_method=DELETE",
            "%5Fmethod=DELETE",
            "a=1&_method=DELETE",
            "a=%zz&_method=DELETE",
            "_method[]=DELETE",
        ] {
            let answer = agent.send(request(&format!("/forms/3?{query}"))).await;
            assert_eq!(answer.status, 400, "{query}: {answer:?}");
        }
        agent.send(request("/forms/4").header("x-http-method-override", "DELETE")).await.assert_allowed();
        agent.send(request("/forms/5?method=DELETE")).await.assert_allowed();
        assert_eq!(since(&server, 2).await, ["change 4", "change 5"]);
        gate.assert_healthy().await;
    });
}

#[test]
fn no_script_before_a_path_hides_its_route() {
    run(async {
        let server = Server::front_controller().await;
        let path_of = |answer: &harness::Response| answer.json()["PATH_INFO"].as_str().map(str::to_owned);
        let request = |target: &str| harness::Request::post(target).body(b"{}");
        let (gate, agent) = gate_of_forms(&server, "/").await;
        for target in ["/projects/1/trigger", "/index.php/projects/1/trigger"] {
            let direct = request(target).send(server.address).await;
            assert_eq!(path_of(&direct).as_deref(), Some("/projects/1/trigger"), "{direct:?}");
            let answer = agent.send(request(target)).await;
            assert!(matches!(answer.status, 400 | 403), "{target}: {answer:?}");
        }
        let answer = agent.send(request("/index.php/projects/1/other")).await;
        assert_eq!(path_of(&answer).as_deref(), Some("/projects/1/other"), "{answer:?}");
        gate.assert_healthy().await;
    });
}
