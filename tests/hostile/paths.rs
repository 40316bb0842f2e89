//! Attempts to bypass a rule for a path.

use harness::agent::NewKey;
use harness::http2::Http2;
use harness::{Gate, Request, mcp, policy, run};

#[test]
fn path_tricks_bypass_no_rule() {
    run(async {
        let gate = Gate::shared().await;
        // A read-only key: the trigger must stay out of reach.
        let agent = gate
            .agent_with("enterprise", 100, NewKey::with_scopes(&["read"]).resource("project:1", None))
            .await;
        let tricks = [
            "/api/v1/mcp/projects/1/builds/../trigger",
            "/api/v1/mcp/projects/1/builds/%2e%2e/trigger",
            "/api/v1/mcp/projects/1/builds/.%2E/trigger",
            "/api/v1/mcp/projects/1/./trigger",
            "/api/v1/mcp/projects/1/%2e/trigger",
            "/api/v1/mcp/projects/1//trigger",
            "//api/v1/mcp/projects/1/trigger",
            "/api/v1//mcp/projects/1/trigger",
            "/api/v1/mcp/projects/1/trigger/",
            "/api/v1/mcp/projects/1/trigger/.",
            "/api/v1/mcp/projects/1/trigger;x=1",
            "/api/v1/mcp/projects/1;x/trigger",
            "/api/v1/mcp/projects/1/trigger%3bx",
            "/api/v1/mcp/projects/1/trigge%72",
            "/api/v1/mcp/projects/1%2ftrigger",
            "/api/v1/mcp/projects/1%5ctrigger",
            "/api/v1/mcp/projects/1\\trigger",
            "/api/v1/mcp/projects/1/Trigger",
            "/api/v1/mcp/projects/1/TRIGGER",
            "/API/V1/MCP/projects/1/trigger",
            "/api/v1/mcp/projects/1/trigger%00",
            "/api/v1/mcp/projects/1/trigger%20",
            "/api/v1/mcp/projects/1/trigger%23",
            "/api/v1/mcp/projects/1/trigger%3f",
            "/api/v1/mcp/projects/1/%74rigger",
            "/api/v1/mcp/projects/%31/trigger",
            "/api/v1/mcp/projects/1/%2574rigger",
            "/mcp/../api/v1/mcp/projects/1/trigger",
            "/mcp/%2e%2e/api/v1/mcp/projects/1/trigger",
            "/x/../../api/v1/mcp/projects/1/trigger",
            "http://gate.test/api/v1/mcp/projects/1/trigger",
            "/api/v1/mcp/projects/1/trigger?x=/../builds",
            "/api/v1/mcp/projects/1/trigger#/../builds",
            "/api/v1/mcp/projects/1/trigg\u{e9}r",
        ];
        let over_h2 = Http2::open(gate.address).await;
        for target in tricks {
            let request = || agent.with_key(Request::post(target).body(b"{}"));
            let refused = request().send(gate.address).await;
            assert!(matches!(refused.status, 307 | 400 | 403 | 404), "{target}: {refused:?}");
            gate.assert_unseen(&refused.marker);
            if target.starts_with('/') && target.is_ascii() && !target.contains(['\\', '#']) {
                let request = request();
                let marker = request.marker().to_owned();
                if let Ok(refused) = over_h2.send(request).await {
                    assert!(matches!(refused.status, 307 | 400 | 403 | 404), "h2 {target}: {refused:?}");
                }
                gate.assert_unseen(&marker);
            }
        }
        // Another project's trigger, by the same tricks.
        for target in [
            "/api/v1/mcp/projects/1/../2/builds",
            "/api/v1/mcp/projects/1/%2e%2e/2/builds",
            "/api/v1/mcp/projects/2/builds?project=1",
            "/api/v1/mcp/projects/1%2f..%2f2/builds",
            "/api/v1/mcp/projects/1;/../2/builds",
        ] {
            let refused = agent.get(target).send(gate.address).await;
            assert!(matches!(refused.status, 400 | 403 | 404), "{target}: {refused:?}");
            gate.assert_unseen(&refused.marker);
        }
        // A path that Envoy normalises is decided by its normal form, which is also what arrives.
        for target in [
            "//api/v1/mcp/projects/1/builds",
            "/api/v1/mcp/projects/2/../1/builds",
            "/api/v1/./mcp/projects/1/builds",
        ] {
            let response = agent.get(target).send(gate.address).await;
            if response.status == 200 {
                let seen = gate.upstream.the_one(&response.marker);
                assert_eq!(seen.target, "/api/v1/mcp/projects/1/builds", "{target}");
            }
        }
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn the_mcp_service_is_one_path_and_three_methods() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("enterprise", 100, NewKey::with_scopes(&["read"])).await;
        let body = mcp::image("standard").to_string();
        for target in [
            "/mcp/",
            "/mcp//",
            "/mcp;x",
            "/mcp/.",
            "/Mcp",
            "/mcp%20",
            "/mcp/x",
            "/mcp%2f",
            "/%6dcp",
            "/x/../mcp/",
        ] {
            let request =
                Request::post(target).header("content-type", "application/json").body(body.as_bytes());
            let refused = agent.send(request).await;
            assert!(matches!(refused.status, 400 | 403 | 404), "{target}: {refused:?}");
            gate.assert_unseen(&refused.marker);
        }
        for method in ["PUT", "PATCH", "OPTIONS", "HEAD", "TRACE", "PURGE", "post"] {
            let request =
                Request::new(method, "/mcp").header("content-type", "application/json").body(body.as_bytes());
            let refused = agent.send(request).await;
            assert!(matches!(refused.status, 400 | 405), "{method}: {refused:?}");
            if refused.status == 405 {
                assert_eq!(refused.header("allow"), Some("POST, GET, DELETE"), "{method}");
            }
            gate.assert_unseen(&refused.marker);
        }
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn a_get_with_a_body_is_refused() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        let body = mcp::search().to_string();
        for method in ["GET", "DELETE"] {
            let request =
                Request::new(method, "/mcp").header("content-type", "application/json").body(body.as_bytes());
            let refused = agent.send(request).await;
            refused.assert_refused(400, "invalid_request");
            gate.assert_unseen(&refused.marker);
        }
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn a_host_that_selects_the_service_must_be_unambiguous() {
    run(async {
        let gate = Gate::options()
            .policy(|policy| {
                policy::limit_tier(policy, "free", 1000, "60s");
                let private = "{kind: http, path: /h, hosts: [private.example], unlisted: {risk: destructive}, tools: {}}";
                policy["services"]["private"] = policy::yaml(private);
                policy["services"]["open"] =
                    policy::yaml("{kind: http, path: /h, unlisted: {risk: read_only}, tools: {}}");
            })
            .start()
            .await;
        let agent = gate.agent_with("free", 0, NewKey::with_scopes(&["read"])).await;
        let send = async |request: Request| agent.with_key(request).send(gate.address).await;
        for host in ["private.example", "PRIVATE.example:80", "private.example..", "private.example:"] {
            assert_eq!(send(Request::get("/h/x").header("host", host)).await.status, 403, "{host}");
        }
        for host in [
            "x@private.example",
            "private.example@",
            "private%2eexample",
            "private.example,other",
            "other,private.example",
            "private.example;x",
            "private.example/",
            "private.example#x",
        ] {
            let answer = send(Request::get("/h/x").header("host", host)).await;
            assert_eq!(answer.status, 400, "{host}: {answer:?}");
            gate.assert_unseen(&answer.marker);
        }
        let twice = Request::get("/h/x").header("host", "other").header("host", "private.example");
        assert_eq!(send(twice).await.status, 400);
        for host in ["other", "other:8080", "127.0.0.1", "[::1]", "a_b-c.example"] {
            send(Request::get("/h/x").header("host", host)).await.assert_allowed();
        }
        for name in [
            "x-forwarded-host",
            "X-Forwarded-Host",
            "x.forwarded.host",
            "x-original-host",
            "x-host",
            "forwarded",
        ] {
            let answer =
                send(Request::get("/h/x").header("host", "other").header(name, "private.example")).await;
            answer.assert_allowed();
            assert!(
                !format!("{:?}", gate.upstream.the_one(&answer.marker)).contains("private.example"),
                "{name}"
            );
        }
        gate.assert_healthy().await;
    });
}
