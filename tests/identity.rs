//! Identity: the upstream learns from the gate alone who sent a request, and never sees the credential.

use harness::agent::{NewKey, unknown_secret};
use harness::http2::Http2;
use harness::upstream::Seen;
use harness::{Agent, Gate, Request, mcp, policy, run};
use protocol::audit::Outcome;

fn assert_names(seen: &Seen, agent: &Agent, tier: &str, tool: &str) {
    assert_eq!(seen.header("x-agentrelay-key-id").as_deref(), Some(agent.key.as_str()), "{seen:?}");
    assert_eq!(seen.header("x-agentrelay-tenant-id").as_deref(), Some(agent.tenant.as_str()), "{seen:?}");
    assert_eq!(seen.header("x-agentrelay-tier").as_deref(), Some(tier), "{seen:?}");
    assert_eq!(seen.header("x-agentrelay-scopes").as_deref(), Some("read generate"), "{seen:?}");
    assert_eq!(seen.header("x-agentrelay-tool").as_deref(), Some(tool), "{seen:?}");
    assert!(seen.header("x-agentrelay-request-id").is_some(), "{seen:?}");
}

/// Checks that the secret is nowhere in the request that arrived.
fn assert_without(seen: &Seen, secret: &str) {
    assert!(
        !format!(
            "{:?}",
            seen.headers.iter().map(|(_, value)| String::from_utf8_lossy(value)).collect::<Vec<_>>()
        )
        .contains(secret)
    );
    assert!(!String::from_utf8_lossy(&seen.body).contains(secret));
    assert!(!seen.target.contains(secret));
}

#[test]
fn the_upstream_learns_who_asked_and_not_the_credential() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        let secret = agent.secret.as_str();
        let message = mcp::search();
        let carriers: [(&str, String); 5] = [
            ("authorization", format!("Bearer {secret}")),
            ("authorization", format!("bearer {secret}")),
            ("Authorization", format!("BEARER   {secret}")),
            ("x-api-key", secret.to_owned()),
            ("X-Api-Key", format!(" {secret} ")),
        ];
        for (name, value) in &carriers {
            let response = mcp::post(&message).header(name, value).send(gate.address).await;
            response.assert_allowed();
            let seen = gate.upstream.the_one(&response.marker);
            assert_names(&seen, &agent, "pro", "search");
            assert_eq!(seen.all("authorization"), [""; 0], "{seen:?}");
            assert_eq!(seen.all("x-api-key"), [""; 0], "{seen:?}");
            assert_without(&seen, secret);
        }
        let decisions = gate.decisions(&agent, Outcome::Allowed, carriers.len()).await;
        let last = gate.agent("pro").await;
        let response = last.call(&message).await;
        let id = gate.upstream.the_one(&response.marker).header("x-agentrelay-request-id").unwrap();
        let decision = gate.decisions(&last, Outcome::Allowed, 1).await.remove(0);
        assert_eq!(decision["id"], id.as_str(), "the audit and the upstream know the request by one id");
        assert!(decisions.iter().all(|decision| decision["id"] != id.as_str()));
    });
}

#[test]
fn identity_headers_of_the_client_never_arrive() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("free").await;
        for name in [
            "x-agentrelay-key-id",
            "X-AgentRelay-Key-Id",
            "x-agentrelay-tenant-id",
            "x-agentrelay-tier",
            "x-agentrelay-scopes",
            "x-agentrelay-tool",
            "x-agentrelay-request-id",
            "x-agentrelay-agent-id",
            "x-agentrelay-anything",
            "x-agentrelay-",
        ] {
            let request = agent.post(&mcp::search()).header(name, "spoofed").header(name, "spoofed again");
            let response = request.send(gate.address).await;
            response.assert_allowed();
            let seen = gate.upstream.the_one(&response.marker);
            assert_names(&seen, &agent, "free", "search");
            assert!(!format!("{:?}", seen.echo()).contains("spoofed"), "{name}: {seen:?}");
            assert_eq!(seen.all("x-agentrelay-agent-id"), [""; 0]);
        }
        gate.assert_healthy().await;
    });
}

#[test]
fn lookalikes_of_reserved_headers_never_arrive() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        for name in ["x_agentrelay_key_id", "x-agentrelay_tier", "X_AgentRelay-Scopes", "x_agentrelay-tool"] {
            let response = agent.send(mcp::post(&mcp::search()).header(name, "spoofed")).await;
            // Envoy refuses names with underscores before any filter sees them.
            assert_eq!(response.status, 400, "{name}: {response:?}");
            gate.assert_unseen(&response.marker);
        }
        // If an operator allows them, the filter still removes the gate's own names.
        let lenient = Gate::options().envoy(allow_underscores).start().await;
        let agent = lenient.agent("pro").await;
        for name in ["x_agentrelay_key_id", "x-agentrelay_tier", "x_agentrelay-tool", "X_AGENTRELAY_SCOPES"] {
            let response =
                agent.send(mcp::post(&mcp::search()).header(name, "spoofed").header("x_other", "kept")).await;
            response.assert_allowed();
            let seen = lenient.upstream.the_one(&response.marker);
            assert!(!format!("{:?}", seen.echo()).contains("spoofed"), "{name}: {seen:?}");
            assert_eq!(seen.header("x_other").as_deref(), Some("kept"));
            assert_names(&seen, &agent, "pro", "search");
        }
        lenient.assert_healthy().await;
    });
}

fn allow_underscores(bootstrap: &mut serde_yaml_ng::Value) {
    let manager = "static_resources/listeners/gate/filter_chains/0/filters/\
        envoy.filters.network.http_connection_manager/typed_config/common_http_protocol_options";
    let options = cli::stack::bootstrap::field(bootstrap, manager).expect("the shipped file has it");
    options["headers_with_underscores_action"] = policy::yaml("ALLOW");
}

#[test]
fn identity_in_trailers_never_arrives() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        let body = mcp::search().to_string();
        let request = || {
            let request =
                Request::post("/mcp").header("content-type", "application/json").chunks([body.as_bytes()]);
            agent.with_key(request.trailer("x-agentrelay-key-id", b"spoofed").trailer("x-other", b"1"))
        };
        let over_h1 = request().send(gate.address).await;
        over_h1.assert_allowed();
        let over_h2 = Http2::open(gate.address).await.send(request()).await.unwrap();
        over_h2.assert_allowed();
        for response in [over_h1, over_h2] {
            let seen = gate.upstream.the_one(&response.marker);
            assert!(!format!("{:?}", seen.echo()).contains("spoofed"), "{seen:?}");
            assert_names(&seen, &agent, "pro", "search");
            assert_eq!(seen.body, body.as_bytes());
        }
    });
}

#[test]
fn other_traffic_passes_unchanged() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        // Spacing, order, escapes and unknown members of the body stay as the client wrote them.
        let body = br#"{ "id":0,"jsonrpc":"2.0", "method":"tools/call","params":{"name":"se\u0061rch","arguments":{"query":"\u00e9"},"x":1.50}}"#;
        let request = Request::post("/mcp?a=1&a=2&b=%20c")
            .header("content-type", "application/json")
            .header("cookie", "session=1")
            .header("x-custom", "one")
            .header("x-custom", "two")
            .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
            .body(body);
        let response = agent.send(request).await;
        response.assert_allowed();
        let seen = gate.upstream.the_one(&response.marker);
        assert_eq!(seen.body, body);
        assert_eq!(seen.target, "/mcp?a=1&a=2&b=%20c");
        assert_eq!(seen.all("x-custom"), ["one", "two"]);
        assert_eq!(seen.header("cookie").as_deref(), Some("session=1"));
        assert_eq!(seen.header("host").as_deref(), Some("gate.test"));
        assert!(seen.header("traceparent").is_some());
        assert_eq!(response.json()["id"], 0);
    });
}

#[test]
fn headers_that_change_what_was_decided_never_arrive() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("pro", 0, NewKey::with_scopes(&["read"])).await;
        for name in [
            "x-http-method-override",
            "x-http-method",
            "x-method-override",
            "x-original-url",
            "x-rewrite-url",
        ] {
            let request = Request::get("/api/v1/mcp/projects/1/builds").header(name, "POST");
            let response = agent.send(request).await;
            assert_eq!(response.status, 200, "{name}: {response:?}");
            assert_eq!(gate.upstream.the_one(&response.marker).all(name), [""; 0]);
        }
        // A client that could ask Envoy for retries could run a call several times for one price.
        let request = mcp::post(&mcp::search())
            .upstream("status=503")
            .header("x-envoy-retry-on", "5xx")
            .header("x-envoy-max-retries", "3")
            .header("x-envoy-upstream-rq-timeout-ms", "1");
        let response = agent.send(request).await;
        assert_eq!(response.status, 503);
        gate.upstream.the_one(&response.marker);
    });
}

#[test]
fn the_credential_is_forwarded_only_where_the_policy_says_so() {
    run(async {
        let gate = Gate::options()
            .policy(|policy| policy["services"]["studio"]["forward_credential"] = policy::yaml("true"))
            .start()
            .await;
        let agent = gate.agent_with("pro", 0, NewKey::with_scopes(&["read"])).await;
        let response = agent.call(&mcp::search()).await;
        let seen = gate.upstream.the_one(&response.marker);
        assert_eq!(seen.header("authorization"), Some(format!("Bearer {}", agent.secret)));
        let response = agent.get("/api/v1/mcp/projects/1/builds").send(gate.address).await;
        assert_without(&gate.upstream.the_one(&response.marker), &agent.secret);
    });
}

#[test]
fn exactly_one_valid_credential_is_needed() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("enterprise").await;
        let other = gate.agent("enterprise").await;
        let (secret, second) = (agent.secret.as_str(), other.secret.as_str());
        let bearer = |secret: &str| format!("Bearer {secret}");
        let mut damaged = secret.to_owned();
        damaged.replace_range(10..11, if &secret[10..11] == "x" { "y" } else { "x" });
        let unknown = unknown_secret();
        let credentials = gate.credentials();
        let cases: Vec<(&str, Vec<(&str, String)>)> = vec![
            ("none", vec![]),
            (
                "two authorizations",
                vec![("authorization", bearer(secret)), ("authorization", bearer(second))],
            ),
            ("the same twice", vec![("authorization", bearer(secret)), ("authorization", bearer(secret))]),
            ("two x-api-key", vec![("x-api-key", secret.into()), ("x-api-key", second.into())]),
            ("both carriers", vec![("authorization", bearer(secret)), ("x-api-key", second.into())]),
            ("valid and empty", vec![("authorization", bearer(secret)), ("x-api-key", String::new())]),
            (
                "valid and basic",
                vec![("authorization", bearer(secret)), ("authorization", "Basic YTpi".into())],
            ),
            ("joined", vec![("authorization", format!("Bearer {secret},Bearer {second}"))]),
            ("joined same", vec![("authorization", format!("Bearer {secret}, Bearer {secret}"))]),
            ("bare", vec![("authorization", secret.into())]),
            ("basic", vec![("authorization", "Basic YTpi".into())]),
            ("empty", vec![("authorization", String::new())]),
            ("scheme alone", vec![("authorization", "Bearer".into())]),
            ("no blank", vec![("authorization", format!("Bearer{secret}"))]),
            ("longer", vec![("authorization", format!("Bearer {secret}0"))]),
            ("shorter", vec![("authorization", bearer(&secret[..secret.len() - 1]))]),
            ("changed", vec![("authorization", bearer(&damaged))]),
            ("other case", vec![("authorization", bearer(&secret.to_ascii_uppercase()))]),
            ("unknown", vec![("authorization", bearer(&unknown))]),
            ("admin's", vec![("authorization", bearer(&credentials.admin_key))]),
            ("filter's", vec![("authorization", bearer(&credentials.filter_key))]),
            ("a key's id", vec![("authorization", bearer(agent.key.as_str()))]),
        ];
        for (case, headers) in cases {
            let mut request = mcp::post(&mcp::search());
            for (name, value) in headers {
                request = request.header(name, value);
            }
            let refused = gate.send(request).await;
            assert_eq!(refused.status, 401, "{case}: {refused:?}");
            refused.assert_refused(401, "auth_denied");
            assert_eq!(refused.code(), Some(40101), "{case}");
            let challenge = refused.header("www-authenticate").unwrap();
            let expected = if case == "none" { "Bearer" } else { "Bearer error=\"invalid_token\"" };
            assert_eq!(challenge, expected, "{case}");
            assert!(!refused.text().contains(secret), "{case}");
            gate.assert_unseen(&refused.marker);
        }
        // Never in the query, even without another credential.
        for target in [
            format!("/mcp?api_key={secret}"),
            format!("/mcp?x-api-key={secret}&authorization=Bearer%20{secret}"),
        ] {
            let request = Request::post(&target).header("content-type", "application/json");
            let refused = gate.send(request.body(mcp::search().to_string().as_bytes())).await;
            refused.assert_refused(401, "auth_denied");
            gate.assert_unseen(&refused.marker);
        }
        gate.assert_serving(&agent).await;
        gate.assert_serving(&other).await;
    });
}
