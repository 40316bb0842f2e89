//! Permissions: scopes, grants, and lists that show only what a key may call.

use harness::agent::{NewKey, from_now};
use harness::clock::eventually;
use harness::gate::refused_by_all;
use harness::http1::Connection;
use harness::{Agent, Gate, Request, Response, mcp, policy, run, wait};
use protocol::admin::Reason;
use protocol::audit::Outcome;
use serde_json::{Value, json};
use std::time::Duration;

/// The names in an answer to `tools/list`, in its order.
fn tools(answer: &Value) -> Vec<&str> {
    let listed = answer["result"]["tools"].as_array().unwrap_or_else(|| panic!("no tools: {answer}"));
    listed.iter().map(|tool| tool["name"].as_str().unwrap()).collect()
}

async fn listed(agent: &Agent) -> Vec<String> {
    let response = agent.call(&mcp::list()).await;
    response.assert_allowed();
    tools(&response.json()).into_iter().map(str::to_owned).collect()
}

fn assert_names_scopes(response: &Response, scopes: &str) {
    let challenge = response.header("www-authenticate").unwrap();
    assert_eq!(challenge, format!("Bearer error=\"insufficient_scope\", scope=\"{scopes}\""));
}

#[test]
fn a_list_shows_exactly_what_the_key_may_call() {
    run(async {
        let gate = Gate::shared().await;
        for (scopes, expected) in [
            (vec!["read"], vec!["search", "summarize"]),
            (vec!["generate"], vec!["image_generate"]),
            (vec!["read", "generate"], vec!["image_generate", "search", "summarize"]),
            (vec!["admin", "trigger"], vec![]),
            (vec![], vec![]),
        ] {
            let agent = gate.agent_with("pro", 0, NewKey::with_scopes(&scopes)).await;
            assert_eq!(listed(&agent).await, expected, "{scopes:?}");
        }
        let held = gate.agent_with("pro", 0, NewKey::default().tools(&["search"])).await;
        assert_eq!(listed(&held).await, ["search"]);
        gate.assert_healthy().await;
    });
}

#[test]
fn a_filtered_list_is_private_and_otherwise_what_the_server_said() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("pro", 0, NewKey::with_scopes(&["read"])).await;
        for behaviour in ["", "chunked", "trailers"] {
            let request = mcp::post(&json!({"jsonrpc": "2.0", "id": "a\u{e9}\"1", "method": "tools/list"}));
            let answer = agent.send(request.upstream(behaviour)).await;
            assert_eq!(answer.status, 200, "{behaviour}: {answer:?}");
            let json = answer.json();
            assert_eq!(json["id"], "a\u{e9}\"1");
            assert_eq!(json["result"]["cacheScope"], "private", "{json}");
            assert_eq!(json["result"]["ttlMs"], 60000, "{json}");
            assert_eq!(tools(&json), ["search", "summarize"], "{behaviour}");
        }
    });
}

#[test]
fn a_list_in_an_event_stream_is_filtered_too() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("pro", 0, NewKey::with_scopes(&["read"])).await;
        for request in [mcp::post(&mcp::list()), Request::get("/mcp")] {
            let answer = agent.send(request.upstream("sse")).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let text = answer.text();
            assert!(text.contains("\"search\"") && text.contains("notifications/progress"), "{text}");
            for hidden in ["image_generate", "unlisted", "\"Search\""] {
                assert!(!text.contains(hidden), "{hidden} is seen: {text}");
            }
        }
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn an_open_stream_is_filtered_event_by_event() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("pro", 0, NewKey::with_scopes(&["read"])).await;
        let mut connection = Connection::open(gate.address).await;
        let request = agent.with_key(Request::get("/mcp").upstream("sse-open"));
        connection.write(&request.head()).await.unwrap();
        // The server does not end the stream; what was sent arrives all the same.
        connection.read_until(b"\"search\"").await.unwrap();
        let text = connection.so_far();
        assert!(text.contains("notifications/progress") && !text.contains("image_generate"), "{text}");
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn a_list_that_cannot_be_filtered_is_not_passed_on() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("enterprise", 0, NewKey::with_scopes(&["read"])).await;
        for behaviour in ["gzip", "gzip chunked"] {
            for accept in ["gzip", "identity", "gzip, br;q=0.5"] {
                let request = mcp::post(&mcp::list()).header("accept-encoding", accept).upstream(behaviour);
                let answer = agent.send(request).await;
                assert_eq!(answer.status, 502, "{answer:?}");
                assert_eq!(answer.code(), Some(50201), "{}", answer.text());
                answer.rate();
                assert!(!answer.body.windows(8).any(|bytes| bytes == b"unlisted"), "{}", answer.text());
                // It was requested in a readable form.
                assert_eq!(gate.upstream.the_one(&answer.marker).all("accept-encoding"), ["identity"]);
            }
        }
        gate.decisions(&agent, Outcome::UpstreamError, 6).await;
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn a_list_that_is_too_large_or_broken_off_is_not_passed_on() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("enterprise", 0, NewKey::with_scopes(&["read"])).await;
        for behaviour in ["bytes=2000000", "close-mid-body", "close-after-headers", "status=500"] {
            let answer = agent.send(mcp::post(&mcp::list()).upstream(behaviour)).await;
            let text = answer.text();
            let is_error = answer.status >= 500 || !answer.is_complete;
            assert!(is_error, "{behaviour}: {} {}", answer.status, &text[..text.len().min(300)]);
            assert!(!text.contains("unlisted") || behaviour == "status=500", "{behaviour}");
            gate.assert_serving(&agent).await;
        }
    });
}

#[test]
fn a_read_only_key_may_not_mutate() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("pro", 1000, NewKey::with_scopes(&["read"])).await;
        let refused = agent.call(&mcp::image("standard")).await;
        refused.assert_refused(403, "insufficient_scope");
        assert_eq!(refused.code(), Some(40301));
        assert_names_scopes(&refused, "generate");
        gate.assert_unseen(&refused.marker);
        assert_eq!(gate.settled(&agent).await.available.get(), 1000);
        agent.call(&mcp::search()).await.assert_allowed();
        let decision = gate.decisions(&agent, Outcome::InsufficientScope, 1).await.remove(0);
        assert_eq!(decision["tool"], "image_generate", "{decision}");
        assert_eq!(decision["key_id"], agent.key.as_str(), "{decision}");
    });
}

#[test]
fn a_service_may_write_refusals_as_results_that_the_model_reads() {
    run(async {
        let gate = Gate::options()
            .policy(|policy| policy["services"]["studio"]["refusals"] = policy::yaml("mcp-tool"))
            .start()
            .await;
        let reader = gate.agent_with("pro", 0, NewKey::with_scopes(&["read"]).limit(4, 60)).await;
        for (message, reason) in [
            (mcp::image("standard"), "insufficient_scope"),
            (mcp::search(), ""),
            (mcp::search(), ""),
            (mcp::search(), ""),
            (mcp::search(), "rate_limited"),
        ] {
            let answer = reader.call(&message).await;
            answer.assert_allowed();
            let result = &answer.json()["result"];
            assert_eq!(result["isError"], !reason.is_empty(), "{answer:?}");
            if !reason.is_empty() {
                assert_eq!(result["_meta"]["agentrelay/refusal"]["reason"], reason, "{answer:?}");
                assert!(result["content"][0]["text"].is_string(), "{answer:?}");
                gate.assert_unseen(&answer.marker);
            }
        }
        // Requests that are not tool calls, or not authenticated, are refused as before.
        reader.call(&mcp::list()).await.assert_refused(429, "rate_limited");
        gate.send(mcp::post(&mcp::search())).await.assert_refused(401, "auth_denied");
    });
}

#[test]
fn a_scope_in_shadow_is_audited_and_not_enforced() {
    run(async {
        let gate = Gate::options()
            .policy(|policy| policy["risks"]["local_mutation"]["shadow"] = policy::yaml("true"))
            .start()
            .await;
        let agent = gate.agent_with("pro", 100, NewKey::with_scopes(&["read"])).await;
        agent.call(&mcp::image("standard")).await.assert_allowed();
        let decision = gate.decisions(&agent, Outcome::Allowed, 1).await.remove(0);
        assert_eq!(decision["would_deny"], "insufficient_scope", "{decision}");
        assert_eq!(decision["would_deny_reason"]["rule"], "scope", "{decision}");
        assert_eq!(gate.settled(&agent).await.posted.get(), 5);
    });
}

#[test]
fn all_scopes_that_are_needed_are_named() {
    run(async {
        let gate = Gate::options()
            .policy(|policy| {
                policy["services"]["studio"]["tools"]["search"]["scopes"] =
                    policy::yaml("[read, library, archive]");
            })
            .start()
            .await;
        let agent = gate.agent_with("pro", 0, NewKey::with_scopes(&["library"])).await;
        let refused = agent.call(&mcp::search()).await;
        refused.assert_refused(403, "insufficient_scope");
        assert_names_scopes(&refused, "read library archive");
        let partly = gate.agent_with("pro", 0, NewKey::with_scopes(&["read", "library"])).await;
        partly.call(&mcp::search()).await.assert_refused(403, "insufficient_scope");
        let fully = gate.agent_with("pro", 0, NewKey::with_scopes(&["archive", "read", "library"])).await;
        fully.call(&mcp::search()).await.assert_allowed();
    });
}

#[test]
fn unlisted_tools_and_paths_are_not_found() {
    run(async {
        let gate = Gate::shared().await;
        let all = NewKey::with_scopes(&["read", "generate", "admin", "trigger"]);
        let agent = gate.agent_with("enterprise", 1000, all).await;
        for tool in
            ["unlisted", "Search", "SEARCH", "search ", " search", "search\0", "", "*", "..", "s\u{435}arch"]
        {
            let refused = agent.call(&mcp::call(tool, json!({}))).await;
            refused.assert_refused(404, "unknown_tool");
            assert_eq!(refused.code(), Some(40401), "{tool:?}");
            gate.assert_unseen(&refused.marker);
        }
        for method in ["tools/Call", "tools/call/", "tools/execute", "sampling/createMessage", "x"] {
            let refused = agent.call(&mcp::request(method, json!({"name": "unlisted"}))).await;
            refused.assert_refused(404, "unknown_tool");
            assert_eq!(refused.code(), Some(-32601), "{method}");
            gate.assert_unseen(&refused.marker);
        }
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn unlisted_tools_pass_under_the_policys_rule_for_them() {
    run(async {
        let gate = Gate::options()
            .policy(|policy| {
                policy["services"]["studio"]["unlisted"] =
                    policy::yaml("{risk: destructive, price: {credits: 7}}");
            })
            .start()
            .await;
        let call = mcp::call("unlisted", json!({}));
        let agent = gate.agent_with("pro", 100, NewKey::with_scopes(&["read", "admin"])).await;
        agent.call(&call).await.assert_allowed();
        assert_eq!(gate.settled(&agent).await.posted.get(), 7);
        assert_eq!(listed(&agent).await, ["search", "summarize", "unlisted", "Search"]);
        let reader = gate.agent_with("pro", 100, NewKey::with_scopes(&["read"])).await;
        let refused = reader.call(&call).await;
        refused.assert_refused(403, "insufficient_scope");
        assert_names_scopes(&refused, "admin");
    });
}

#[test]
fn a_key_is_restricted_to_its_services_and_tools() {
    run(async {
        let gate = Gate::shared().await;
        let scopes = || NewKey::with_scopes(&["read", "generate"]);
        let ci = gate.agent_with("pro", 100, scopes().services(&["ci"])).await;
        for message in
            [mcp::search(), mcp::list(), mcp::initialize(), mcp::notification("notifications/initialized")]
        {
            let refused = ci.call(&message).await;
            refused.assert_refused(403, "insufficient_scope");
            gate.assert_unseen(&refused.marker);
        }
        let builds = ci.get("/api/v1/mcp/projects/1/builds").send(gate.address).await;
        assert_eq!(builds.status, 200, "{builds:?}");

        let studio = gate.agent_with("pro", 100, scopes().services(&["studio"]).tools(&["search"])).await;
        studio.call(&mcp::search()).await.assert_allowed();
        studio.call(&mcp::image("standard")).await.assert_refused(403, "insufficient_scope");
        let builds = studio.get("/api/v1/mcp/projects/1/builds").send(gate.address).await;
        builds.assert_refused(403, "insufficient_scope");
        gate.assert_unseen(&builds.marker);
    });
}

#[test]
fn reading_the_servers_data_needs_the_scope_for_reading() {
    run(async {
        let gate = Gate::shared().await;
        let read = mcp::request("resources/read", json!({"uri": "file:///secret"}));
        let prompt = mcp::request("prompts/get", json!({"name": "p"}));
        let without = gate.agent_with("pro", 0, NewKey::with_scopes(&["generate"])).await;
        let with = gate.agent_with("pro", 0, NewKey::with_scopes(&["read"])).await;
        for message in [read, prompt] {
            let refused = without.call(&message).await;
            refused.assert_refused(403, "insufficient_scope");
            gate.assert_unseen(&refused.marker);
            with.call(&message).await.assert_allowed();
        }
    });
}

#[test]
fn a_key_ends_when_it_expires() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("pro", 0, NewKey::default().expires_at(from_now(15_000))).await;
        agent.call(&mcp::search()).await.assert_allowed();
        wait(Duration::from_secs(15)).await;
        eventually("the key expires", async || match agent.call(&mcp::search()).await.status {
            401 => Ok(()),
            status => Err(format!("{status}")),
        })
        .await;
    });
}

#[test]
fn a_revoked_key_is_refused_by_every_worker() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("enterprise").await;
        let sibling = gate.key(&agent.tenant, NewKey::default()).await;
        for _ in 0..20 {
            agent.call(&mcp::search()).await.assert_allowed();
        }
        gate.admin.revoke_key(&agent.key, &Reason { reason: "test".into() }).await.unwrap();
        refused_by_all(&agent).await;
        gate.assert_serving(&sibling).await;
    });
}

#[test]
fn a_rotated_key_has_a_new_secret_and_the_old_one_a_grace_period() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("enterprise").await;
        agent.call(&mcp::search()).await.assert_allowed();
        let rotation = protocol::admin::RotateKey { grace_seconds: 15, reason: None };
        let rotated = gate.admin.rotate_key(&agent.key, &rotation).await.unwrap();
        assert_ne!(rotated.secret, agent.secret);
        let renewed = Agent { secret: rotated.secret, ..agent.clone() };
        renewed.call(&mcp::search()).await.assert_allowed();
        agent.call(&mcp::search()).await.assert_allowed();
        wait(Duration::from_secs(15)).await;
        eventually("the grace ends", async || match agent.call(&mcp::search()).await.status {
            401 => Ok(()),
            status => Err(format!("{status}")),
        })
        .await;
        gate.assert_serving(&renewed).await;
    });
}
