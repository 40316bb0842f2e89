//! Whose requests a limit counts together, what a client is told is left of it over several Envoys, and what it admits
//! while the ledger is away.

use harness::agent::NewKey;
use harness::clock::run_within;
use harness::{Agent, Gate, Response, mcp, policy, run, wait};
use protocol::admin::{CreateAgent, CreateKey};
use protocol::{AgentId, TenantId};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const MINUTES: Duration = Duration::from_secs(600);

/// A gate whose tier `pro` has these limits.
async fn gate(limits: &'static str) -> Gate {
    options(limits).start().await
}

fn options(limits: &'static str) -> harness::gate::GateOptions {
    Gate::options().policy(move |policy| policy["tiers"]["pro"]["limits"] = policy::yaml(limits))
}

/// How many of many calls pass, each by another agent in turn, and the last refusal.
async fn passed(agents: &[Agent]) -> (u32, Response) {
    let mut passed = 0;
    let mut refused = Vec::new();
    loop {
        for agent in agents {
            let answer = agent.call(&mcp::search()).await;
            match answer.status {
                200 => passed += 1,
                _ => refused.push(answer),
            }
        }
        if refused.len() >= 2 * agents.len() {
            return (passed, refused.pop().expect("there is one"));
        }
        assert!(passed < 1000, "no limit holds");
    }
}

fn at(agent: &Agent, gate: SocketAddr) -> Agent {
    Agent { gate, ..agent.clone() }
}

async fn key_of(gate: &Gate, tenant: &TenantId, agent_id: Option<AgentId>) -> Agent {
    let key = CreateKey {
        tenant_id: tenant.clone(),
        name: "test".into(),
        scopes: vec!["read".into()],
        agent_id,
        ..NewKey::default().body(tenant)
    };
    let made = gate.admin.create_key(&key).await.expect("a key can be made");
    Agent { gate: gate.address, tenant: tenant.clone(), key: made.key.id, secret: made.secret }
}

#[test]
fn the_keys_of_one_free_tenant_have_20_calls_a_minute_together() {
    run(async {
        let gate = Gate::shared().await;
        let first = gate.agent("free").await;
        let second = gate.key(&first.tenant, NewKey::default()).await;
        let (passed, refused) = passed(&[first, second]).await;
        assert_eq!(passed, 20);
        refused.assert_refused(429, "rate_limited");
        assert!(refused.text().contains("this tenant's limit for requests, 20 in 60 s"), "{refused:?}");
        // Another tenant has its own.
        gate.agent("free").await.call(&mcp::search()).await.assert_allowed();
    });
}

#[test]
fn the_keys_of_one_agent_share_its_limit_and_another_agent_of_the_tenant_has_its_own() {
    run(async {
        let gate =
            gate("[{permits: 5, window: 60s, per: agent}, {permits: 8, window: 60s, per: tenant}]").await;
        let tenant = gate.agent("pro").await.tenant;
        let new = || CreateAgent { tenant_id: tenant.clone(), name: "crawler".into() };
        let [one, other] = [
            gate.admin.create_agent(&new()).await.expect("an agent").id,
            gate.admin.create_agent(&new()).await.expect("an agent").id,
        ];
        let [a, b] =
            [key_of(&gate, &tenant, Some(one.clone())).await, key_of(&gate, &tenant, Some(one)).await];
        let (of_one, refused) = passed(&[a.clone(), b]).await;
        assert_eq!(of_one, 5);
        assert!(refused.text().contains("this agent's limit for requests, 5 in 60 s"), "{refused:?}");
        // What the agent's limit refused took nothing from the tenant's.
        let (of_other, refused) = passed(&[key_of(&gate, &tenant, Some(other)).await]).await;
        assert_eq!(of_other, 3);
        assert!(refused.text().contains("this tenant's limit for requests, 8 in 60 s"), "{refused:?}");
        // A key without an agent counts by itself, within the tenant's.
        key_of(&gate, &tenant, None).await.call(&mcp::search()).await.assert_refused(429, "rate_limited");
        let names = a.call(&mcp::search()).await;
        assert!(
            names
                .header("ratelimit")
                .is_some_and(|all| all.contains("agent-60s") && all.contains("tenant-60s"))
        );
    });
}

#[test]
fn two_envoys_and_two_keys_share_a_tenants_global_limit() {
    run(async {
        let mut gate = gate("[{permits: 20, window: 60s, per: tenant, global: true}]").await;
        let envoys = [gate.address, gate.another_envoy().await];
        let first = gate.agent("pro").await;
        let second = gate.key(&first.tenant, NewKey::default()).await;
        let callers =
            [at(&first, envoys[0]), at(&second, envoys[1]), at(&first, envoys[1]), at(&second, envoys[0])];
        let began = Instant::now();
        let mut total = 0;
        // An Envoy whose share is used up gets what others do not need within a second.
        while total < 20 && began.elapsed() < Duration::from_secs(40) {
            total += passed(&callers).await.0;
            wait(Duration::from_millis(500)).await;
        }
        assert_eq!(total, 20);
        gate.assert_healthy().await;
    });
}

/// A client that sends while it is told that something is left, and waits as long as it is told otherwise. How many of its
/// calls passed within one window.
async fn obeying(agent: &Agent, envoys: &[SocketAddr], window: Duration) -> (u32, u32) {
    let (mut passed, mut refused, mut turn) = (0, 0, 0);
    let began = Instant::now();
    while began.elapsed() < window {
        let answer = at(agent, envoys[turn % envoys.len()]).call(&mcp::search()).await;
        turn += 1;
        let rate = answer.rate();
        let pause = match answer.status {
            200 => {
                passed += u32::from(began.elapsed() < window);
                if rate.remaining == 0 { rate.reset_seconds } else { 0 }
            }
            _ => {
                refused += 1;
                answer.retry_after()
            }
        };
        wait(Duration::from_secs(pause)).await;
    }
    (passed, refused)
}

#[test]
fn a_client_that_obeys_what_is_left_gets_all_of_a_global_limit_on_one_two_and_four_envoys() {
    run_within(MINUTES, async {
        let mut gate = gate("[{permits: 24, window: 30s, per: tenant, global: true}]").await;
        let mut envoys = vec![gate.address];
        for count in [1, 2, 4] {
            while envoys.len() < count {
                envoys.push(gate.another_envoy().await);
            }
            // Every Envoy has heard of all others by then.
            wait(Duration::from_secs(3)).await;
            let agent = gate.agent("pro").await;
            let (passed, refused) = obeying(&agent, &envoys, Duration::from_secs(29)).await;
            println!("{count} Envoys: {passed} passed, {refused} refused");
            assert_eq!(passed, 24, "{count} Envoys");
            assert!(refused <= 2 * u32::try_from(count).unwrap(), "{count} Envoys: {refused} were refused");
        }
    });
}

#[test]
fn an_opening_says_that_all_of_a_global_limit_is_left() {
    run(async {
        let gate = gate("[{permits: 24, window: 60s, per: tenant, global: true}]").await;
        let opened = gate.agent("pro").await.call(&mcp::initialize()).await;
        assert_eq!(opened.rate().remaining, 24, "{opened:?}");
    });
}

/// A gate of two Envoys that have lost their ledger, and a caller at each that made one call before.
async fn without_ledger(edit: impl FnOnce(&mut serde_yaml_ng::Value) + Send + 'static) -> (Gate, [Agent; 2]) {
    let mut gate = Gate::options().policy(edit).workers(1).start().await;
    let envoys = [gate.address, gate.another_envoy().await];
    let agent = gate.agent("pro").await;
    // The feed tells that the key was created, and then the workers ask for it again.
    gate.cache_key(&gate.agent("enterprise").await).await;
    let callers = envoys.map(|envoy| at(&agent, envoy));
    for caller in &callers {
        caller.call(&mcp::search()).await.assert_allowed();
    }
    gate.kill_ledger();
    (gate, callers)
}

#[test]
fn without_the_ledger_two_envoys_give_half_of_a_global_limit_each_and_say_so() {
    run_within(MINUTES, async {
        let edit = |policy: &mut serde_yaml_ng::Value| {
            let limits = "[{permits: 20, window: 20s, per: tenant, global: true}]";
            policy["tiers"]["pro"]["limits"] = policy::yaml(limits);
            // Known keys are served for so long.
            policy["settings"]["key_stale"] = policy::yaml("10m");
        };
        let (mut gate, callers) = without_ledger(edit).await;
        for caller in &callers {
            let (more, refused) = passed(std::slice::from_ref(caller)).await;
            assert_eq!(more, 9);
            refused.assert_refused(429, "rate_limited");
            let text = refused.text();
            assert!(
                text.contains("20 in 20 s at all gates together") && text.contains("share of 10"),
                "{text}"
            );
        }
        // So it goes on, long after the shares that the ledger gave have ended; and it serves what was told to wait.
        for round in 0..8 {
            wait(Duration::from_secs(22)).await;
            for caller in &callers {
                assert_eq!(passed(std::slice::from_ref(caller)).await.0, 10, "round {round}");
            }
        }
        gate.restart_ledger().await;
        harness::clock::eventually("one Envoy gets more than its half again", async || {
            match passed(&callers[..1]).await.0 {
                more if more > 10 => Ok(()),
                more => {
                    wait(Duration::from_secs(21)).await;
                    Err(format!("{more}"))
                }
            }
        })
        .await;
    });
}

#[test]
fn without_the_ledger_a_limit_may_deny_or_allow() {
    run_within(MINUTES, async {
        for (outage, status) in [("deny", 503), ("allow", 429)] {
            let limit = format!("[{{permits: 10, window: 60s, global: true, on_ledger_outage: {outage}}}]");
            let limits = move |policy: &mut serde_yaml_ng::Value| {
                policy["tiers"]["pro"]["limits"] = policy::yaml(&limit)
            };
            let (_gate, callers) = without_ledger(limits).await;
            let mut total = 0;
            for caller in &callers {
                let (more, refused) = passed(std::slice::from_ref(caller)).await;
                assert_eq!(refused.status, status, "{outage}: {refused:?}");
                total += more;
            }
            let expected = if outage == "deny" { 8 } else { 18 };
            assert_eq!(total, expected, "{outage}");
        }
    });
}

#[test]
fn no_two_limits_of_one_response_have_the_same_name() {
    run(async {
        let edit = |policy: &mut serde_yaml_ng::Value| {
            let limits = "[{permits: 100, window: 60s}, {permits: 200, window: 60s, per: tenant}]";
            policy["tiers"]["pro"]["limits"] = policy::yaml(limits);
            let limits = "[{permits: 50, window: 60s}, {permits: 60, window: 60s, per: tenant}]";
            policy["services"]["studio"]["tools"]["search"]["limits"] = policy::yaml(limits);
            policy["services"]["studio"]["gate_tools"] = policy::yaml("{request_key: {risk: read_only}}");
        };
        let gate = Gate::options().policy(edit).start().await;
        let tenant = gate.agent("pro").await.tenant;
        let parent = gate.key(&tenant, NewKey::default().limit(70, 60)).await;
        let issued =
            parent.call(&mcp::call("request_key", serde_json::json!({"service_name": "studio"}))).await;
        let issued = issued.json();
        let secret = issued["result"]["structuredContent"]["api_key"].as_str();
        let secret = secret.unwrap_or_else(|| panic!("no key: {issued}")).to_owned();
        let child = Agent { secret, ..parent.clone() };
        let answer = child.call(&mcp::search()).await;
        answer.assert_allowed();
        let names: Vec<&str> = answer
            .header("ratelimit-policy")
            .expect("it is there")
            .split(", ")
            .filter_map(|item| item.split(';').next())
            .collect();
        assert_eq!(names.len(), 6, "{answer:?}");
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 6, "{names:?}");
    });
}

#[test]
fn without_the_ledger_unknown_keys_are_refused_unless_the_policy_says_what_they_may_do() {
    run_within(MINUTES, async {
        let edit = |policy: &mut serde_yaml_ng::Value| {
            policy["settings"]["unknown_keys_on_ledger_outage"] =
                policy::yaml("{tier: free, scopes: [read]}");
        };
        let mut gate = Gate::options().policy(edit).start().await;
        let [known, unknown, other] =
            [gate.agent("pro").await, gate.agent("pro").await, gate.agent("pro").await];
        gate.cache_key(&known).await;
        gate.kill_ledger();
        unknown.call(&mcp::search()).await.assert_refused(503, "ledger_unavailable");
        // Only an outage lets them in, not a call to the ledger that failed.
        harness::clock::eventually_within(Duration::from_secs(60), "they are let in", async || match unknown
            .call(&mcp::search())
            .await
            .status
        {
            200 => Ok(()),
            status => Err(status.to_string()),
        })
        .await;
        // All of them are one caller, of that tier, which may do no more than its scopes.
        let refused = unknown.call(&mcp::image("standard")).await;
        refused.assert_refused(403, "insufficient_scope");
        let (passed, refused) = passed(&[unknown.clone(), other.clone()]).await;
        assert!(passed < 20, "{passed}");
        refused.assert_refused(429, "rate_limited");
        // With the ledger each is known by itself again.
        gate.restart_ledger().await;
        harness::clock::eventually_within(Duration::from_secs(60), "it is known", async || {
            let answer = unknown.call(&mcp::image("standard")).await;
            if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
        gate.assert_healthy().await;
    });
}
