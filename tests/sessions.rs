//! A session belongs to the tenant and service that began it: for everybody else it does not exist, whatever they send.

use harness::agent::NewKey;
use harness::clock::eventually;
use harness::http1::Connection;
use harness::python::Server;
use harness::sdks::{Era, Sdk};
use harness::upstream::answer::SESSION;
use harness::{Agent, Gate, Request, Response, mcp, node, policy, run};
use protocol::audit::Outcome;
use rand::Rng;
use serde_json::{Value, json};
use std::process::Command;

const NAME: &str = "mcp-session-id";
const UNKNOWN_SESSION: i64 = 40402;

fn get() -> Request {
    Request::get(mcp::PATH).header("accept", "text/event-stream")
}

/// Every message of a session, as clients send it.
fn sent() -> Vec<(&'static str, Request)> {
    let answer = json!({"jsonrpc": "2.0", "id": 1, "result": {}});
    let batch = json!([mcp::search(), {"jsonrpc": "2.0", "id": "b", "method": "ping"}]);
    vec![
        ("a call", mcp::post(&mcp::search())),
        ("a priced call", mcp::post(&mcp::image("standard"))),
        ("a list", mcp::post(&mcp::list())),
        ("initialize", mcp::post(&mcp::initialize())),
        ("a notification", mcp::post(&mcp::notification("notifications/initialized"))),
        ("an answer", mcp::post(&answer)),
        ("a batch", mcp::post(&batch).header("mcp-protocol-version", "2025-03-26")),
        ("GET", get()),
        ("GET of a stream that broke", get().header("last-event-id", "5")),
        ("DELETE", Request::new("DELETE", mcp::PATH)),
    ]
}

/// Ids as servers make them, and unusual ones that MCP allows.
fn ids() -> Vec<String> {
    let visible: String = ('!'..='~').collect();
    let mut random = rand::rng();
    let mut ids: Vec<String> = [
        "1",
        ".",
        "..",
        "a.b.c",
        "0199f1d2-7c1e-7b8e-9d6e-0e8f6b7f2a11",
        "c2Vzc2lvbg==",
        "eyJhbGciOiJIUzI1NiJ9.e30.c2ln",
        "ends.AAAAAAAAAAAAAAAAAAAAAA",
    ]
    .map(str::to_owned)
    .to_vec();
    ids.extend([visible.clone(), "x".repeat(4000)]);
    ids.extend((0..12).map(|_| {
        let length = random.random_range(1..80);
        (0..length).map(|_| char::from(random.random_range(b'!'..=b'~'))).collect::<String>()
    }));
    ids
}

async fn assert_session_works(agent: &Agent, gate: &Gate, session: &str, id: &str) {
    let answer = agent.send(mcp::post(&mcp::search()).header(NAME, session)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(gate.upstream.the_one(&answer.marker).header(NAME).as_deref(), Some(id));
}

fn assert_session_refused(what: &str, answer: &Response) {
    assert_eq!(answer.status, 404, "{what}: {answer:?}");
    let body = answer.json();
    let first = if body.is_array() { &body[0] } else { &body };
    assert_eq!(first["error"]["code"], UNKNOWN_SESSION, "{what}: {answer:?}");
}

#[test]
fn the_upstream_sees_its_own_id_and_the_client_another() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("enterprise").await;
        for id in ids() {
            let session = agent.session(&id).await;
            assert!(session.len() == id.len() + 23 && session.bytes().all(|byte| byte.is_ascii_graphic()));
            for (what, request) in sent() {
                let answer = agent.send(request.header(NAME, &session)).await;
                assert!((200..300).contains(&answer.status), "{what}: {answer:?}");
                let seen = gate.upstream.the_one(&answer.marker);
                assert_eq!(seen.header(NAME).as_deref(), Some(id.as_str()), "{what}");
            }
        }
        gate.assert_healthy().await;
    });
}

#[test]
fn every_answer_has_the_clients_session_id() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("enterprise").await;
        let session = agent.session("s.1").await;
        for (what, request) in sent() {
            for words in ["", "sse", "status=500", "status=404", "chunked", "gzip status=400"] {
                let request = request.clone().header(NAME, &session).header(SESSION, "s.1");
                // A second id does not give access.
                let request = request.header(SESSION, "s.2").upstream(words);
                let answer = agent.send(request).await;
                // An unreadable answer is replaced by the gate's own.
                if answer.header(NAME).is_some() || answer.status != 502 {
                    assert_eq!(answer.header(NAME), Some(session.as_str()), "{what}, {words}: {answer:?}");
                }
            }
        }
        // No client could send these back, so no client gets them.
        for id in [b"".as_slice(), b"a b", b"\xc3\xa9", b"a\tb", b"\xff\xfe"] {
            let answer = agent.send(mcp::post(&mcp::initialize()).header(SESSION, id)).await;
            assert_eq!((answer.status, answer.header(NAME)), (200, None), "{answer:?}");
        }
        // An HTTP service may use the header as it likes.
        let request =
            Request::get("/api/v1/mcp/projects/1/builds").header(NAME, "s.1").header(SESSION, "s.2");
        let answer = agent.send(request).await;
        assert_eq!(answer.header(NAME), Some("s.2"), "{answer:?}");
        assert_eq!(gate.upstream.the_one(&answer.marker).header(NAME).as_deref(), Some("s.1"));
        gate.assert_healthy().await;
    });
}

#[test]
fn another_tenants_session_is_refused_and_continues_for_its_owner() {
    run(async {
        let gate = Gate::shared().await;
        let (owner, other) = (gate.agent("enterprise").await, gate.agent("enterprise").await);
        let colleague = gate.key(&owner.tenant, NewKey::default()).await;
        let session = owner.session("s.1").await;
        for (what, request) in sent() {
            let answer = other.send(request.header(NAME, &session)).await;
            assert_session_refused(what, &answer);
            gate.assert_unseen(&answer.marker);
            assert!(answer.header("ratelimit").is_some(), "{what}: {answer:?}");
            for own in [&owner, &colleague] {
                assert_session_works(own, gate, &session, "s.1").await;
            }
        }
        let answer = other.send(mcp::post(&mcp::search()).header(NAME, &session)).await;
        assert_eq!(answer.json()["id"], 1, "{answer:?}");
        // Nothing was charged, everything was counted, and the trail contains no valid session id.
        let refused = sent().len() + 2;
        let decisions = gate.decisions(&other, Outcome::InvalidRequest, refused).await;
        assert!(decisions.iter().all(|decision| decision["status"] == 404), "{decisions:?}");
        assert_eq!(gate.settled(&other).await.posted.get(), 0);
        for agent in [&owner, &other] {
            let trail = format!("{:?}", gate.audit(agent).await);
            assert!(!trail.contains(&session) && !trail.contains(&session[4..]), "{trail}");
        }
        assert!(!gate.envoy_log().contains(&session[4..]) && !gate.ledger_log().contains(&session[4..]));
    });
}

#[test]
fn requests_refused_for_their_session_use_the_keys_window() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("pro", 0, NewKey::default().limit(2, 600)).await;
        let request = || mcp::post(&mcp::search()).header(NAME, "s");
        let statuses = [
            agent.send(request()).await.status,
            agent.send(request()).await.status,
            agent.send(request()).await.status,
        ];
        assert_eq!(statuses, [404, 404, 429]);
    });
}

#[test]
fn another_service_of_the_tenant_does_not_know_the_session() {
    run(async {
        let two = |policy: &mut serde_yaml_ng::Value| {
            let mut other = policy["services"]["studio"].clone();
            other["path"] = policy::yaml("/other");
            policy["services"]["other"] = other;
        };
        let gate = Gate::options().policy(two).start().await;
        let agent = gate.agent("enterprise").await;
        let session = agent.session("s.1").await;
        for (what, request) in sent() {
            let answer = agent.send(request.target("/other").header(NAME, &session)).await;
            assert_session_refused(what, &answer);
            gate.assert_unseen(&answer.marker);
        }
        assert_session_works(&agent, &gate, &session, "s.1").await;
    });
}

#[test]
fn no_altered_id_is_accepted_as_a_session() {
    run(async {
        let gate = Gate::options()
            .policy(|policy| policy::limit_tier(policy, "enterprise", 100_000, "60s"))
            .start()
            .await;
        let agent = gate.agent("enterprise").await;
        let session = agent.session("Abc.9-z").await;
        let mut altered: Vec<Vec<u8>> = Vec::new();
        for place in 0..session.len() {
            for bit in [1, 2, 32] {
                let mut bytes = session.clone().into_bytes();
                bytes[place] ^= bit;
                altered.push(bytes);
            }
            altered.push(session.as_bytes()[..place].to_vec());
            altered.push(session.as_bytes()[place + 1..].to_vec());
            altered.push([&session[..place], "A", &session[place..]].concat().into_bytes());
        }
        let (id, mark) = session.rsplit_once('.').unwrap();
        for separator in ["", ":", "..", "-", "_", "%2e", ";", ","] {
            altered.push(format!("{id}{separator}{mark}").into_bytes());
        }
        for text in [
            session.to_ascii_uppercase(),
            session.to_ascii_lowercase(),
            format!("{session}="),
            format!("{session}=="),
            format!("\"{session}\""),
            format!("{session}, {session}"),
            format!("{session},"),
            format!(";{session}"),
            mark.to_owned(),
            id.to_owned(),
            format!(".{mark}"),
            format!("{id}."),
            "\u{e9}".to_owned(),
            session.repeat(2),
        ] {
            altered.push(text.into_bytes());
        }
        // Blanks around a header's value are not part of it, and a client may send no control characters.
        altered.retain(|bytes| {
            bytes.trim_ascii() == bytes
                && bytes != session.as_bytes()
                && !bytes.iter().any(u8::is_ascii_control)
        });
        assert!(altered.len() > 150, "{}", altered.len());
        for bytes in altered {
            let shown = String::from_utf8_lossy(&bytes).into_owned();
            let answer = agent.send(mcp::post(&mcp::search()).header(NAME, &bytes)).await;
            assert_session_refused(&shown, &answer);
            gate.assert_unseen(&answer.marker);
        }
        assert_session_works(&agent, &gate, &session, "Abc.9-z").await;
        gate.assert_healthy().await;
    });
}

#[test]
fn a_session_header_given_twice_or_in_another_spelling_is_refused() {
    run(async {
        let gate = Gate::shared().await;
        let (owner, other) = (gate.agent("enterprise").await, gate.agent("enterprise").await);
        let (session, own) = (owner.session("s.1").await, other.session("s.2").await);
        for name in [
            NAME,
            "mcp_session_id",
            "mcp.session.id",
            "Mcp-Session_Id",
            "MCP!SESSION!ID",
            "mcp-session.id",
            "mcp~session~id",
        ] {
            for value in ["s.1", session.as_str(), own.as_str()] {
                for (what, request) in sent() {
                    let request = request.header(NAME, &own).header(name, value);
                    let answer = other.send(request).await;
                    assert_eq!(answer.status, 400, "{what}, {name}: {value}: {answer:?}");
                    gate.assert_unseen(&answer.marker);
                }
                if name != NAME {
                    let answer = other.send(mcp::post(&mcp::search()).header(name, value)).await;
                    assert_eq!(answer.status, 400, "{name}: {value}: {answer:?}");
                    gate.assert_unseen(&answer.marker);
                }
            }
        }
        // Some servers read trailers as headers.
        for name in [NAME, "mcp.session.id"] {
            let body = mcp::search().to_string();
            let request = mcp::post(&mcp::search()).chunks([body.as_bytes()]).trailer(name, b"s.1");
            let answer = other.send(request).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let seen = gate.upstream.the_one(&answer.marker);
            assert!(seen.trailers.is_empty() && seen.header(NAME).is_none(), "{seen:?}");
        }
    });
}

#[test]
fn session_ids_are_ignored_in_versions_without_sessions() {
    run(async {
        let gate = Gate::shared().await;
        let (owner, other) = (gate.agent("enterprise").await, gate.agent("enterprise").await);
        let session = owner.session("s.1").await;
        for (agent, value, expected) in [
            (&other, session.as_str(), None),
            (&other, "s.1", None),
            (&other, "", None),
            (&owner, session.as_str(), Some("s.1")),
        ] {
            let answer = agent.send(mcp::modern(mcp::search()).header(NAME, value)).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(gate.upstream.the_one(&answer.marker).header(NAME).as_deref(), expected);
            // The version that a client claims does not give access.
            let resumed = get()
                .header("mcp-protocol-version", mcp::MODERN)
                .header("last-event-id", "5")
                .header(NAME, value);
            let answer = agent.send(resumed).await;
            assert_eq!(answer.status, if expected.is_some() { 200 } else { 400 }, "{answer:?}");
        }
    });
}

#[test]
fn a_stream_without_a_session_can_not_be_resumed() {
    run(async {
        let server = node::server("stateless_events", &[]).await;
        let gate = Gate::options().upstream(&server.url).start().await;
        let (owner, other) = (gate.agent("pro").await, gate.agent("pro").await);
        let call = mcp::post(&mcp::search()).header("mcp-protocol-version", "2025-11-25");
        let answer = owner.send(call).await;
        let events = answer.text();
        assert!(events.contains("3 results for lighthouses"), "{answer:?}");
        let event =
            events.lines().find_map(|line| line.strip_prefix("id: ")).expect("an event's id").to_owned();
        // The server sends it to any client that names the event.
        let upstream = server.url.trim_start_matches("http://").parse().unwrap();
        let mut leak = Connection::open(upstream).await;
        let resumed = || get().header("mcp-protocol-version", "2025-11-25").header("last-event-id", &event);
        leak.write(&resumed().head()).await.unwrap();
        leak.read_until(b"3 results for lighthouses").await.unwrap();
        for (request, status) in [
            (resumed(), 400),
            (resumed().header(NAME, ""), 404),
            (resumed().header(NAME, "s"), 404),
            (resumed().without("last-event-id").header("last.event.id", &event), 400),
            (resumed().header("last-event-id", &event), 400),
        ] {
            let answer = other.send(request).await;
            assert_eq!(answer.status, status, "{answer:?}");
            assert!(!answer.text().contains("lighthouses"));
        }
    });
}

#[test]
fn every_client_keeps_its_session() {
    run(async {
        let server = Server::start(&["--sessions"]).await;
        let gate = Gate::options().upstream(&server.url).start().await;
        let url = format!("http://{}/mcp", gate.address);
        let search = json!(["call", "search", {"query": "lighthouses"}]);
        for sdk in Sdk::ALL {
            let agent = gate.agent("enterprise").await;
            let steps = [json!(["list"]), search.clone(), search.clone()];
            let answers = sdk.steps(&url, &agent.secret, Era::Legacy, &steps).await;
            for answer in &answers[1..] {
                assert_eq!(answer["content"][0]["text"], "3 results for lighthouses", "{sdk:?}: {answers:?}");
            }
            // All of it was one session, except for the client that connects again for each step.
            let sessions = if sdk == Sdk::Inspector { 3 } else { 1 };
            // Each worker reports separately, so a search may be recorded before the call that began its session.
            let began = eventually("all of it is in the audit trail", async || {
                let rows = gate.audit(&agent).await;
                let of = |tool: &str| rows.iter().filter(|row| row.detail["tool"] == tool).count();
                let began = of("initialize");
                if of("search") == 2 && began >= sessions { Ok(began) } else { Err(format!("{rows:?}")) }
            })
            .await;
            assert_eq!(began, sessions, "{sdk:?}");
        }
    });
}

#[test]
fn a_session_survives_restarts_and_rotation_and_ends_with_its_secret() {
    run(async {
        let mut gate = Gate::options().start().await;
        let agent = gate.agent("enterprise").await;
        let first = agent.session("s.1").await;
        let at = |gate| Agent { gate, ..agent.clone() };
        let second = at(gate.another_envoy().await);
        assert_session_works(&second, &gate, &first, "s.1").await;
        assert_eq!(second.session("s.1").await, first, "all Envoys sign by one secret");

        // A week later the ledger has created the next secret, which does not sign yet.
        gate.kill_ledger();
        age(&gate, "signs_from = signs_from - 7 * 86400000");
        gate.restart_ledger().await;
        let third = at(gate.another_envoy().await);
        assert_session_works(&third, &gate, &first, "s.1").await;
        assert_eq!(third.session("s.1").await, first);
        // An Envoy whose time has come signs with it, and the others verify it.
        gate.kill_ledger();
        age(&gate, "signs_from = signs_from - 7200000");
        gate.restart_ledger().await;
        let fourth = at(gate.another_envoy().await);
        let next = fourth.session("s.1").await;
        assert_ne!(next, first);
        for envoy in [&agent, &second, &third, &fourth] {
            for session in [&first, &next] {
                eventually("it has heard of the secret", async || {
                    let answer = envoy.send(mcp::post(&mcp::search()).header(NAME, session)).await;
                    if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
                })
                .await;
                assert_session_works(envoy, &gate, session, "s.1").await;
            }
        }
        // When its secret expires the first session ends everywhere, and the next one does not.
        gate.kill_ledger();
        age(&gate, "signs_from = signs_from - 8 * 86400000");
        gate.restart_ledger().await;
        for envoy in [&agent, &second, &third, &fourth] {
            let mut gone_in_a_row = 0;
            eventually("the session is gone on all workers", async || {
                let answer = envoy.send(mcp::post(&mcp::search()).header(NAME, &first)).await;
                gone_in_a_row = if answer.status == 404 { gone_in_a_row + 1 } else { 0 };
                if gone_in_a_row >= 12 { Ok(()) } else { Err(format!("{answer:?}")) }
            })
            .await;
            assert_session_works(envoy, &gate, &next, "s.1").await;
        }
        // They are in the ledger's rows, and in what a filter gets, and nowhere else.
        let mut places = gate.ledger_log() + &gate.envoy_log();
        for path in ["/v1/policy", "/v1/audit?limit=1000", "/v1/audit/export", "/metrics"] {
            let request = Request::get(path).key(&gate.credentials().admin_key);
            places += &request.send(gate.ledger_address).await.text();
        }
        for path in ["/config_dump", "/stats"] {
            places += &Request::get(path).send(gate.envoy.admin).await.text();
        }
        let secrets = secrets(&gate);
        assert!(secrets.len() >= 2 && secrets.iter().all(|secret| !places.contains(&secret[8..40])));
        gate.assert_healthy().await;
    });
}

/// Moves the ledger's rows into the past.
fn age(gate: &Gate, change: &str) {
    sqlite(gate, &format!("UPDATE session_secrets SET {change}"));
}

/// In hexadecimal, as they travel.
fn secrets(gate: &Gate) -> Vec<String> {
    let rows: Value =
        serde_json::from_slice(&sqlite(gate, "SELECT lower(hex(secret)) FROM session_secrets")).unwrap();
    rows.as_array().unwrap().iter().map(|row| row[0].as_str().unwrap().to_owned()).collect()
}

fn sqlite(gate: &Gate, sql: &str) -> Vec<u8> {
    let script = "import json, sqlite3, sys; c = sqlite3.connect(sys.argv[1]); \
                  rows = c.execute(sys.argv[2]).fetchall(); c.commit(); print(json.dumps(rows))";
    let file = gate.directory().join("ledger.db");
    let output = Command::new("python3").args(["-c", script]).arg(file).arg(sql).output();
    let output = output.expect("python3 can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
