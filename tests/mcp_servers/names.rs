//! Tools with any name that a server gives them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use harness::agent::NewKey;
use harness::clock::eventually;
use harness::{Gate, files, mcp, policy, run};
use serde_json::{Value, json};
use tokio::process::Command;

/// A name, and how the upstream gets it.
fn names() -> Vec<(String, String)> {
    let mut names: Vec<(String, String)> = [
        ("files/read", "files/read"),
        ("github.v2/issues.list", "github.v2/issues.list"),
        ("a:b@c~d!(e)", "a:b@c~d!(e)"),
        ("100%", "100%25"),
        ("caf\u{e9}", "caf%C3%A9"),
        ("\u{691c}\u{7d22}", "%E6%A4%9C%E7%B4%A2"),
        ("\u{1f50d}", "%F0%9F%94%8D"),
        ("\"quoted\"\\", "\"quoted\"\\"),
    ]
    .map(|(name, header)| (name.to_owned(), header.to_owned()))
    .into();
    names.push(("\u{fc}".repeat(128), "%C3%BC".repeat(128)));
    names
}

#[test]
fn tools_are_named_priced_and_shown_by_whatever_name_their_server_gives_them() {
    run(async {
        let gate = Gate::options()
            .policy(|policy| {
                for (name, _) in names() {
                    let rule = policy::yaml("{risk: read_only, price: {credits: 2}}");
                    policy["services"]["studio"]["tools"][name.as_str()] = rule;
                }
            })
            .start()
            .await;
        let names = names();
        let granted: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
        let agent = gate.agent_with("enterprise", 1000, NewKey::default().tools(&granted)).await;
        for (name, header) in &names {
            let call = mcp::call(name, json!({}));
            let named = format!("=?base64?{}?=", STANDARD.encode(name));
            let modern = mcp::modern(call.clone()).without("mcp-name").header("mcp-name", named);
            for request in [mcp::post(&call), modern] {
                let answer = agent.send(request).await;
                answer.assert_allowed();
                let seen = gate.upstream.the_one(&answer.marker);
                assert_eq!(seen.header("x-agentrelay-tool").as_deref(), Some(header.as_str()));
            }
        }
        let calls = 2 * names.len() as u64;
        assert_eq!(gate.settled(&agent).await.posted.get(), 2 * calls);
        // Neither in different case nor without its accent.
        for other in ["Files/read", "files/read/", "cafe", "cafe\u{301}", "100%25"] {
            agent.call(&mcp::call(other, json!({}))).await.assert_refused(404, "unknown_tool");
        }
        let rows = eventually("usage is counted", async || {
            let output = Command::new(files::program())
                .args(["usage", "--group-by", "tool", "--json"])
                .env("AGENTRELAY_LEDGER", format!("http://{}", gate.ledger_address))
                .env("AGENTRELAY_ADMIN_KEY", &gate.credentials().admin_key)
                .output()
                .await
                .unwrap();
            let usage: Value = serde_json::from_slice(&output.stdout).map_err(|_| format!("{output:?}"))?;
            let rows = usage.as_array().or_else(|| usage["items"].as_array()).cloned().unwrap_or_default();
            let of = |name: &str| rows.iter().any(|row| row["tool"] == name && row["credits"] == 4);
            match names.iter().find(|(name, _)| !of(name)) {
                None => Ok(rows),
                Some((name, _)) => Err(format!("{name} has no 4 credits: {rows:?}")),
            }
        })
        .await;
        assert!(rows.len() >= names.len());
        for (name, _) in &names {
            gate.access_log(|line| line["tool"] == name.as_str()).await;
        }
        gate.assert_healthy().await;
    });
}
