//! Header names as a program behind lighttpd's CGI sees them: every character other than a letter or digit is `_`.

use harness::http1::Connection;
use harness::servers::Server;
use harness::{Gate, Request, policy, run};

/// The characters of a header name other than letters and digits.
const SEPARATORS: [char; 14] = ['-', '_', '.', '!', '#', '$', '%', '&', '\'', '*', '+', '^', '~', '|'];

fn allow_underscores(bootstrap: &mut serde_yaml_ng::Value) {
    const OPTIONS: &str = "static_resources/listeners/gate/filter_chains/0/filters/\
        envoy.filters.network.http_connection_manager/typed_config/common_http_protocol_options";
    let options = cli::stack::bootstrap::field(bootstrap, OPTIONS).expect("the shipped file has it");
    options["headers_with_underscores_action"] = policy::yaml("ALLOW");
}

/// The name with another character in place of `-`.
fn written(name: &str) -> impl Iterator<Item = String> {
    SEPARATORS.into_iter().map(move |separator| name.replace('-', &separator.to_string()))
}

#[test]
fn behind_cgi_no_header_is_read_as_one_that_the_gate_sets_or_checks() {
    run(async {
        let server = Server::lighttpd().await;
        let free = |policy: &mut serde_yaml_ng::Value| {
            policy::limit_tier(policy, "pro", 100_000, "60s");
            policy["services"]["all"] =
                policy::yaml("{kind: http, path: /, unlisted: {risk: read_only}, tools: {}}");
        };
        let gate = Gate::options().upstream(server.url()).policy(free).envoy(allow_underscores).start().await;
        let agent = gate.agent("pro").await;
        let environment = async |request: Request| agent.with_key(request).send(gate.address).await;
        // The server itself accepts all of them.
        for name in written("x-agentrelay-tenant-id") {
            let direct = Request::get("/x").header(&name, "ten_other").send(server.address).await;
            assert_eq!(direct.json()["HTTP_X_AGENTRELAY_TENANT_ID"], "ten_other", "{name}");
        }
        for own in ["tenant-id", "key-id", "tier", "scopes", "tool", "request-id", "agent-id"] {
            for name in written(&format!("x-agentrelay-{own}")) {
                let answer = environment(Request::get("/x").header(&name, "forged")).await;
                answer.assert_allowed();
                let seen = answer.json();
                assert_eq!(seen["HTTP_X_AGENTRELAY_TENANT_ID"], agent.tenant.as_str(), "{name}");
                assert!(!seen.to_string().contains("forged"), "{name}: {seen}");
            }
        }
        for own in [
            "x-http-method-override",
            "x-http-method",
            "x-method-override",
            "x-http-path-override",
            "x-original-path",
            "x-rewrite-uri",
            "x-replaced-path",
            "x-original-http-method",
            "x-waws-unencoded-url",
            "x-original-url",
            "x-original-uri",
            "x-original-method",
            "x-rewrite-url",
            "x-forwarded-uri",
            "x-forwarded-path",
            "x-forwarded-method",
            "x-script-name",
            "script-name",
            "path-info",
        ] {
            for name in written(own) {
                let answer = environment(Request::get("/x").header(&name, "/forged")).await;
                answer.assert_allowed();
                assert!(!answer.text().contains("forged"), "{name}: {}", answer.text());
            }
        }
        for own in [
            "content-type",
            "content-encoding",
            "mcp-session-id",
            "mcp-protocol-version",
            "mcp-method",
            "mcp-name",
        ] {
            for name in written(own).filter(|name| name != own) {
                let answer = environment(Request::get("/x").header(&name, "forged")).await;
                answer.assert_allowed();
                assert!(!answer.text().contains("forged"), "{name}: {}", answer.text());
            }
        }
        for name in written("x-api-key") {
            let refused = environment(Request::get("/x").header(&name, "other")).await;
            assert_eq!(refused.status, 401, "{name}: {refused:?}");
        }
        // Names that resemble no reserved name pass.
        let answer = environment(Request::get("/x").header("x.my.own", "kept")).await;
        assert_eq!(answer.json()["HTTP_X_MY_OWN"], "kept");
        gate.assert_healthy().await;
    });
}

#[test]
fn no_trailer_replaces_a_header_that_the_gate_checks() {
    run(async {
        let gate = Gate::options().envoy(allow_underscores).start().await;
        let agent = gate.agent("pro").await;
        for name in [
            "x.agentrelay.tier",
            "x-agentrelay-tier",
            "x-original-uri",
            "x.api.key",
            "mcp-session-id",
            "authorization",
        ] {
            let message = harness::mcp::search().to_string();
            let request = harness::mcp::post_bytes(b"").chunks([message.as_bytes()]).trailer(name, b"forged");
            let request = agent.with_key(request.trailer("x-kept", b"kept"));
            let mut connection = Connection::open(gate.address).await;
            let answer = connection.exchange(request).await.expect("an answer");
            answer.assert_allowed();
            let seen = gate.upstream.the_one(&answer.marker);
            assert!(!format!("{seen:?}").contains("forged"), "{name}: {seen:?}");
        }
        gate.assert_healthy().await;
    });
}
