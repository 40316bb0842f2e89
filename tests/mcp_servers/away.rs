//! Unavailable upstreams and Envoy's own refusals: no client sees Envoy's own text.

use harness::http1::Connection;
use harness::scripted::{Script, Scripted};
use harness::{Gate, Request, Response, mcp, policy, run};
use protocol::audit::Outcome;
use serde_json::{Value, json};
use serde_yaml_ng::Value as Yaml;

/// Names the fault of a request.
const FAULT: &str = "x-fault";

const VIRTUAL_HOST: &str = "static_resources/listeners/gate/filter_chains/0/filters/\
    envoy.filters.network.http_connection_manager/typed_config/route_config/virtual_hosts/tools";

/// Adds routes, before the shipped one, to clusters that fail in different ways.
fn with_failing_routes(bootstrap: &mut Yaml, broken: &str) {
    let mut routes: Vec<Yaml> = [
        ("refused", "{cluster: refused}"),
        ("unhealthy", "{cluster: unhealthy}"),
        ("no-dns", "{cluster: no-dns}"),
        ("no-cluster", "{cluster: no-such-cluster}"),
        ("reset", "{cluster: broken}"),
        ("garbage", "{cluster: broken}"),
        ("timeout", "{cluster: broken, timeout: 0.5s}"),
        // It begins with the request, which may wait for the ledger on a busy machine.
        ("silent", "{cluster: broken, timeout: 0s, idle_timeout: 2s}"),
    ]
    .map(|(fault, route)| {
        let matcher =
            format!("{{prefix: /, headers: [{{name: {FAULT}, string_match: {{exact: {fault}}}}}]}}");
        policy::yaml(&format!("{{match: {matcher}, route: {route}}}"))
    })
    .into();
    let matcher = format!("{{prefix: /, headers: [{{name: {FAULT}, string_match: {{exact: no-route}}}}]}}");
    // Envoy's own 404 has no body.
    routes.push(policy::yaml(&format!("{{match: {matcher}, direct_response: {{status: 404}}}}")));
    let host = cli::stack::bootstrap::field(bootstrap, VIRTUAL_HOST).unwrap();
    let shipped = host["routes"].as_sequence().unwrap().clone();
    routes.extend(shipped);
    host["routes"] = Yaml::Sequence(routes);
    let routes = VIRTUAL_HOST.split("/virtual_hosts").next().unwrap();
    cli::stack::bootstrap::field(bootstrap, routes).unwrap()["validate_clusters"] = false.into();
    let endpoint = |host: &str, port: u16| {
        format!(
            "[{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {host}, port_value: {port}}}}}}}}}]}}]"
        )
    };
    let broken: std::net::SocketAddr = broken.trim_start_matches("http://").parse().unwrap();
    for (name, kind, endpoints) in [
        // Nobody listens on the discard port.
        ("refused", "STATIC", endpoint("127.0.0.1", 9)),
        ("unhealthy", "STATIC", "[]".to_owned()),
        ("no-dns", "STRICT_DNS", endpoint("no-such-host.invalid", 80)),
        ("broken", "STATIC", endpoint("127.0.0.1", broken.port())),
    ] {
        let cluster = format!(
            "{{name: {name}, type: {kind}, connect_timeout: 1s, load_assignment: {{cluster_name: {name}, endpoints: {endpoints}}}}}"
        );
        let clusters = bootstrap["static_resources"]["clusters"].as_sequence_mut().unwrap();
        clusters.push(policy::yaml(&cluster));
    }
}

const FAULTS: [(&str, &[u16]); 9] = [
    ("refused", &[503]),
    ("unhealthy", &[503]),
    ("no-dns", &[503]),
    ("no-cluster", &[503]),
    ("reset", &[503]),
    ("garbage", &[502, 503]),
    ("timeout", &[504]),
    ("silent", &[408, 504]),
    ("no-route", &[404]),
];

/// A gate whose requests get the faults that they name, without or with the shipped `local_reply_config`.
async fn gate(form: &'static str, with_local_replies: bool) -> Gate {
    let broken = Scripted::start(|seen| match seen.header(FAULT).as_deref() {
        Some("reset") => Script { pieces: Vec::new(), stays_open: false },
        Some("garbage") => Script { pieces: vec![b"hello\r\n\r\n".to_vec()], stays_open: true },
        _ => Script { pieces: Vec::new(), stays_open: true },
    })
    .await;
    Gate::options()
        .policy(move |policy| {
            policy["services"]["studio"]["refusals"] = form.into();
            policy["services"]["ci"]["tools"]["GET /priced"] =
                policy::yaml("{risk: read_only, price: {credits: 3}}");
        })
        .envoy(move |bootstrap| {
            with_failing_routes(bootstrap, &broken.url);
            if !with_local_replies {
                let manager = VIRTUAL_HOST.split("/route_config").next().unwrap();
                let manager = cli::stack::bootstrap::field(bootstrap, manager).unwrap();
                manager.as_mapping_mut().unwrap().remove("local_reply_config").expect("it is shipped");
            }
        })
        .start()
        .await
}

/// Asserts that the answer has none of Envoy's own text.
fn assert_no_text_of_envoy(answer: &Response) {
    let text = answer.text();
    for word in ["upstream connect", "no healthy", "reset reason", "remote", "cluster", "timeout", "protocol"]
    {
        assert!(!text.contains(word), "{word}: {answer:?}");
    }
    assert!(answer.is_complete, "{answer:?}");
    let length = answer.header("content-length").map(str::to_owned);
    assert_eq!(length, Some(answer.body.len().to_string()), "{answer:?}");
}

#[test]
fn an_unavailable_upstream_is_reported_in_the_services_form_and_costs_nothing() {
    run(async {
        for (form, with_local_replies) in
            [("mcp-http", true), ("mcp-http", false), ("mcp-tool", true), ("http", true)]
        {
            let gate = gate(form, with_local_replies).await;
            let agent = gate.agent("enterprise").await;
            for (fault, statuses) in FAULTS {
                let image = json!({"jsonrpc": "2.0", "id": "it", "method": "tools/call",
                                   "params": {"name": "image_generate", "arguments": {}}});
                let mut leased = mcp::call("summarize", json!({}));
                leased["id"] = json!("it");
                let mut list = mcp::list();
                list["id"] = json!("it");
                for message in [image, leased, list] {
                    let answer = agent.send(mcp::post(&message).header(FAULT, fault)).await;
                    assert!(statuses.contains(&answer.status), "{fault}: {answer:?}");
                    let status = answer.status;
                    answer.assert_refused(status, "upstream_error");
                    assert_no_text_of_envoy(&answer);
                    if form == "http" {
                        assert_eq!(
                            answer.header("content-type"),
                            Some("application/problem+json"),
                            "{answer:?}"
                        );
                        assert!(answer.json()["request_id"].is_string(), "{answer:?}");
                    } else {
                        assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
                        let said = answer.json();
                        assert_eq!(
                            (&said["jsonrpc"], &said["id"]),
                            (&json!("2.0"), &json!("it")),
                            "{answer:?}"
                        );
                        assert_eq!(said["error"]["code"], u64::from(status) * 100 + 2);
                        assert!(said["error"]["data"]["requestId"].is_string(), "{answer:?}");
                    }
                }
                let stream = agent.send(Request::get(mcp::PATH).header(FAULT, fault)).await;
                stream.assert_refused(stream.status, "upstream_error");
                let route = Request::get("/api/v1/mcp/priced").header(FAULT, fault);
                let route = agent.send(route).await;
                route.assert_refused(route.status, "upstream_error");
                assert_eq!(route.header("content-type"), Some("application/problem+json"), "{route:?}");
                assert_eq!(route.json()["status"], route.status);
                assert_no_text_of_envoy(&route);
                assert_batch(&agent.send(batch().header(FAULT, fault)).await);
            }
            assert_eq!(gate.settled(&agent).await.posted.get(), 0, "{form}");
            let rows = gate.audit(&agent).await;
            let calls =
                rows.iter().filter(|row| row.detail["tool"] == "image_generate" && row.kind == "decision");
            assert!(calls.clone().all(|row| row.outcome == Some(Outcome::UpstreamError)), "{rows:?}");
            gate.assert_healthy().await;
        }
    });
}

fn batch() -> Request {
    let call = |id: u32, tool: &str| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": {}}});
    let batch = json!([call(1, "image_generate"), call(2, "unlisted"), mcp::notification("notifications/x")]);
    mcp::post(&batch).header("mcp-protocol-version", "2025-03-26")
}

/// Each message gets its own answer, the refused one its own refusal.
fn assert_batch(answer: &Response) {
    assert!(answer.status >= 400, "{answer:?}");
    assert_no_text_of_envoy(answer);
    let said: Vec<Value> = answer.json().as_array().unwrap_or_else(|| panic!("{answer:?}")).clone();
    let reason = |message: &Value| message["error"]["data"]["reason"].as_str().unwrap_or_default().to_owned();
    let said: Vec<(Value, String)> =
        said.iter().map(|message| (message["id"].clone(), reason(message))).collect();
    let expected = [(json!(1), "upstream_error".to_owned()), (json!(2), "unknown_tool".to_owned())];
    assert_eq!(said, expected, "{answer:?}");
}

#[test]
fn the_upstreams_own_errors_stay_unchanged() {
    run(async {
        let upstream = Scripted::start(|seen| {
            let status = seen.header("x-status").unwrap().parse().unwrap();
            Script::whole(status, "text/plain", b"no healthy upstream")
        })
        .await;
        let gate = Gate::options().upstream(&upstream.url).start().await;
        let agent = gate.agent("enterprise").await;
        for status in [400, 404, 413, 429, 500, 502, 503, 504] {
            for request in [mcp::post(&mcp::search()), Request::get("/api/v1/mcp/projects/1/builds")] {
                let answer = agent.send(request.header("x-status", status.to_string())).await;
                assert_eq!(
                    (answer.status, answer.text().as_str()),
                    (status, "no healthy upstream"),
                    "{answer:?}"
                );
                assert_eq!(answer.header("content-type"), Some("text/plain"));
                answer.rate();
            }
        }
    });
}

/// The answer to bytes that may not be a complete request.
async fn raw(gate: &Gate, bytes: &[u8]) -> Result<Response, String> {
    let mut connection = Connection::open(gate.address).await;
    // The gate may close before it has read everything.
    let _ = connection.write(bytes).await;
    connection.response().await
}

#[test]
fn envoys_own_refusals_before_the_gate_are_problems_too() {
    run(async {
        let gate = Gate::options()
            .envoy(|bootstrap| {
                let manager = VIRTUAL_HOST.split("/route_config").next().unwrap();
                let manager = cli::stack::bootstrap::field(bootstrap, manager).unwrap();
                manager["request_headers_timeout"] = "1s".into();
                manager["request_timeout"] = "2s".into();
            })
            .start()
            .await;
        let agent = gate.agent("enterprise").await;
        let key = &agent.secret;
        let large = "x".repeat(100_000);
        let slow = format!(
            "POST /mcp HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{{"
        );
        for (request, status, is_mcp) in [
            ("GET /a%2fb HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), 400, false),
            ("GET / HTTP/1.1\r\nhost: a\r\nx_y: z\r\n\r\n".to_owned(), 400, false),
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400, false),
            ("GET / HTTP/1.0\r\nhost: a\r\n\r\n".to_owned(), 426, false),
            (format!("GET / HTTP/1.1\r\nhost: a\r\nx: {large}\r\n\r\n"), 431, false),
            ("GET / HTTP/1.1\r\nhost: a\r\nx: ".to_owned(), 408, false),
            ("BAD\r\n\r\n".to_owned(), 400, false),
            ("POST /mcp HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n".to_owned(), 400, false),
            (
                "GET / HTTP/1.1\r\nhost: a\r\nupgrade: h9\r\nconnection: upgrade\r\n\r\n".to_owned(),
                403,
                false,
            ),
            (slow, 408, true),
        ] {
            let shown: String = request.chars().take(60).collect();
            let answer = raw(&gate, request.as_bytes()).await;
            let answer = answer.unwrap_or_else(|fault| panic!("{shown}: {fault}"));
            assert_eq!(answer.status, status, "{shown}: {answer:?}");
            assert_no_text_of_envoy(&answer);
            assert_eq!(answer.reason().as_deref(), Some("invalid_request"), "{shown}: {answer:?}");
            let kind = answer.header("content-type");
            if is_mcp {
                assert_eq!(kind, Some("application/json"), "{shown}: {answer:?}");
                answer.rate();
            } else {
                assert_eq!(kind, Some("application/problem+json"), "{shown}: {answer:?}");
                assert_eq!(answer.json()["status"], status, "{shown}: {answer:?}");
            }
        }
        // The gate's own replies stay its own.
        let own = gate.send(mcp::post(&mcp::search())).await;
        own.assert_refused(401, "auth_denied");
        assert_eq!(own.header("content-type"), Some("application/json"));
        gate.assert_serving(&agent).await;
    });
}
