//! The REST service: limited, scoped and charged by method and path template, as MCP tools are by name.

use harness::agent::{NewKey, from_now};
use harness::clock::eventually;
use harness::gate::at_once;
use harness::{Agent, Gate, Request, Response, policy, run, wait};
use protocol::audit::Outcome;
use std::time::Duration;

const BASE: &str = "/api/v1/mcp/projects";

async fn send(agent: &Agent, method: &str, path: &str) -> Response {
    agent.send(Request::new(method, format!("{BASE}{path}"))).await
}

#[test]
fn each_endpoint_has_its_own_limit() {
    run(async {
        let gate = Gate::shared().await;
        for (method, path, permits) in [
            ("GET", "/42/builds", 30),
            ("GET", "/42/jobs/7/log", 10),
            ("GET", "/42/jobs/7/artifacts", 10),
            ("POST", "/42/trigger", 5),
        ] {
            let agent = gate.agent_with("enterprise", 0, NewKey::with_scopes(&["read", "trigger"])).await;
            let calls = (0..permits + 15).map(|_| {
                let agent = agent.clone();
                async move { send(&agent, method, path).await }
            });
            let answers = at_once(calls).await;
            let passed = answers.iter().filter(|answer| answer.status == 200).count();
            assert_eq!(passed, permits, "{method} {path}");
            for refused in answers.iter().filter(|answer| answer.status != 200) {
                refused.assert_refused(429, "rate_limited");
                assert_eq!(refused.header("content-type"), Some("application/problem+json"));
                assert_eq!(refused.rate().limit, u64::try_from(permits).unwrap());
                gate.assert_unseen(&refused.marker);
            }
            // Another endpoint of the same key still has permits.
            let other = if path.ends_with("builds") { "/42/jobs/7/log" } else { "/42/builds" };
            assert_eq!(send(&agent, "GET", other).await.status, 200, "{method} {path}");
        }
        gate.assert_healthy().await;
    });
}

#[test]
fn an_endpoint_is_one_tool_whatever_its_variables_are() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("enterprise", 0, NewKey::with_scopes(&["read"])).await;
        for project in 0..10 {
            assert_eq!(send(&agent, "GET", &format!("/{project}/jobs/{project}/log")).await.status, 200);
        }
        send(&agent, "GET", "/another/jobs/1/log").await.assert_refused(429, "rate_limited");
        // The route of GET answers HEAD and counts it.
        let head = send(&agent, "HEAD", "/another/jobs/1/log").await;
        assert_eq!((head.status, head.body.len()), (429, 0), "{head:?}");
        gate.assert_unseen(&head.marker);
    });
}

#[test]
fn project_grants_hold_and_end() {
    run(async {
        let gate = Gate::shared().await;
        let key = NewKey::with_scopes(&["read"])
            .resource("project:42", None)
            .resource("project:7", Some(from_now(15_000)));
        let agent = gate.agent_with("enterprise", 0, key).await;
        assert_eq!(send(&agent, "GET", "/42/builds").await.status, 200);
        assert_eq!(send(&agent, "GET", "/7/builds").await.status, 200);
        for path in
            ["/8/builds", "/422/builds", "/4/builds", "/42%20/builds", "/8/jobs/42/log", "/042/builds"]
        {
            let refused = send(&agent, "GET", path).await;
            refused.assert_refused(403, "insufficient_scope");
            gate.assert_unseen(&refused.marker);
        }
        wait(Duration::from_secs(15)).await;
        let refused = eventually("the grant ends", async || {
            let answer = send(&agent, "GET", "/7/builds").await;
            if answer.status == 200 { Err(format!("{answer:?}")) } else { Ok(answer) }
        })
        .await;
        refused.assert_refused(403, "insufficient_scope");
        assert_eq!(send(&agent, "GET", "/42/builds").await.status, 200, "the other grant goes on");
    });
}

#[test]
fn the_trigger_needs_its_own_scope() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("pro", 0, NewKey::with_scopes(&["read", "generate", "admin"])).await;
        let refused = send(&agent, "POST", "/42/trigger").await;
        refused.assert_refused(403, "insufficient_scope");
        assert_eq!(
            refused.header("www-authenticate"),
            Some("Bearer error=\"insufficient_scope\", scope=\"trigger\"")
        );
        gate.assert_unseen(&refused.marker);
        let may = gate.agent_with("pro", 0, NewKey::with_scopes(&["trigger"])).await;
        let allowed =
            may.send(Request::post(format!("{BASE}/42/trigger")).body(b"{\"branch\":\"main\"}")).await;
        assert_eq!(allowed.status, 200, "{allowed:?}");
        assert_eq!(gate.upstream.the_one(&allowed.marker).body, b"{\"branch\":\"main\"}");
        send(&may, "GET", "/42/builds").await.assert_refused(403, "insufficient_scope");
    });
}

#[test]
fn a_path_that_no_rule_matches_is_refused() {
    run(async {
        let gate = Gate::shared().await;
        let all = NewKey::with_scopes(&["read", "generate", "trigger", "admin"]);
        let agent = gate.agent_with("enterprise", 0, all).await;
        for (method, target) in [
            ("GET", "/"),
            ("GET", "/api/v1/mcp"),
            ("GET", "/api/v1/mcp/"),
            ("GET", "/api/v1/mcp/projects"),
            ("GET", "/api/v1/mcp/projects/42"),
            ("GET", "/api/v1/mcp/projects/42/builds/"),
            ("GET", "/api/v1/mcp/projects/42/builds/1"),
            ("GET", "/api/v1/mcp/projects/42/trigger"),
            ("POST", "/api/v1/mcp/projects/42/builds"),
            ("DELETE", "/api/v1/mcp/projects/42/builds"),
            ("PATCH", "/api/v1/mcp/projects/42/trigger"),
            ("OPTIONS", "/api/v1/mcp/projects/42/builds"),
            ("get", "/api/v1/mcp/projects/42/builds"),
            ("GET", "/api/v1/mcpx/projects/42/builds"),
            ("GET", "/API/v1/mcp/projects/42/builds"),
            ("GET", "/api/v1/mcp/Projects/42/builds"),
            ("GET", "/mcp/x"),
            ("POST", "/MCP"),
        ] {
            let refused = agent.send(Request::new(method, target)).await;
            if refused.status == 404 {
                refused.assert_refused(404, "unknown_tool");
            } else {
                // Envoy itself refuses such a method.
                assert_eq!((method, refused.status), ("get", 400), "{method} {target}: {refused:?}");
            }
            gate.assert_unseen(&refused.marker);
        }
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn refusals_are_problems_that_programs_can_read() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("pro", 0, NewKey::with_scopes(&[])).await;
        let refused = send(&agent, "GET", "/42/builds").await;
        refused.assert_refused(403, "insufficient_scope");
        assert_eq!(refused.header("content-type"), Some("application/problem+json"));
        let problem = refused.json();
        assert_eq!(problem["type"], "urn:agentrelay:problem:insufficient_scope");
        assert_eq!(problem["status"], 403);
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
        // The audit trail has the same id.
        let decision = gate.decisions(&agent, Outcome::InsufficientScope, 1).await.remove(0);
        assert_eq!(decision["id"], problem["request_id"], "{decision}");
        assert_eq!(decision["tool"], "GET /projects/{project}/builds");
        assert_eq!(decision["service"], "ci");
    });
}

#[test]
fn a_priced_endpoint_is_charged_by_its_status() {
    run(async {
        let gate = Gate::options()
            .policy(|policy| {
                let tool = &mut policy["services"]["ci"]["tools"]["POST /projects/{project}/trigger"];
                tool["price"] = policy::yaml("{credits: 9}");
                tool["limits"] = policy::yaml("[]");
            })
            .start()
            .await;
        let agent = gate.agent_with("pro", 39, NewKey::with_scopes(&["trigger"])).await;
        let trigger = |behaviour: &str| Request::post(format!("{BASE}/1/trigger")).upstream(behaviour);
        for (behaviour, status, posted) in [
            ("", 200, 9),
            ("status=500", 500, 9),
            ("status=404", 404, 9),
            ("close", 503, 9),
            ("close-after-headers", 200, 9),
            // A part of the answer was sent.
            ("close-mid-body", 200, 18),
            ("status=201", 201, 27),
            ("sse", 200, 36),
        ] {
            let answer = agent.send(trigger(behaviour)).await;
            assert_eq!(answer.status, status, "{behaviour}: {answer:?}");
            gate.upstream.the_one(&answer.marker);
            assert_eq!(gate.settled(&agent).await.posted.get(), posted, "{behaviour}");
        }
        let refused = agent.send(trigger("")).await;
        refused.assert_refused(402, "quota_exceeded");
        assert_eq!(refused.header("content-type"), Some("application/problem+json"));
        gate.assert_unseen(&refused.marker);
        gate.assert_healthy().await;
    });
}

/// More bytes than Envoy buffers for an undecided request.
fn large_body() -> Vec<u8> {
    (0..5_000_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

#[test]
fn a_body_of_any_size_streams_through() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("enterprise", 0, NewKey::with_scopes(&["read", "trigger"])).await;
        gate.cache_key(&agent).await;
        // It is decided on its headers, so nothing is buffered, whatever its size.
        let body = large_body();
        let answer = agent.send(Request::post(format!("{BASE}/1/trigger")).body(&body)).await;
        assert_eq!(answer.status, 200, "{}", answer.status);
        assert_eq!(gate.upstream.the_one(&answer.marker).body, body);
        let chunks = body.chunks(70_001).collect::<Vec<_>>();
        let answer = agent.send(Request::post(format!("{BASE}/1/trigger")).chunks(chunks)).await;
        assert_eq!(gate.upstream.the_one(&answer.marker).body, body);
    });
}

/// During a ledger call Envoy buffers what arrives, and no more than its buffer holds (in the only mode in which a
/// filter can hold headers and body together). So such an upload is forwarded completely or refused, and passes when it
/// is sent again.
#[test]
fn a_large_body_that_waits_for_the_ledger_is_forwarded_completely_or_refused() {
    run(async {
        let gate = Gate::shared().await;
        let body = large_body();
        for _ in 0..3 {
            let agent = gate.agent_with("enterprise", 0, NewKey::with_scopes(&["read", "trigger"])).await;
            let answer = agent.send(Request::post(format!("{BASE}/1/trigger")).body(&body)).await;
            if answer.status == 200 {
                assert_eq!(gate.upstream.the_one(&answer.marker).body, body);
            } else {
                answer.assert_refused(413, "invalid_request");
                gate.assert_unseen(&answer.marker);
            }
            gate.cache_key(&agent).await;
            let again = agent.send(Request::post(format!("{BASE}/1/trigger")).body(&body)).await;
            assert_eq!(again.status, 200, "{again:?}");
        }
    });
}

/// The filter of a gate without MCP services, where holding the headers without the body is enough.
const HOLDS_BODIES: &str = "static_resources/listeners/gate/filter_chains/0/filters/\
    envoy.filters.network.http_connection_manager/typed_config/http_filters/agentrelay/typed_config/config/\
    allow_on_headers_stop_iteration";

#[test]
fn a_gate_with_http_services_only_holds_a_large_priced_body_for_the_ledger() {
    run(async {
        let gate = Gate::options()
            .policy(|policy| {
                let tool = &mut policy["services"]["ci"]["tools"]["POST /projects/{project}/trigger"];
                tool["price"] = policy::yaml("{credits: 9}");
            })
            .envoy(|bootstrap| {
                let holds_bodies = cli::stack::bootstrap::field(bootstrap, HOLDS_BODIES);
                *holds_bodies.expect("the shipped file has it") = policy::yaml("false");
            })
            .start()
            .await;
        let agent = gate.agent_with("pro", 18, NewKey::with_scopes(&["trigger"])).await;
        let body = large_body();
        // The first request also waits for the key, and the third for the refusal.
        for (status, arrives) in [(200, true), (200, true), (402, false)] {
            let answer = agent.send(Request::post(format!("{BASE}/1/trigger")).body(&body)).await;
            assert_eq!(answer.status, status, "{answer:?}");
            if arrives {
                assert_eq!(gate.upstream.the_one(&answer.marker).body, body);
                gate.settled(&agent).await;
            } else {
                gate.assert_unseen(&answer.marker);
            }
        }
    });
}
