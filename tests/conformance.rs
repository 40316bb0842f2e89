//! MCP's own conformance suite: through the gate, with a key that may do everything, each check of each scenario ends
//! as it does without the gate.

use harness::agent::NewKey;
use harness::python::Server;
use harness::{Gate, files, forwarder, node, policy, run};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;

/// The result of each check, by scenario and name of the check, in the order in which the suite ran them.
type Results = BTreeMap<(String, String), Vec<String>>;

#[test]
fn the_legacy_era_is_the_same_through_the_gate() {
    run(same_through_the_gate("2025-11-25", 30));
}

#[test]
fn the_modern_era_is_the_same_through_the_gate() {
    run(same_through_the_gate("2026-07-28", 37));
}

/// At least `passing` scenarios must pass without the gate; otherwise the comparison would prove nothing.
async fn same_through_the_gate(revision: &str, passing: usize) {
    let server = Server::start_program("fixture_server", &[]).await;
    let gate = Gate::options()
        .upstream(&server.url)
        .policy(|policy| {
            policy["services"]["studio"]["unlisted"] = policy::yaml("{risk: read_only}");
            policy::limit_tier(policy, "enterprise", 100_000, "60s");
        })
        .start()
        .await;
    let agent = gate.agent_with("enterprise", 0, NewKey::with_scopes(&["read", "generate", "admin"])).await;
    let before = forwarder::start(gate.address, &agent.secret).await;

    let direct = results(revision, &server.url, "direct").await;
    let through = results(revision, &format!("http://{before}"), "through").await;

    let mut scenarios: BTreeMap<&str, bool> = BTreeMap::new();
    for ((scenario, _), statuses) in &direct {
        *scenarios.entry(scenario).or_insert(true) &= !statuses.iter().any(|status| status == "FAILURE");
    }
    let passed = scenarios.values().filter(|passed| **passed).count();
    assert!(passed >= passing, "only {passed} of {scenarios:?} pass without the gate");
    let differ: Vec<_> = direct
        .keys()
        .chain(through.keys())
        .filter(|check| direct.get(check) != through.get(check))
        .map(|check| format!("{check:?}: {:?} became {:?}", direct.get(check), through.get(check)))
        .collect();
    assert!(differ.is_empty(), "{differ:#?}");
    gate.assert_healthy().await;
}

/// Runs the scenarios that a revision requires, and those that are informative.
async fn results(revision: &str, url: &str, name: &str) -> Results {
    let directory = files::process_directory().join(format!("{revision}-{name}"));
    let place = directory.to_string_lossy();
    let url = format!("{url}/mcp");
    let arguments = ["server", "--url", &url, "--requirements", revision, "-o", &place];
    let output = node::package("@modelcontextprotocol/conformance/dist/index.js", &arguments).await;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("=== SUMMARY ==="), "the suite did not come to its end: {output:?}");

    let mut results = Results::new();
    for scenario in fs::read_dir(&directory).expect("the suite wrote its results") {
        let scenario = scenario.expect("its directory can be read");
        let checks = fs::read(scenario.path().join("checks.json")).expect("a scenario has checks");
        let checks: Vec<Value> = serde_json::from_slice(&checks).expect("checks are JSON");
        let name = scenario.file_name().to_string_lossy().into_owned();
        // Named server-NAME-TIME, such as server-ping-2026-11-22T22-12-38-688Z.
        let name = name[..name.len().saturating_sub(25)].to_owned();
        for check in checks {
            let text = |field: &str| check[field].as_str().unwrap_or_default().to_owned();
            let check = (name.clone(), format!("{} {}", text("id"), text("name")));
            results.entry(check).or_default().push(text("status"));
        }
    }
    results
}
