//! Calls paid from a lease, and limits that hold over all Envoys.

use super::*;
use crate::window::share;

impl Gate {
    /// The ledger grants `self.share` permits of each limit; `None`: it does not answer.
    pub(super) fn answer_shares(&mut self, rules: &[LimitRule]) -> SharesAnswered {
        let fingerprint = self.key.as_ref().unwrap().fingerprint;
        let Some(permits) = self.share else { return SharesAnswered::Unavailable };
        let now = Monotonic(self.now_ms);
        for rule in rules {
            let Some((next, ask)) = share::ask(&self.slot, fingerprint, rule, now).unwrap() else {
                return SharesAnswered::Nothing;
            };
            let (revision, permits) = (ask.revision, permits.min(ask.wanted));
            let deadline = Monotonic(self.now_ms + 120_000);
            let answer = share::Given { revision, permits, elsewhere: self.elsewhere, deadline };
            let next = share::given(&next, fingerprint, rule.id, &answer, now).unwrap();
            self.slot = next.unwrap();
        }
        SharesAnswered::Changed
    }
}

fn leased() -> Gate {
    let mut document = document();
    document["services"]["studio"]["tools"]["draw"]["price"]["reserve"] = json!("leased");
    let mut gate = Gate::with(document, record());
    gate.lease = Some(LeaseId::from_bits(9));
    gate
}

fn answer(exchange: &mut Exchange, gate: &Gate, body: &[u8]) {
    let headers: [(&[u8], &[u8]); 1] = [(b"content-type", b"application/json")];
    exchange.response_headers(200, &headers, false, gate.now());
    exchange.watch(body);
}

#[test]
fn a_leased_call_calls_no_ledger_and_its_record_names_the_lease() {
    let mut gate = leased();
    let (mut exchange, _) = gate.call("draw", json!({"q": "b"})).forwarded();
    assert_eq!((gate.reserved.len(), gate.spent.len()), (0, 1));
    assert_eq!(gate.spent[0].price.get(), 40);
    assert_eq!(exchange.reservation(), None);
    answer(&mut exchange, &gate, br#"{"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#);
    let finished = exchange.finish(End::Complete, "e", gate.now());
    assert_eq!((finished.settlement, finished.refund), (None, None));
    assert_eq!(finished.decision.credits.get(), 40);
    assert_eq!(finished.decision.reservation_id, None);
    let lease_id = finished.decision.lease_id.unwrap();
    assert_eq!(lease_id.to_string(), "00000000-0000-0000-0000-000000000009");
}

#[test]
fn a_failed_leased_call_is_refunded_to_its_lease() {
    let mut gate = leased();
    let (mut exchange, _) = gate.call("draw", json!({"q": "b"})).forwarded();
    answer(&mut exchange, &gate, br#"{"jsonrpc":"2.0","id":7,"result":{"content":[],"isError":true}}"#);
    let finished = exchange.finish(End::Complete, "e", gate.now());
    let refund = finished.refund.unwrap();
    assert_eq!(
        (refund.lease, refund.credits.get(), refund.tenant),
        (LeaseId::from_bits(9), 40, gate.spent[0].tenant)
    );
    assert_eq!(finished.decision.credits, Credits::ZERO);
}

#[test]
fn a_leased_call_keeps_its_charge_unless_it_was_seen_to_fail() {
    for (end, session, back) in [
        (End::ClientDisconnected, Some("s"), None),
        (End::ClientDisconnected, None, None),
        (End::Complete, Some("s"), None),
        (End::UpstreamFailed, Some("s"), Some(5)),
        (End::NotSent, None, Some(5)),
    ] {
        let body = br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"draw"}}"#;
        let mut gate = leased();
        let own = session.map(|session| gate.session(session));
        let headers: Vec<(&str, &str)> =
            own.iter().map(|session| ("mcp-session-id", session.as_str())).collect();
        let (exchange, _) = gate.request_with("POST", "/mcp", Some(body), &headers).forwarded();
        let finished = exchange.finish(end, "e", gate.now());
        assert_eq!(finished.refund.map(|refund| refund.credits.get()), back, "{end:?} {session:?}");
        assert_eq!(finished.decision.credits.get(), 5 - back.unwrap_or(0));
    }
}

#[test]
fn without_a_lease_a_leased_call_reserves_exactly() {
    let mut gate = leased();
    gate.lease = None;
    gate.call("draw", json!({})).forwarded();
    assert_eq!((gate.reserved.len(), gate.spent.len()), (1, 1));
}

#[test]
fn a_key_with_a_budget_of_its_own_reserves_exactly() {
    let mut gate = leased();
    gate.key = Some(Arc::new(Key::new(KeyRecord { has_budget: true, ..record() })));
    gate.call("draw", json!({})).forwarded();
    assert_eq!((gate.reserved.len(), gate.spent.len()), (1, 0));
}

fn global(permits: u32) -> Gate {
    let mut document = document();
    document["tiers"]["pro"]["limits"] = json!([{"permits": permits, "window": "60s", "global": true}]);
    Gate::with(document, record())
}

#[test]
fn a_global_limit_admits_no_more_than_the_ledger_granted() {
    let mut gate = global(100);
    gate.share = Some(4);
    for _ in 0..4 {
        gate.call("draw", json!({})).forwarded();
    }
    assert_eq!(gate.shares_asked, 1);
    let refused = gate.call("draw", json!({}));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(refused.refusal().0, 429);
    let asked = gate.shares_asked;
    assert_eq!(gate.call("draw", json!({})).refusal().0, 429);
    assert_eq!(gate.shares_asked, asked + 1, "the ledger had no more a moment ago, so one look is enough");
}

#[test]
fn a_whole_share_asks_for_no_more() {
    let mut gate = global(3);
    gate.share = Some(3);
    for _ in 0..3 {
        gate.call("draw", json!({})).forwarded();
    }
    assert_eq!(gate.call("draw", json!({})).refusal().0, 429);
    assert_eq!(gate.shares_asked, 1);
}

/// Decides GETs that arrive at the same moment at one worker, where those that wait for more of a limit share one ask.
/// Returns how many pass.
fn pass_together(gate: &mut Gate, calls: usize) -> usize {
    let (key, now) = (gate.key.clone().unwrap(), gate.now());
    let bearer = format!("Bearer {}", secret());
    let headers: [(&[u8], &[u8]); 3] =
        [(b":method", b"GET"), (b":path", b"/api/p/1"), (b"authorization", bearer.as_bytes())];
    let id = EventId::parse("0192f0c0-0000-7000-8000-000000000001").unwrap();
    let begin = |_| Exchange::begin(gate.policy.clone(), id, &headers, true, now);
    let mut undecided: Vec<(Exchange, Step)> = (0..calls).map(begin).collect();
    let mut passed = 0;
    while !undecided.is_empty() {
        let mut waiting = Vec::new();
        let mut spent = None;
        for (mut exchange, step) in undecided {
            let mut next = Some(step);
            while let Some(step) = next.take() {
                match step {
                    Step::FindKey(_) => next = Some(exchange.key_found(key.clone(), now)),
                    Step::Admit(_) => next = Some(exchange.admission_answered(AdmissionAnswered::Admitted)),
                    Step::AskWindows { asks, .. } => {
                        let (slot, verdicts) =
                            slot::take(&gate.slot, key.fingerprint, &asks, &Fleet::default(), now.monotonic)
                                .unwrap();
                        gate.slot = slot;
                        next = Some(exchange.windows_asked(&verdicts));
                    }
                    Step::AskShares { rules } => spent = Some(rules),
                    Step::Forward { .. } => passed += 1,
                    Step::Refuse(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            if !exchange.is_decided() {
                waiting.push(exchange);
            }
        }
        let answer = spent.map_or(SharesAnswered::Nothing, |rules| gate.answer_shares(&rules));
        let answered = waiting.into_iter().map(|mut exchange| {
            let step = exchange.shares_answered(answer);
            (exchange, step)
        });
        undecided = answered.collect();
    }
    passed
}

#[test]
fn concurrent_calls_pass_while_the_ledger_has_permits() {
    let mut gate = global(300);
    gate.share = Some(300);
    assert_eq!(pass_together(&mut gate, 100), 100);
    assert_eq!(pass_together(&mut gate, 300), 200);
}

#[test]
fn waiting_for_a_tools_global_limit_uses_one_permit_of_the_key() {
    let mut document = document();
    document["tiers"]["pro"]["limits"] = json!([{"permits": 4, "window": "60s"}]);
    document["services"]["studio"]["tools"]["search"]["limits"] =
        json!([{"permits": 100, "window": "60s", "global": true}]);
    let mut gate = Gate::with(document, record());
    gate.share = Some(1);
    gate.call("search", json!({})).forwarded();
    gate.now_ms += 300;
    gate.share = Some(3);
    // In a batch too, each message takes its own permit.
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{}}}"#;
    let batch = format!("[{call},{}]", call.replace("\"id\":1", "\"id\":2"));
    let version = [("mcp-protocol-version", "2025-03-26")];
    let (_, sent) = gate.request_with("POST", "/mcp", Some(batch.as_bytes()), &version).forwarded();
    assert_eq!(sent, None);
    gate.now_ms += 300;
    gate.share = Some(5);
    gate.call("search", json!({})).forwarded();
    let (status, body) = gate.call("search", json!({})).refusal();
    assert_eq!(status, 429, "{body}");
    assert!(gate.shares_asked >= 3);
}

fn on_ledger_outage(permits: u32, outage: &str) -> Gate {
    let limit = json!({"permits": permits, "window": "60s", "global": true, "on_ledger_outage": outage});
    let mut document = document();
    document["tiers"]["pro"]["limits"] = json!([limit]);
    Gate::with(document, record())
}

/// How many of many calls are forwarded, and the refusal of the last.
fn admitted(gate: &mut Gate) -> (u32, (u16, Value)) {
    let mut count = 0;
    loop {
        match gate.call("draw", json!({})) {
            Decided::Forwarded(..) => count += 1,
            refused @ Decided::Refused(_) => return (count, refused.refusal()),
        }
    }
}

#[test]
fn without_the_ledger_a_limit_that_denies_lasts_as_long_as_its_share() {
    let mut gate = on_ledger_outage(100, "deny");
    assert_eq!(gate.call("draw", json!({})).refusal().0, 503);
    gate.share = Some(50);
    gate.call("draw", json!({})).forwarded();
    gate.share = None;
    gate.now_ms += 119_000;
    gate.call("draw", json!({})).forwarded();
    gate.now_ms += 2_000;
    assert_eq!(gate.call("draw", json!({})).refusal().0, 503);
}

#[test]
fn without_the_ledger_the_only_envoy_gives_the_whole_limit_and_one_of_two_its_half() {
    let mut gate = global(10);
    gate.fleet = Fleet { envoys: 1, confirmed: Monotonic(gate.now_ms), is_unavailable: false };
    let (count, (status, body)) = admitted(&mut gate);
    assert_eq!((count, status), (10, 429), "{body}");
    assert!(body.to_string().contains("does not answer"), "{body}");

    let mut gate = global(10);
    gate.fleet = Fleet { envoys: 2, confirmed: Monotonic(gate.now_ms), is_unavailable: false };
    gate.share = Some(5);
    gate.call("draw", json!({})).forwarded();
    gate.share = None;
    let (count, (status, body)) = admitted(&mut gate);
    assert_eq!((count, status), (4, 429), "{body}");
    // It continues with its half, even long after its share has expired.
    gate.now_ms += 600_000;
    let (count, (status, body)) = admitted(&mut gate);
    assert_eq!((count, status), (5, 429), "{body}");
    assert!(body.to_string().contains("share of 5"), "{body}");
}

#[test]
fn without_the_ledger_a_limit_that_allows_gives_all_permits_here() {
    let mut gate = on_ledger_outage(10, "allow");
    gate.fleet = Fleet { envoys: 2, confirmed: Monotonic(gate.now_ms), is_unavailable: false };
    assert_eq!(admitted(&mut gate).0, 10);
}

#[test]
fn what_other_envoys_have_not_used_is_still_there_for_the_caller() {
    let mut gate = global(20);
    gate.elsewhere = 12;
    gate.share = Some(8);
    let set = |decided: Decided| {
        let (mut exchange, _) = decided.forwarded();
        let plan = exchange.response_headers(200, &[], true, gate_now());
        plan.set.iter().find(|(name, _)| *name == "x-ratelimit-remaining").map(|(_, value)| value.to_owned())
    };
    for left in [19, 18, 17] {
        assert_eq!(set(gate.call("draw", json!({}))), Some(left.to_string()));
    }
}

fn gate_now() -> Now {
    Gate::new().now()
}

#[test]
fn a_key_that_can_not_be_looked_up_is_refused_unless_the_policy_says_what_it_may_do() {
    let unknown = |setting: Value, away_ms: u64| {
        let mut document = document();
        document["settings"] = setting;
        let mut gate = Gate::with(document, record());
        gate.key = None;
        gate.not_found = KeyNotFound::Unavailable;
        gate.fleet = Fleet { envoys: 1, confirmed: Monotonic(gate.now_ms - away_ms), is_unavailable: false };
        gate
    };
    let allow = || json!({"unknown_keys_on_ledger_outage": {"tier": "free", "scopes": ["read"]}});
    assert_eq!(unknown(json!({}), 60_000).call("search", json!({})).refusal().0, 503);
    // A gate that looks up too many keys, or a ledger that is slow, is no outage.
    assert_eq!(unknown(allow(), 10_000).call("search", json!({})).refusal().0, 503);
    let mut gate = unknown(allow(), 60_000);
    let (exchange, _) = gate.call("search", json!({})).forwarded();
    let set: Vec<_> = exchange.headers_to_set().map(|(name, value)| (name, value.into_owned())).collect();
    assert!(set.contains(&("x-agentrelay-key-id", "unverified".to_owned())), "{set:?}");
    assert_eq!(gate.call("wipe", json!({})).refusal().0, 403);
}
