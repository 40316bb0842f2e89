//! Rate limits hold exactly, slide, are reported correctly, and are the same over all workers.

use harness::agent::NewKey;
use harness::gate::at_once;
use harness::{Agent, Gate, Request, Response, mcp, policy, run, stats, wait};
use protocol::audit::Outcome;
use std::time::{Duration, Instant};

/// Permits of the free tier in each minute.
const FREE: usize = 20;
/// A window has 64 cells; a permit returns at most one cell late.
const CELLS: u64 = 64;

/// Sends sequential calls until one is refused. Returns how many passed, and the refusal.
async fn exhaust(agent: &Agent) -> (usize, Response) {
    let mut passed = 0;
    loop {
        let response = agent.call(&mcp::search()).await;
        match response.status {
            200 => passed += 1,
            _ => return (passed, response),
        }
        assert!(passed < 2000, "no limit holds");
    }
}

#[test]
fn a_full_window_of_a_day_says_the_whole_wait_in_every_field_and_in_words() {
    run(async {
        const DAY: u64 = 24 * 3600;
        let gate = Gate::shared().await;
        let agent = gate.agent_with("pro", 0, NewKey::default().limit(1, 86_400)).await;
        agent.call(&mcp::search()).await.assert_allowed();
        let refused = agent.call(&mcp::search()).await;
        refused.assert_refused(429, "rate_limited");
        let wait: u64 =
            refused.header("retry-after").and_then(|wait| wait.parse().ok()).expect("it says when");
        // A permit returns at most one cell late.
        assert!((DAY - 60..=DAY + DAY / CELLS).contains(&wait), "{wait}");
        assert_eq!(refused.rate().reset_seconds, wait, "{refused:?}");
        let data = &refused.json()["error"]["data"];
        assert_eq!(data["retryAfterSeconds"], wait, "{refused:?}");
        assert!(refused.text().contains("1 in 86400 s"), "{refused:?}");
    });
}

#[test]
fn the_free_tier_has_20_calls_a_minute_and_the_21st_gets_a_correct_retry_time() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("free").await;
        let began = Instant::now();
        for call in 1..=FREE {
            let response = agent.call(&mcp::search()).await;
            response.assert_allowed();
            let rate = response.rate();
            assert_eq!(rate.limit, 20);
            assert_eq!(rate.remaining, u64::try_from(FREE - call).unwrap(), "after call {call}");
            assert!((1..=61).contains(&rate.reset_seconds), "{rate:?}");
        }
        let refused = agent.call(&mcp::search()).await;
        refused.assert_refused(429, "rate_limited");
        assert_eq!(refused.code(), Some(42901));
        assert_eq!(refused.rate().remaining, 0);
        gate.assert_unseen(&refused.marker);

        let retry_after = refused.retry_after();
        let least = 59_u64.saturating_sub(began.elapsed().as_secs());
        assert!(
            (least..=62).contains(&retry_after),
            "the first of 20 came {:?} ago: {retry_after}",
            began.elapsed()
        );
        wait(Duration::from_secs(retry_after)).await;
        agent.call(&mcp::search()).await.assert_allowed();
        gate.assert_healthy().await;
    });
}

#[test]
fn retry_after_is_true_wherever_in_the_window_it_is_asked() {
    run(async {
        let gate = Gate::options().policy(|policy| policy::limit_tier(policy, "free", 3, "3s")).start().await;
        let agent = gate.agent("free").await;
        for _ in 0..4 {
            let (_, refused) = exhaust(&agent).await;
            refused.assert_refused(429, "rate_limited");
            let promised = refused.retry_after();
            assert!(promised <= 4, "{promised}");
            wait(Duration::from_secs(promised)).await;
            agent.call(&mcp::search()).await.assert_allowed();
        }
    });
}

#[test]
fn parallel_clients_over_two_workers_get_exactly_20() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("free").await;
        let answers = at_once((0..60).map(|_| agent.owned_call(mcp::search()))).await;
        let passed: Vec<&Response> = answers.iter().filter(|answer| answer.status == 200).collect();
        assert_eq!(passed.len(), FREE);
        for refused in answers.iter().filter(|answer| answer.status != 200) {
            refused.assert_refused(429, "rate_limited");
            gate.assert_unseen(&refused.marker);
        }
        // Both workers took part.
        for (name, connections) in stats::envoy(gate.envoy.admin, "downstream_cx_total").await {
            assert!(connections > 0 || !name.contains(".worker_"), "{name}: {connections}");
        }
        // No two calls were told the same remaining number, so they were counted one by one.
        let mut remaining: Vec<u64> = passed.iter().map(|answer| answer.rate().remaining).collect();
        remaining.sort_unstable();
        assert_eq!(remaining, (0..20).collect::<Vec<_>>());
        gate.assert_healthy().await;
    });
}

/// Sends calls all the time. Returns when each admitted one was sent and answered.
async fn admitted_during(agent: &Agent, duration: Duration) -> Vec<(Instant, Instant)> {
    let began = Instant::now();
    let mut admitted = Vec::new();
    while began.elapsed() < duration {
        let sent = Instant::now();
        let response = agent.call(&mcp::search()).await;
        if response.status == 200 {
            admitted.push((sent, Instant::now()));
        } else {
            response.assert_refused(429, "rate_limited");
            wait(Duration::from_millis(15)).await;
        }
    }
    admitted
}

/// Checks that no interval as long as the window has more admissions than permits. A call was admitted at some time
/// between being sent and being answered. So two calls are certainly closer than the window only if the later one was
/// answered within the window after the earlier one was sent.
fn assert_sliding(admitted: &[(Instant, Instant)], permits: usize, window: Duration) {
    for pair in admitted.windows(permits + 1) {
        let (first_sent, last_answered) = (pair[0].0, pair[permits].1);
        let apart = last_answered.duration_since(first_sent);
        assert!(apart >= window, "{} calls were admitted within {apart:?}", permits + 1);
    }
}

#[test]
fn a_burst_across_the_edge_of_a_minute_gets_no_second_quota() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("free").await;
        // Half of the quota, then the rest half a minute later: any fixed window would have an edge in the minute that
        // follows.
        let mut admitted = Vec::new();
        for burst in 0..2 {
            for _ in 0..FREE / 2 {
                let sent = Instant::now();
                agent.call(&mcp::search()).await.assert_allowed();
                admitted.push((sent, Instant::now()));
            }
            if burst == 0 {
                wait(Duration::from_secs(30)).await;
            }
        }
        admitted.extend(admitted_during(&agent, Duration::from_secs(37)).await);
        assert_sliding(&admitted, FREE, Duration::from_secs(60));
        // The first half came back, once, a minute after it was used.
        assert_eq!(admitted.len(), FREE + FREE / 2, "{admitted:?}");
        gate.assert_healthy().await;
    });
}

#[test]
fn a_short_window_admits_nearly_its_limit_under_constant_load() {
    run(async {
        let gate = Gate::options().policy(|policy| policy::limit_tier(policy, "free", 5, "2s")).start().await;
        let agent = gate.agent("free").await;
        let duration = Duration::from_secs(13);
        let admitted = admitted_during(&agent, duration).await;
        let window = Duration::from_secs(2);
        assert_sliding(&admitted, 5, window);
        // A little more than six windows passed; a window reopens at most a cell late, and a poll later. On a machine
        // that stalls there are fewer calls.
        assert!(admitted.len() >= 20, "only {} were admitted", admitted.len());
        let late = window / u32::try_from(CELLS).unwrap() + Duration::from_millis(500);
        let mut apart: Vec<Duration> =
            admitted.windows(6).map(|calls| calls[5].1.duration_since(calls[0].0)).collect();
        apart.sort_unstable();
        let median = apart[apart.len() / 2];
        assert!(median <= window + late, "a permit came back after {median:?}");
    });
}

#[test]
fn every_tier_has_its_own_limit_and_every_tenant_its_own_window() {
    run(async {
        let gate = Gate::shared().await;
        for (tier, permits) in [("free", 20), ("hobby", 60), ("pro", 300), ("enterprise", 1000)] {
            let agent = gate.agent(tier).await;
            let rate = agent.call(&mcp::search()).await.rate();
            assert_eq!((rate.limit, rate.remaining), (permits, permits - 1), "{tier}");
            let sibling = gate.key(&agent.tenant, NewKey::default()).await;
            assert_eq!(sibling.call(&mcp::search()).await.rate().remaining, permits - 2, "{tier}");
            let other = gate.agent(tier).await;
            assert_eq!(other.call(&mcp::search()).await.rate().remaining, permits - 1, "{tier}");
        }
        let hobby = gate.agent("hobby").await;
        let answers = at_once((0..70).map(|_| hobby.owned_call(mcp::search()))).await;
        assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 60);
    });
}

#[test]
fn a_keys_own_limit_applies_in_addition_to_its_tiers() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("pro", 0, NewKey::default().limit(3, 60)).await;
        let (passed, refused) = exhaust(&agent).await;
        assert_eq!(passed, 3);
        refused.assert_refused(429, "rate_limited");
        assert_eq!(refused.rate().limit, 3, "the limit that refused is the one that is shown");
        assert!(refused.header("ratelimit-policy").unwrap().contains("q=300"), "the tier's is shown too");
    });
}

#[test]
fn every_kind_of_response_has_the_rate_headers() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        let mut expected = 300;
        let mut check = |what: &str, status: u16, response: &Response| {
            assert_eq!(response.status, status, "{what}: {response:?}\n{}", response.text());
            // Requests that start no work use no permit, and still report what is left.
            let is_free = ["initialize", "ping", "notification", "session end"].contains(&what);
            expected -= u64::from(!is_free);
            let rate = response.rate();
            assert_eq!((rate.limit, rate.remaining), (300, expected), "{what}");
        };
        check("initialize", 200, &agent.call(&mcp::initialize()).await);
        check("tools/list", 200, &agent.call(&mcp::list()).await);
        check("ping", 200, &agent.call(&mcp::request("ping", serde_json::json!({}))).await);
        check("notification", 202, &agent.call(&mcp::notification("notifications/initialized")).await);
        check("tool", 200, &agent.call(&mcp::search()).await);
        check("priced tool", 200, &agent.call(&mcp::image("standard")).await);
        check("tool over events", 200, &agent.send(mcp::post(&mcp::search()).upstream("sse")).await);
        check("stream", 200, &agent.send(Request::get("/mcp").upstream("sse")).await);
        check("session end", 200, &agent.send(Request::new("DELETE", "/mcp")).await);
        check("upstream's 500", 500, &agent.send(mcp::post(&mcp::search()).upstream("status=500")).await);
        check("closed upstream", 503, &agent.send(mcp::post(&mcp::search()).upstream("close")).await);
        check("no JSON", 400, &agent.send(mcp::post_bytes(b"{")).await);
        check("tier", 403, &gate_free(gate, &agent).await);
        check("unknown tool", 404, &agent.call(&mcp::call("unlisted", serde_json::json!({}))).await);
        check("unknown path", 404, &agent.get("/nowhere").send(gate.address).await);
        check("other method", 405, &agent.send(Request::new("PUT", "/mcp")).await);
        let http = agent.get("/api/v1/mcp/projects/1/builds").send(gate.address).await;
        assert_eq!(http.status, 200);
        assert!(http.header("ratelimit").unwrap().contains("tool-60s"), "{http:?}");
        assert_eq!(http.rate().limit, 30, "the tightest limit is the one shown");

        let poor = gate.agent_with("pro", 0, NewKey::default()).await;
        let refused = poor.call(&mcp::image("standard")).await;
        refused.assert_refused(402, "quota_exceeded");
        assert_eq!(refused.rate().remaining, 299);

        let anonymous = gate.send(mcp::post(&mcp::search())).await;
        anonymous.assert_refused(401, "auth_denied");
        let rate = anonymous.rate();
        assert_eq!((rate.limit, rate.remaining), (0, 0));
        gate.assert_healthy().await;
    });
}

/// A call that is denied to this key with 403: it lacks the scope for the trigger.
async fn gate_free(gate: &Gate, agent: &Agent) -> Response {
    agent.send(Request::post("/api/v1/mcp/projects/1/trigger")).await.and_not_upstream(gate)
}

trait AndNotUpstream {
    fn and_not_upstream(self, gate: &Gate) -> Self;
}

impl AndNotUpstream for Response {
    fn and_not_upstream(self, gate: &Gate) -> Response {
        gate.assert_unseen(&self.marker);
        self
    }
}

#[test]
fn refused_requests_use_no_permit_of_the_tools_window() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate
            .agent_with("enterprise", 0, NewKey::with_scopes(&["trigger"]).resource("project:1", None))
            .await;
        for _ in 0..10 {
            let denied = agent.send(Request::post("/api/v1/mcp/projects/2/trigger")).await;
            denied.assert_refused(403, "insufficient_scope");
        }
        for _ in 0..5 {
            let allowed = agent.send(Request::post("/api/v1/mcp/projects/1/trigger")).await;
            assert_eq!(allowed.status, 200, "{allowed:?}");
        }
        agent.send(Request::post("/api/v1/mcp/projects/1/trigger")).await.assert_refused(429, "rate_limited");
    });
}

#[test]
fn a_limit_in_shadow_is_audited_and_not_enforced() {
    run(async {
        let gate = Gate::options()
            .policy(|policy| {
                policy["tiers"]["free"]["limits"] =
                    policy::yaml("[{permits: 2, window: 60s, shadow: true}, {permits: 5, window: 30s}]");
            })
            .start()
            .await;
        let agent = gate.agent("free").await;
        let (passed, refused) = exhaust(&agent).await;
        assert_eq!(passed, 5);
        refused.assert_refused(429, "rate_limited");
        assert_eq!(refused.rate().limit, 5);
        assert!(
            !refused.header("ratelimit-policy").unwrap().contains("q=2"),
            "shadows are nobody's business"
        );
        let decisions = gate.decisions(&agent, Outcome::Allowed, 5).await;
        let would = decisions.iter().filter(|decision| decision["would_deny"] == "rate_limited").count();
        assert_eq!(would, 3, "{decisions:?}");
    });
}

#[test]
fn a_rate_limited_key_gets_no_other_information_and_is_audited() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("free", 0, NewKey::default().limit(1, 60)).await;
        agent.call(&mcp::search()).await.assert_allowed();
        // The key's 429 comes before 400, 404, 403 and 402.
        agent.send(mcp::post_bytes(b"{")).await.assert_refused(429, "rate_limited");
        agent.call(&mcp::call("unlisted", serde_json::json!({}))).await.assert_refused(429, "rate_limited");
        agent.call(&mcp::image("ultra_plus")).await.assert_refused(429, "rate_limited");
        agent.get("/nowhere").send(gate.address).await.assert_refused(429, "rate_limited");
        for decision in gate.decisions(&agent, Outcome::RateLimited, 4).await {
            assert_eq!(decision["status"], 429, "{decision}");
            assert_eq!(decision["credits"], 0, "{decision}");
        }
    });
}
