//! What refusals teach: each names its cause, a remedy, and when a retry helps, for a person and for a model.

use super::*;
use protocol::reason::PaidFrom;

/// A gate whose policy names whom to ask.
fn gate(tier: &str, scopes: &[&str]) -> Gate {
    let mut document = document();
    document["settings"] =
        json!({"contact": "platform@acme.test", "upgrade_url": "https://acme.test/upgrade"});
    let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    Gate::with(document, KeyRecord { tier: tier.into(), scopes, ..record() })
}

/// A refused request, the words that it must say, and the rule that the audit trail names.
type Case = (&'static str, Box<dyn FnOnce() -> (Gate, Decided)>, &'static [&'static str], &'static str);

fn case(
    what: &'static str,
    refused: impl FnOnce() -> (Gate, Decided) + 'static,
    says: &'static [&'static str],
    rule: &'static str,
) -> Case {
    (what, Box::new(refused), says, rule)
}

fn after(mut gate: Gate, ask: impl FnOnce(&mut Gate) -> Decided) -> (Gate, Decided) {
    let decided = ask(&mut gate);
    (gate, decided)
}

#[test]
fn every_refusal_names_its_cause_a_remedy_and_when() {
    const BOTH: &[&str] = &["read", "generate"];
    const UNTIL: &str = "Until then the same request is refused.";
    const CHANGED: &str = "The same request is refused every time.";
    let cases = vec![
        case(
            "no key",
            || {
                let mut gate = gate("pro", BOTH);
                gate.key = None;
                after(gate, |gate| gate.call("search", json!({})))
            },
            &["unknown, revoked or expired", "ask its owner for a new one", UNTIL],
            "",
        ),
        case(
            "a full window of the tier",
            || {
                let mut gate = gate("free", BOTH);
                (0..3).for_each(|_| drop(gate.method("prompts/list").forwarded()));
                after(gate, |gate| gate.method("prompts/list"))
            },
            &[
                "this key's limit for requests, 3 in 60 s by tier free, is used up",
                "move the tenant to a tier with a higher limit",
                "Retry after 6",
                "Upgrade: https://acme.test/upgrade",
            ],
            "limit",
        ),
        case(
            "a full window of a tool",
            || {
                let mut gate = gate("pro", BOTH);
                gate.call("search", json!({})).forwarded();
                after(gate, |gate| gate.call("search", json!({})))
            },
            &[
                "this key's limit for calls of this tool, 1 in 10 s by tool search, is used up",
                "send fewer",
                "Retry after 1",
            ],
            "limit",
        ),
        case(
            "too much in progress",
            || {
                let mut gate = gate("pro", BOTH);
                gate.admission = AdmissionAnswered::Full { max: 7 };
                after(gate, |gate| gate.call("search", json!({})))
            },
            &["has 7 requests or streams in progress", "wait until one ends", "Retry after 1 s."],
            "concurrency",
        ),
        case(
            "a malformed body",
            || after(gate("pro", BOTH), |gate| gate.request("POST", "/mcp", Some(b"{"))),
            &["JSON", CHANGED],
            "check",
        ),
        case(
            "an unknown value of a price",
            || after(gate("pro", BOTH), |gate| gate.call("draw", json!({"q": "c"}))),
            &["argument `q` must be one of: a, b", CHANGED],
            "check",
        ),
        case(
            "an unknown tool",
            || after(gate("pro", BOTH), |gate| gate.call("nothing", json!({}))),
            &["no rule for this tool", "tools/list shows the tools", CHANGED],
            "check",
        ),
        case(
            "a missing scope",
            || after(gate("pro", &["read"]), |gate| gate.call("draw", json!({}))),
            &["needs the scopes: generate; this key has: read", "for a key with generate", UNTIL],
            "scope",
        ),
        case(
            "a key without any scope",
            || after(gate("pro", &[]), |gate| gate.call("draw", json!({}))),
            &["needs the scopes: generate; this key has: none", UNTIL],
            "scope",
        ),
        case(
            "a tool that is not granted",
            || {
                let tools = Some(vec![Grant { name: "search".into(), expires_at: None }]);
                let mut gate = gate("pro", BOTH);
                gate.key = Some(Arc::new(Key::new(KeyRecord { tools, ..record() })));
                after(gate, |gate| gate.call("draw", json!({})))
            },
            &["not granted tool `draw`", "ask the key's owner to grant it", UNTIL],
            "grant",
        ),
        case(
            "a value that needs a tier",
            || after(gate("free", BOTH), |gate| gate.call("draw", json!({"q": "b"}))),
            &[
                "value `b` of argument `q` needs tier pro or higher; this tenant has tier free",
                "send `q` as one of: a; or move the tenant to tier pro",
                UNTIL,
                "Upgrade: https://acme.test/upgrade",
            ],
            "tier",
        ),
        case(
            "a tier that the policy lost",
            || after(gate("gold", BOTH), |gate| gate.call("draw", json!({}))),
            &["tier gold, which the policy does not know", "ask the operator", UNTIL],
            "unknown_tier",
        ),
        case(
            "too few credits",
            || {
                let mut gate = gate("pro", BOTH);
                let left = Shortfall { available: Credits::new(3).unwrap(), paid_from: PaidFrom::Balance };
                gate.ledger = ReserveAnswered::QuotaExceeded(Some(left));
                after(gate, |gate| gate.call("draw", json!({"q": "b"})))
            },
            &[
                "costs 40 credits and the tenant has 3 credits left",
                "ask the tenant's owner for credits",
                UNTIL,
                "Upgrade: https://acme.test/upgrade",
            ],
            "credits",
        ),
        case(
            "a spent budget",
            || {
                let mut gate = gate("pro", BOTH);
                let left = Shortfall { available: Credits::ZERO, paid_from: PaidFrom::KeyBudget };
                gate.ledger = ReserveAnswered::QuotaExceeded(Some(left));
                after(gate, |gate| gate.call("draw", json!({})))
            },
            &["costs 5 credits and this key's budget for this month has 0 credits left", "next month", UNTIL],
            "credits",
        ),
        case(
            "a ledger that is away",
            || {
                let mut gate = gate("pro", BOTH);
                gate.ledger = ReserveAnswered::Unavailable;
                after(gate, |gate| gate.call("draw", json!({})))
            },
            &["the ledger did not answer", "nothing was charged", "Retry after 5 s."],
            "check",
        ),
    ];
    for (what, refused, says, rule) in cases {
        let (gate, decided) = refused();
        let (_, body) = decided.refusal();
        let text = body["error"]["message"].as_str().unwrap();
        for words in says.iter().chain(&["Contact: platform@acme.test"]) {
            assert!(text.contains(words), "{what} does not say {words:?}: {text}");
        }
        let data = &body["error"]["data"];
        assert_eq!(
            (data["contact"].as_str(), data["upgradeUrl"].as_str()),
            (Some("platform@acme.test"), Some("https://acme.test/upgrade")),
            "{what}"
        );
        assert_eq!(gate.reason.map_or("", |reason| reason.rule()), rule, "{what}");
    }
}

#[test]
fn the_other_values_of_an_argument_are_named_only_where_the_tier_has_them() {
    let mut document = document();
    let requires = json!([{"argument": "q", "value": "b", "tier": "pro"}, {"tier": "pro"}]);
    document["services"]["studio"]["tools"]["draw"]["requires"] = requires;
    let mut gate = Gate::with(document, KeyRecord { tier: "free".into(), ..record() });
    let (_, body) = gate.call("draw", json!({"q": "b"})).refusal();
    let text = body["error"]["message"].as_str().unwrap();
    assert!(text.contains("send another value") && !text.contains("one of"), "{text}");
}
