//! What Envoy's log says of the ledger: that it does not answer, that it answers again, that the credential is refused.

use harness::clock::eventually;
use harness::ledger::operator;
use harness::{Gate, mcp, run};

/// The filter's lines with these words, as Envoy wrote them.
fn lines(gate: &Gate, words: &str) -> Vec<String> {
    gate.envoy_log().lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
}

async fn said(gate: &Gate, words: &str, count: usize) -> Vec<String> {
    eventually("the log says it", async || match lines(gate, words) {
        found if found.len() >= count => Ok(found),
        found => Err(format!("{words:?} is said {} times: {found:?}", found.len())),
    })
    .await
}

/// The number before this word.
fn number(line: &str, word: &str) -> u64 {
    let before = line.split(word).next().unwrap_or_default().trim_end();
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{line}"))
}

#[test]
fn a_ledger_that_is_away_is_said_once_then_at_doubling_intervals_and_its_return_too() {
    const AWAY: &str = "the ledger does not answer";
    const BACK: &str = "the ledger answers again";
    run(async {
        let mut gate = Gate::options().workers(2).start().await;
        let agent = gate.agent("pro").await;
        agent.call(&mcp::image("standard")).await.assert_allowed();
        assert_eq!(lines(&gate, AWAY), [""; 0], "before");
        gate.kill_ledger();
        for _ in 0..20 {
            agent.call(&mcp::image("standard")).await.assert_refused(503, "ledger_unavailable");
        }
        let away = said(&gate, AWAY, 3).await;
        // The second comes a second after the first, the third two seconds after that, from whichever worker.
        let calls: Vec<u64> = away.iter().map(|line| number(line, "calls to cluster")).collect();
        assert_eq!(calls[0], 1, "{away:?}");
        assert!(calls.is_sorted() && calls[2] > calls[1], "{away:?}");
        let seconds: Vec<u64> = away.iter().map(|line| number(line, "s; check")).collect();
        assert!(seconds[1] >= 1 && seconds[2] >= 3, "{away:?}");
        assert!(away[0].contains("cluster agentrelay_ledger"), "{away:?}");

        gate.restart_ledger().await;
        let back = said(&gate, BACK, 1).await;
        let failed = number(&back[0], "calls failed");
        assert!(failed >= 20, "{back:?}");
        agent.call(&mcp::image("standard")).await.assert_allowed();
        gate.settled(&agent).await;
        assert_eq!(lines(&gate, BACK).len(), 1, "it is said once");
    });
}

#[test]
fn a_credential_that_the_ledger_refuses_is_said() {
    run(async {
        let gate = Gate::options().start().await;
        let agent = gate.agent("pro").await;
        agent.call(&mcp::search()).await.assert_allowed();
        let (url, key) = (format!("http://{}", gate.ledger_address), gate.credentials().admin_key.clone());
        let revoked = tokio::task::spawn_blocking(move || {
            let listed = operator(&url, &key, &["filter-keys", "list", "--json"]);
            let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("it is JSON");
            let id = listed[0]["id"].as_str().expect("it has an id").to_owned();
            operator(&url, &key, &["filter-keys", "revoke", &id, "--reason", "test"])
        });
        let revoked = revoked.await.expect("no panic");
        assert!(revoked.status.success(), "{revoked:?}");
        let refused = said(&gate, "the ledger refuses this filter's credential", 2).await;
        assert_eq!(number(&refused[0], "calls in"), 1, "{refused:?}");
        assert!(refused[0].contains("AGENTRELAY_FILTER_KEY"), "{refused:?}");
        assert!(lines(&gate, "the ledger does not answer").is_empty(), "it answers");
    });
}
