//! Header bytes, large headers, upgrades, and requests smuggled inside others.

use super::caller;
use harness::agent::{NewKey, unknown_secret};
use harness::http1::Connection;
use harness::http2::Http2;
use harness::{Gate, Request, mcp, policy, run};

#[test]
fn header_bytes_that_are_not_text_are_harmless() {
    run(async {
        let gate = Gate::shared().await;
        let agent = caller(gate).await;
        // In a credential header, or next to one.
        for value in [b"Bearer \xff\xfe".as_slice(), b"\xff", b"Bearer ark_\xc3\x28", b"\x80Bearer x"] {
            for name in ["authorization", "x-api-key"] {
                let refused = gate.send(mcp::post(&mcp::search()).header(name, value)).await;
                refused.assert_refused(401, "auth_denied");
                gate.assert_unseen(&refused.marker);
            }
        }
        for name in
            ["x-custom", "user-agent", "accept", "cookie", "x-request-id", "upgrade-insecure-requests"]
        {
            let response = agent.send(mcp::post(&mcp::search()).header(name, b"\xff\xfe\x80")).await;
            assert_eq!(response.status, 200, "{name}: {response:?}");
            gate.upstream.the_one(&response.marker);
        }
        for name in ["content-type", "content-encoding", "mcp-protocol-version", "mcp-method"] {
            let request = mcp::post(&mcp::search()).without("content-type").header(name, b"\xff\xfe");
            let response = agent.send(request).await;
            assert!(matches!(response.status, 200 | 400), "{name}: {response:?}");
            assert!(response.status == 200 || gate.upstream.seen(&response.marker).is_empty());
        }
        let spoofed = agent
            .post(&mcp::search())
            .header("x-agentrelay-key-id", b"\xff")
            .header("x-agentrelay-\u{e9}", "1");
        let response = spoofed.try_send(gate.address).await.unwrap();
        for seen in gate.upstream.seen(&response.marker) {
            assert_eq!(seen.header("x-agentrelay-key-id").as_deref(), Some(agent.key.as_str()));
        }
        let host = agent.post(&mcp::search()).header("host", b"gate\xff");
        let response = host.try_send(gate.address).await.unwrap();
        assert!(matches!(response.status, 200 | 400), "{response:?}");
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn giant_headers_are_refused() {
    run(async {
        let gate = Gate::shared().await;
        let agent = caller(gate).await;
        let giant = "x".repeat(70_000);
        let large = "x".repeat(12_000);
        for (name, value) in [
            ("authorization", format!("Bearer {giant}")),
            ("x-api-key", giant.clone()),
            ("x-custom", giant.clone()),
        ] {
            let refused = gate.send(mcp::post(&mcp::search()).header(name, value)).await;
            assert!(matches!(refused.status, 401 | 431), "{name}: {}", refused.status);
            gate.assert_unseen(&refused.marker);
        }
        let refused =
            gate.send(mcp::post(&mcp::search()).header("authorization", format!("Bearer {large}"))).await;
        refused.assert_refused(401, "auth_denied");
        agent.send(mcp::post(&mcp::search()).header("x-custom", &large)).await.assert_allowed();
        let mut many = mcp::post(&mcp::search());
        for n in 0..200 {
            many = many.header(format!("x-custom-{n}"), "1");
        }
        let refused = agent.send(many).await;
        assert_eq!(refused.status, 431, "{refused:?}");
        gate.assert_unseen(&refused.marker);
        gate.assert_serving(&agent).await;
    });
}

fn upgrade(target: &str) -> Request {
    Request::get(target)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
}

#[test]
fn a_websocket_upgrade_is_refused() {
    run(async {
        let gate = Gate::shared().await;
        let agent = caller(gate).await;
        for target in ["/mcp", "/api/v1/mcp/projects/1/builds", "/nowhere"] {
            let refused = agent.send(upgrade(target)).await;
            assert!(matches!(refused.status, 400 | 404), "{target}: {refused:?}");
            gate.assert_unseen(&refused.marker);
            let unknown = gate.send(upgrade(target).key(&unknown_secret())).await;
            assert_eq!(unknown.status, 401, "{target}: {unknown:?}");
            gate.assert_unseen(&unknown.marker);
            let anonymous = gate.send(upgrade(target)).await;
            assert_eq!(anonymous.status, 401, "{target}: {anonymous:?}");
            gate.assert_unseen(&anonymous.marker);
        }
        gate.assert_serving(&agent).await;
    });
}

const MANAGER: &str = "static_resources/listeners/gate/filter_chains/0/filters/\
    envoy.filters.network.http_connection_manager/typed_config";

#[test]
fn an_allowed_upgrade_is_decided_on_its_headers() {
    run(async {
        let gate = Gate::options()
            .policy(|policy| policy["services"]["ci"]["upgrades"] = policy::yaml("true"))
            .envoy(|bootstrap| {
                let options =
                    cli::stack::bootstrap::field(bootstrap, &format!("{MANAGER}/http2_protocol_options"));
                options.expect("the shipped file has it")["allow_connect"] = policy::yaml("true");
            })
            .start()
            .await;
        let agent = gate.agent_with("enterprise", 0, NewKey::with_scopes(&["read"])).await;
        let mut connection = Connection::open(gate.address).await;
        let request = agent.with_key(upgrade("/api/v1/mcp/projects/1/builds"));
        let marker = request.marker().to_owned();
        connection.write(&request.head()).await.unwrap();
        let accepted = connection.response().await.unwrap();
        assert_eq!(accepted.status, 101, "{accepted:?}");
        gate.upstream.the_one(&marker);
        connection.write(b"frames pass").await.unwrap();
        connection.read_until(b"frames pass").await.unwrap();

        let without = gate.agent_with("enterprise", 0, NewKey::with_scopes(&["generate"])).await;
        for (agent, target, status) in [
            (&without, "/api/v1/mcp/projects/1/builds", 403),
            (&agent, "/api/v1/mcp/projects/1/nothing", 404),
            (&agent, "/mcp", 400),
        ] {
            let refused = agent.send(upgrade(target)).await;
            assert_eq!(refused.status, status, "{target}: {refused:?}");
            gate.assert_unseen(&refused.marker);
        }
        // The same over HTTP/2.
        let client = Http2::open(gate.address).await;
        // The server's settings, which allow extended CONNECT, come with its first frames.
        client.send(agent.post(&mcp::search())).await.unwrap().assert_allowed();
        for (agent, target, status) in [
            (&without, "/api/v1/mcp/projects/1/builds", 403),
            (&agent, "/api/v1/mcp/projects/1/nothing", 404),
            (&agent, "/mcp", 400),
        ] {
            let request = agent.with_key(Request::new("CONNECT", target));
            let refused = client.connect(request, "websocket").await.unwrap();
            assert_eq!(refused.status, status, "{target}: {refused:?}");
            gate.assert_unseen(&refused.marker);
        }
        let unknown = Request::new("CONNECT", "/api/v1/mcp/projects/1/builds").key(&unknown_secret());
        let refused = client.connect(unknown, "websocket").await.unwrap();
        assert_eq!(refused.status, 401, "{refused:?}");
        gate.assert_unseen(&refused.marker);
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn extended_connect_is_off_unless_envoy_is_configured() {
    run(async {
        let gate = Gate::shared().await;
        let agent = caller(gate).await;
        let client = Http2::open(gate.address).await;
        for target in ["/mcp", "/api/v1/mcp/projects/1/builds"] {
            let request = agent.with_key(Request::new("CONNECT", target));
            let marker = request.marker().to_owned();
            if let Ok(response) = client.connect(request, "websocket").await {
                assert!(response.status >= 400, "{response:?}");
            }
            gate.assert_unseen(&marker);
        }
        let plain = agent.with_key(Request::new("CONNECT", "upstream.test:443"));
        let marker = plain.marker().to_owned();
        let refused = plain.send(gate.address).await;
        assert!(refused.status >= 400, "{refused:?}");
        gate.assert_unseen(&marker);
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn smuggled_requests_reach_neither_side() {
    run(async {
        let gate = Gate::shared().await;
        let agent = caller(gate).await;
        let smuggled = "POST /api/v1/mcp/projects/9/trigger HTTP/1.1\r\nhost: x\r\nx-test-id: smuggled\r\ncontent-length: 0\r\n\r\n";
        let auth = format!("authorization: Bearer {}\r\n", agent.secret);
        let cases = [
            format!(
                "POST /mcp HTTP/1.1\r\nhost: x\r\n{auth}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"
            ),
            format!(
                "POST /mcp HTTP/1.1\r\nhost: x\r\n{auth}content-length: 5\r\ncontent-length: 6\r\n\r\n12345{smuggled}"
            ),
            format!(
                "POST /mcp HTTP/1.1\r\nhost: x\r\n{auth}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{smuggled}"
            ),
            format!(
                "POST /mcp HTTP/1.1\r\nhost: x\r\n{auth}transfer-encoding : chunked\r\n\r\n0\r\n\r\n{smuggled}"
            ),
            format!("GET /mcp HTTP/1.1\r\nhost: x\r\n{auth}x: 1\n\ncontent-length: 0\r\n\r\n{smuggled}"),
            format!(
                "POST /mcp HTTP/1.1\r\nhost: x\r\n{auth}transfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n{smuggled}"
            ),
            "\x16\x03\x01\x02\x00\x01\x00\x01\u{7f}".to_owned(),
            "GET\r\n\r\n".to_owned(),
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nrubbish".to_owned(),
            "\0\0\0\0".to_owned(),
        ];
        for case in cases {
            // Any answer to the first request is accepted, and so is a closed connection.
            let _ = gate.raw(case.as_bytes()).await;
            gate.assert_unseen("smuggled");
            gate.assert_serving(&agent).await;
        }
    });
}
