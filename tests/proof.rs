//! The charging rule, over random exchanges: the credits posted are the prices of the calls that went upstream and were
//! not proven to fail, and no result of a priced call is delivered without payment.
//!
//! The judge knows what an answer contains because it wrote it; it parses nothing.

#[path = "proof/case.rs"]
mod case;
#[path = "proof/twins.rs"]
mod twins;

use ::policy::exchange::{AdmissionAnswered, End, Exchange, Now, ReserveAnswered, Step};
use ::policy::window::{Monotonic, Verdict};
use ::policy::{Key, Policy};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use case::{Case, Ends, Service};
use harness::clock::{eventually, run_within};
use harness::http1::Connection;
use harness::{Agent, Gate, Request, mcp, policy};
use protocol::key::KeyRecord;
use protocol::session::SessionSecret;
use protocol::{EventId, LeaseId, Timestamp};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::time::Duration;

const SEED_VARIABLE: &str = "AGENTRELAY_PROOF_SEED";
const CASES_ALONE: u64 = 60_000;
const SESSIONS_ALONE: u64 = 20_000;
const CASES_EXACT: u64 = 160;
const CASES_LEASED: u64 = 60;

fn seed() -> u64 {
    let seed = std::env::var(SEED_VARIABLE).map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("{SEED_VARIABLE}={seed}");
    seed
}

fn case(seed: u64, number: u64) -> Case {
    Case::draw(&mut StdRng::seed_from_u64(seed.wrapping_add(number)))
}

const DOCUMENT: &str = r#"{
    "tiers": {"free": {"rank": 0, "limits": [{"permits": 20, "window": "60s"}]}},
    "risks": {"read_only": {"scope": "read"}, "local_mutation": {"scope": "read"},
              "external_mutation": {"scope": "read"}, "destructive": {"scope": "read"}},
    "services": {
        "studio": {"kind": "mcp", "path": "/mcp", "tools": {
            "search": {"risk": "read_only"},
            "image_generate": {"risk": "read_only", "price": {"credits": 5}},
            "summarize": {"risk": "read_only", "price": {"credits": 5, "reserve": "leased"}}}},
        "ci": {"kind": "http", "path": "/api", "tools": {"GET /x": {"risk": "read_only", "price": {"credits": 5}}}}}
}"#;
const KEY: &str = r#"{"key_id": "key_1", "tenant_id": "ten_1", "tier": "free", "state": "active", "scopes": ["read"],
    "source": "admin"}"#;

fn policy_and_key() -> (Arc<Policy>, Arc<Key>) {
    let mut policy = Policy::from_json(DOCUMENT.as_bytes()).unwrap();
    policy.session_secrets = vec![SessionSecret::new([7; 32], Timestamp::from_millis(0))];
    let key: KeyRecord = serde_json::from_str(KEY).unwrap();
    (Arc::new(policy), Arc::new(Key::new(key)))
}

#[test]
fn every_call_not_proven_to_fail_is_posted() {
    let seed = seed();
    let (policy, key) = policy_and_key();
    let (mut posted, mut failed) = (0, 0);
    for number in 0..CASES_ALONE {
        let case = case(seed, number);
        let credits = alone(&policy, &key, &case, seed.wrapping_add(number));
        let expected = if case.is_paid() { 5 } else { 0 };
        assert_eq!(credits, expected, "{SEED_VARIABLE}={} {case:#?}", seed.wrapping_add(number));
        assert!(credits > 0 || !case.delivers_a_result(), "{case:#?}");
        if credits > 0 { posted += 1 } else { failed += 1 }
    }
    assert!(posted > CASES_ALONE / 5 && failed > CASES_ALONE / 5, "{posted} posted, {failed} failed");
}

#[test]
fn no_call_is_refunded_for_what_happened_to_another_with_its_id() {
    let seed = seed();
    let (policy, key) = policy_and_key();
    let now = Now { wall: Timestamp::from_millis(1_000_000), monotonic: Monotonic(1_000_000) };
    let session =
        ::policy::session::sign(&policy.session_secrets, now.wall, "ten_1", "studio", b"s").unwrap();
    let begin = |id: &str, is_priced: bool| {
        let tool = if is_priced { "image_generate" } else { "search" };
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{{}}}}}}"#
        );
        let secret = protocol::api_key::mint(protocol::api_key::Kind::Agent, || 7);
        let bearer = format!("Bearer {secret}");
        let headers: [(&[u8], &[u8]); 5] = [
            (b":method", b"POST"),
            (b":path", b"/mcp"),
            (b"authorization", bearer.as_bytes()),
            (b"content-type", b"application/json"),
            (b"mcp-session-id", session.as_bytes()),
        ];
        let event = EventId::parse("0192f0c0-0000-7000-8000-000000000001").unwrap();
        let (mut exchange, _) = Exchange::begin(policy.clone(), event, &headers, false, now);
        exchange.key_found(key.clone(), now);
        let step = exchange.body(body.as_bytes(), now);
        (exchange, step)
    };
    let decide = |exchange: &mut Exchange, mut step: Step| loop {
        step = match step {
            Step::AskWindows { asks, .. } => {
                let open = Verdict { admitted: true, remaining: 1, ..Verdict::default() };
                exchange.windows_asked(&vec![open; asks.len()])
            }
            Step::Reserve(_) => exchange.reserve_answered(ReserveAnswered::Reserved),
            Step::Forward { .. } => return,
            other => panic!("{other:?}"),
        }
    };
    let respond = |exchange: &mut Exchange, events: &str| {
        exchange.response_headers(200, &[(b"content-type", b"text/event-stream")], false, now);
        exchange.watch(events.as_bytes());
    };
    let finish = |exchange: &Exchange, end: End| exchange.finish(end, "e", now).decision.credits.get();
    let (mut refunded, mut doubted) = (0, 0);
    for number in 0..SESSIONS_ALONE {
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(number));
        let session = twins::Session::play(&mut random, begin, decide, finish, respond);
        for call in &session.calls {
            let name = || format!("{SEED_VARIABLE}={} {}", seed.wrapping_add(number), call.id);
            match (call.is_priced, call.has_failed) {
                (false, _) => assert_eq!(call.posted, Some(0), "{}", name()),
                (true, Some(true)) if call.got_own_answer && session.is_alone(call) => {
                    assert_eq!(call.posted, Some(0), "{}", name());
                    refunded += 1;
                }
                (true, Some(true)) => doubted += u64::from(call.posted == Some(5)),
                (true, _) => assert_eq!(call.posted, Some(5), "{}", name()),
            }
        }
    }
    assert!(refunded > 1000 && doubted > 1000, "{refunded} refunded, {doubted} doubted");
}

/// What the decision core alone charges and refunds.
fn alone(policy: &Arc<Policy>, key: &Arc<Key>, case: &Case, seed: u64) -> u64 {
    let mut random = StdRng::seed_from_u64(seed);
    let secret = protocol::api_key::mint(protocol::api_key::Kind::Agent, || 7);
    let bearer = format!("Bearer {secret}");
    let (method, path) = if case.service == Service::Http { ("GET", "/api/x") } else { ("POST", "/mcp") };
    let mut headers: Vec<(&[u8], &[u8])> = vec![
        (b":method", method.as_bytes()),
        (b":path", path.as_bytes()),
        (b"authorization", bearer.as_bytes()),
        (b"content-type", b"application/json"),
    ];
    let session = ::policy::session::sign(
        &policy.session_secrets,
        Timestamp::from_millis(1_000_000),
        "ten_1",
        "studio",
        b"s",
    )
    .unwrap();
    if case.has_session {
        headers.push((b"mcp-session-id", session.as_bytes()));
    }
    let now = Now { wall: Timestamp::from_millis(1_000_000), monotonic: Monotonic(1_000_000) };
    let id = EventId::parse("0192f0c0-0000-7000-8000-000000000001").unwrap();
    let (mut exchange, mut step) =
        Exchange::begin(policy.clone(), id, &headers, case.service == Service::Http, now);
    loop {
        step = match step {
            Step::FindKey(_) => exchange.key_found(key.clone(), now),
            Step::ReadBody { .. } => exchange.body(case.request().as_bytes(), now),
            Step::Admit(_) => exchange.admission_answered(AdmissionAnswered::Admitted),
            Step::AskWindows { asks, .. } => {
                let open = Verdict { admitted: true, remaining: 1, ..Verdict::default() };
                exchange.windows_asked(&vec![open; asks.len()])
            }
            Step::Spend(_) => exchange.spent(Some(LeaseId::from_bits(9))),
            Step::Reserve(_) => exchange.reserve_answered(ReserveAnswered::Reserved),
            Step::Forward { .. } => break,
            other => panic!("{other:?}"),
        };
    }
    let mut end = End::ClientDisconnected;
    if case.ends != Ends::ClientLeavesAtOnce {
        let headers: Vec<(&[u8], &[u8])> =
            case.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        let mut body = case.sent();
        exchange.response_headers(case.status, &headers, body.is_empty() && case.ends == Ends::Whole, now);
        while !body.is_empty() {
            let (chunk, rest) = body.split_at(random.random_range(1..=body.len()));
            exchange.body_arrived();
            exchange.watch(chunk);
            body = rest;
        }
        end = match case.ends {
            Ends::Whole => End::Complete,
            Ends::UpstreamCloses => End::UpstreamFailed,
            _ => End::ClientDisconnected,
        };
    }
    let finished = exchange.finish_all(end, "e", now).remove(0);
    let credits = finished.decision.credits.get();
    let back = finished.refund.map_or(0, |refund| refund.credits.get());
    match case.service {
        Service::Leased => assert_eq!((credits + back, finished.settlement), (5, None)),
        _ => match finished.settlement.unwrap().action {
            protocol::filter::Action::Post { credits: posted } => assert_eq!(posted.get(), credits),
            protocol::filter::Action::Void => assert_eq!(credits, 0),
            other => panic!("{other:?}"),
        },
    }
    credits
}

/// Two Envoys on one ledger, with a price of 5 for each of the tools that cases call.
async fn two_envoys() -> Gate {
    let mut gate = Gate::options()
        .policy(|policy| {
            policy::limit_tier(policy, "enterprise", 100_000, "60s");
            let tools = &mut policy["services"]["studio"]["tools"];
            tools["image_generate"]["price"] = policy::yaml("{credits: 5}");
            tools["summarize"]["price"] = policy::yaml("{credits: 5, reserve: leased}");
            let builds = &mut policy["services"]["ci"]["tools"]["GET /projects/{project}/builds"];
            builds["price"] = policy::yaml("{credits: 5}");
        })
        .start()
        .await;
    gate.another_envoy().await;
    gate
}

/// Runs a case through an Envoy, until its client disconnects.
async fn through(agent: &Agent, upstream: &harness::upstream::Upstream, case: &Case) {
    let request = match case.service {
        Service::Http => Request::get("/api/v1/mcp/projects/1/builds"),
        _ => mcp::post_bytes(case.request().as_bytes()),
    };
    let request = match case.has_session {
        // Cases have the same ids, and an id that another case left would be in use.
        true => {
            let session = agent.session(format!("s{:x}", rand::random::<u64>())).await;
            request.header("mcp-session-id", session)
        }
        false => request,
    };
    let raw = STANDARD.encode(case.response());
    let then = match case.ends {
        Ends::Whole => "",
        Ends::UpstreamCloses => "then=close",
        Ends::ClientLeaves | Ends::ClientLeavesAtOnce => "then=hang",
    };
    let words = format!("raw={raw} size={} {then}", case.piece_bytes);
    let words = if case.ends == Ends::ClientLeavesAtOnce { "hang" } else { &words };
    let request = agent.with_key(request.upstream(words));
    let marker = request.marker().to_owned();
    let mut connection = Connection::open(agent.gate).await;
    match case.ends {
        Ends::Whole | Ends::UpstreamCloses => drop(connection.exchange(request).await),
        Ends::ClientLeaves | Ends::ClientLeavesAtOnce => {
            connection.write(&request.head()).await.unwrap();
            if case.service != Service::Http {
                connection.write(case.request().as_bytes()).await.unwrap();
            }
            eventually("the call is upstream", async || match upstream.seen(&marker).len() {
                1 => Ok(()),
                other => Err(format!("{other} calls")),
            })
            .await;
            if case.ends == Ends::ClientLeaves {
                connection.read_body(case.sent().len()).await.unwrap();
            }
        }
    }
}

#[test]
fn two_envoys_charge_every_call_not_proven_to_fail() {
    run_within(Duration::from_secs(900), async {
        let seed = seed();
        let gate = two_envoys().await;
        let envoys = [gate.address, gate.siblings[0].gateway];
        let (mut exact, mut leased) = (Vec::new(), Vec::new());
        for number in 0.. {
            let case = case(seed, number);
            let (cases, most) = match case.service {
                Service::Leased => (&mut leased, CASES_LEASED),
                _ => (&mut exact, CASES_EXACT),
            };
            if (cases.len() as u64) < most {
                cases.push((seed.wrapping_add(number), case));
            } else if exact.len() as u64 == CASES_EXACT && leased.len() as u64 == CASES_LEASED {
                break;
            }
        }
        let judged = async |(number, case): &(u64, Case)| {
            let own = gate.agent("enterprise").await;
            let agent = Agent { gate: envoys[usize::from(number % 2 == 1)], ..own };
            through(&agent, &gate.upstream, case).await;
            let posted = gate.settled(&agent).await.posted.get();
            let expected = if case.is_paid() { 5 } else { 0 };
            assert_eq!(posted, expected, "{SEED_VARIABLE}={number} {case:#?}");
        };
        for cases in exact.as_chunks::<4>().0 {
            let [first, second, third, fourth] = cases;
            tokio::join!(judged(first), judged(second), judged(third), judged(fourth));
        }
        let agent = gate.agent("enterprise").await;
        let agents = envoys.map(|gate| Agent { gate, ..agent.clone() });
        let summarize = mcp::call("summarize", serde_json::json!({"text": "a"}));
        // The first calls reserve exactly, until there is a lease.
        for turn in 0..16 {
            agents[turn % 2].call(&summarize).await.assert_allowed();
        }
        for (turn, (_, case)) in leased.iter().enumerate() {
            through(&agents[turn % 2], &gate.upstream, case).await;
        }
        let paid = leased.iter().filter(|(_, case)| case.is_paid()).count() as u64;
        assert_eq!(gate.settled(&agent).await.posted.get(), 5 * (16 + paid), "{SEED_VARIABLE}={seed}");
        gate.assert_healthy().await;
    });
}
