//! The filter as a dynamic module: what is its own, beside the suite that it shares with the wasm filter. The module that
//! these tests load panics where a request's header `x-fault` says.

use harness::clock::eventually;
use harness::{Gate, NewKey, mcp, run};

const MESSAGE: &str = "a panic is caught";

async fn panics(gate: &Gate) -> u64 {
    gate.envoy.stat("wasmcustom.agentrelay_panics").await.unwrap_or(0)
}

#[test]
fn a_panic_before_the_decision_refuses_its_request_and_no_other() {
    run(async {
        let gate = Gate::options().start().await;
        let agent = gate.agent("pro").await;
        gate.cache_key(&agent).await;
        let before = gate.balance(&agent).await;
        for (count, place) in (1..).zip(["request headers", "request body"]) {
            let request = mcp::post(&mcp::image("standard")).header("x-fault", place);
            let answer = agent.send(request).await;
            assert_eq!(answer.status, 503, "{place}: {answer:?}");
            gate.assert_unseen(&answer.marker);
            eventually(MESSAGE, async || match panics(&gate).await {
                told if told == count => Ok(()),
                told => Err(format!("{told} of {count}")),
            })
            .await;
            gate.assert_serving(&agent).await;
        }
        // Refused requests cost nothing, and those that proved that the gate serves were free.
        assert_eq!(gate.settled(&agent).await, before);
    });
}

#[test]
fn a_panic_in_the_response_breaks_it_off_and_the_call_stays_paid() {
    run(async {
        let gate = Gate::options().start().await;
        for place in ["response headers", "response body"] {
            let agent = gate.agent_with("pro", 100, NewKey::with_scopes(&["read", "generate"])).await;
            gate.cache_key(&agent).await;
            let call = mcp::image("standard");
            let request = agent.post(&call).header("x-fault", place);
            let answer = request.try_send(agent.gate).await;
            // Whatever arrived, it is no complete answer with a result.
            if let Ok(answer) = &answer {
                assert!(
                    answer.status >= 500 || !String::from_utf8_lossy(&answer.body).contains("result"),
                    "{place}: {answer:?}"
                );
            }
            let after = gate.settled(&agent).await;
            assert_eq!(after.available.get(), 95, "{place}: {after:?}");
            gate.assert_serving(&agent).await;
        }
    });
}

#[test]
fn a_panic_at_the_end_of_an_exchange_leaves_nothing_behind() {
    run(async {
        let gate = Gate::options().start().await;
        let agent = gate.agent("pro").await;
        gate.cache_key(&agent).await;
        // More than a key may have in progress at once.
        for _ in 0..100 {
            let request = mcp::post(&mcp::image("standard")).header("x-fault", "end");
            let answer = agent.send(request).await;
            assert!(answer.status == 200 || answer.status == 429, "{answer:?}");
        }
        gate.assert_serving(&agent).await;
    });
}

/// Envoy 1.38 does not tell a module whether an upstream broke off or a client left.
#[test]
fn an_envoy_that_does_not_tell_how_calls_end_does_not_load_the_module() {
    let envoy = std::env::var_os("AGENTRELAY_OLD_ENVOY").expect("run by scripts/test --native");
    let filter = harness::files::filter();
    let text = cli::stack::bootstrap::for_validation(&filter).unwrap();
    let directory = harness::files::process_directory();
    let file = directory.join("old.yaml");
    std::fs::write(&file, text).unwrap();
    let output = std::process::Command::new(envoy)
        .args(["--mode", "validate", "--config-path"])
        .arg(&file)
        .envs(filter.environment())
        .env("AGENTRELAY_FILTER_KEY", "unused")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("it needs Envoy 1.39 or 1.40"), "{said}");
}
