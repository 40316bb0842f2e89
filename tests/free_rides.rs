//! Ways in which results could be had without payment, with official servers behind the gate: each ends with the
//! credits posted.

use harness::clock::eventually;
use harness::http1::Connection;
use harness::python::Server;
use harness::{Agent, Gate, Request, Response, mcp, node, run};
use protocol::audit::Outcome;

/// Ids that a server may write back differently, as another type, or not at all.
const IDS: [&str; 9] = [
    "7",
    "-0",
    "1000000000000000000000",
    "1234567890123456789012",
    "9007199254740993",
    "\"7\"",
    "\"1e+21\"",
    "\"\\u0061\\ud83d\\ude00\"",
    "\"\"",
];

/// The version in which servers begin a stream with an event from which it can be resumed.
const VERSION: &str = "2025-11-25";
/// The only version that servers of the Python SDK answer.
const HOST: &str = "127.0.0.1:0";

fn image(id: &str, prompt: &str) -> String {
    call(id, "image_generate", &format!(r#"{{"prompt":"{prompt}"}}"#))
}

fn call(id: &str, tool: &str, arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments}}}}}"#
    )
}

/// A session of an MCP server, begun through the gate.
struct Session {
    agent: Agent,
    id: Option<String>,
}

impl Session {
    async fn open(agent: &Agent) -> Session {
        let mut initialize = mcp::initialize();
        initialize["params"]["protocolVersion"] = VERSION.into();
        let opened = agent.send(mcp::post(&initialize).header("host", HOST)).await;
        assert_eq!(opened.status, 200, "{opened:?}");
        let session =
            Session { agent: agent.clone(), id: opened.header("mcp-session-id").map(str::to_owned) };
        let told = session.post(&mcp::notification("notifications/initialized").to_string());
        assert_eq!(agent.send(told).await.status, 202);
        session
    }

    fn post(&self, body: &str) -> Request {
        self.within(mcp::post_bytes(body.as_bytes()))
    }

    fn within(&self, request: Request) -> Request {
        let request = request.header("mcp-protocol-version", VERSION).header("host", HOST);
        self.id.iter().fold(request, |request, id| request.header("mcp-session-id", id))
    }

    async fn send(&self, body: &str) -> Response {
        self.agent.send(self.post(body)).await
    }

    /// Sends a call and keeps the connection open.
    async fn begin(&self, body: &str) -> Connection {
        let mut connection = Connection::open(self.agent.gate).await;
        connection.write(&self.agent.with_key(self.post(body)).head()).await.unwrap();
        connection.write(body.as_bytes()).await.unwrap();
        connection
    }
}

async fn pending(gate: &Gate, agent: &Agent, credits: u64) {
    eventually("it is set aside", async || {
        let balance = gate.balance(agent).await;
        if balance.pending.get() == credits { Ok(()) } else { Err(format!("{balance:?}")) }
    })
    .await;
}

async fn gate_for(server: &Server) -> Gate {
    Gate::options().upstream(&server.url).start().await
}

#[test]
fn results_are_charged_however_a_server_rewrites_the_id() {
    run(async {
        for server in [
            node::server("typescript_server", &[]).await,
            node::server("typescript_server", &["json"]).await,
            node::server("typescript_server", &["stateless"]).await,
            node::server("typescript_server", &["plain"]).await,
            Server::start(&[]).await,
            Server::start(&["--sse", "--sessions"]).await,
        ] {
            let gate = gate_for(&server).await;
            let mut paid = 0;
            for id in IDS {
                let agent = gate.agent("pro").await;
                let session = Session::open(&agent).await;
                let answer = session.send(&image(id, "a lighthouse")).await;
                // Some servers refuse ids that others accept.
                let credits =
                    if answer.status == 200 && answer.text().contains("\"content\"") { 5 } else { 0 };
                assert!(
                    credits == 5 || answer.status >= 400 || answer.text().contains("\"error\""),
                    "{answer:?}"
                );
                assert_eq!(gate.settled(&agent).await.posted.get(), credits, "{id}: {answer:?}");
                paid += credits;
            }
            assert!(paid >= 25, "{paid} credits");
            gate.assert_healthy().await;
        }
    });
}

#[test]
fn a_result_on_another_calls_stream_is_charged() {
    run(async {
        let server = node::server("typescript_server", &[]).await;
        let gate = gate_for(&server).await;
        let agent = gate.agent("pro").await;
        let session = Session::open(&agent).await;
        let mut priced = session.begin(&image("7", "hold")).await;
        pending(&gate, &agent, 5).await;
        let mut free = session.begin(&call("7", "search", r#"{"query":"release"}"#)).await;
        free.read_until(b"\r\n").await.unwrap();
        if !free.so_far().starts_with("HTTP/1.1 200") {
            // A gate may refuse an id that is in progress; that is not a free call either.
            session.send(&call("8", "search", r#"{"query":"release"}"#)).await;
        }
        tokio::select! {
            Ok(()) = free.read_until(b"an image") => {}
            Ok(()) = priced.read_until(b"an image") => {}
            else => panic!("nobody got it: {:?}, {:?}", free.so_far(), priced.so_far()),
        }
        drop((priced, free));
        assert_eq!(gate.settled(&agent).await.posted.get(), 5);
        gate.assert_healthy().await;
    });
}

#[test]
fn a_result_fetched_later_is_charged_once_however_often_it_is_fetched() {
    run(async {
        let server = node::server("typescript_server", &[]).await;
        let mut gate = gate_for(&server).await;
        let other = gate.another_envoy().await;
        let agent = gate.agent("pro").await;
        for round in 1..=3 {
            let session = Session::open(&agent).await;
            let mut priced = session.begin(&image("7", "hold")).await;
            // The server sends an event id at once, from which the rest of the stream can be requested.
            priced.read_until(b"data: ").await.unwrap();
            let event = priced.so_far().lines().find_map(|line| line.strip_prefix("id: ").map(str::to_owned));
            let event = event.unwrap_or_else(|| panic!("{}", priced.so_far()));
            drop(priced);
            gate.decisions(&agent, Outcome::Cancelled, round).await;
            session.send(&call("8", "search", r#"{"query":"release"}"#)).await;
            // From a gate that knows nothing of the call.
            for gate in [other, other] {
                let get = session.within(Request::get(mcp::PATH).header("accept", "text/event-stream"));
                let get = agent.with_key(get.header("last-event-id", &event));
                let mut stream = Connection::open(gate).await;
                stream.write(&get.head()).await.unwrap();
                stream.read_until(b"an image").await.unwrap();
            }
            assert_eq!(gate.settled(&agent).await.posted.get() as usize, 5 * round);
        }
        gate.assert_healthy().await;
    });
}

#[test]
fn events_of_another_session_are_replayed_only_by_a_server_that_shares_them() {
    run(async {
        for (words, is_shared) in [(&[][..], false), (&["shared"], true)] {
            let server = node::server("typescript_server", words).await;
            let gate = gate_for(&server).await;
            let (owner, other) = (gate.agent("pro").await, gate.agent("pro").await);
            let (owned, others) = (Session::open(&owner).await, Session::open(&other).await);
            let answer = owned.send(&image("7", "a lighthouse")).await;
            let event = answer.text().lines().find_map(|line| line.strip_prefix("id: ").map(str::to_owned));
            let event = event.expect("the stream begins with an event's id");
            let get = |session: &Session| {
                let get = session.within(Request::get(mcp::PATH).header("accept", "text/event-stream"));
                session.agent.with_key(get.header("last-event-id", &event))
            };
            let mut resumed = Connection::open(gate.address).await;
            resumed.write(&get(&owned).head()).await.unwrap();
            resumed.read_until(b"an image").await.unwrap();
            let mut foreign = Connection::open(gate.address).await;
            foreign.write(&get(&others).head()).await.unwrap();
            foreign.read_until(b"\r\n\r\n").await.unwrap();
            // What a session may ask is the gate's part; which events are its own only the server knows.
            let is_replayed = tokio::select! {
                Ok(()) = foreign.read_until(b"an image") => true,
                () = harness::clock::wait(std::time::Duration::from_secs(1)) => false,
            };
            assert_eq!(is_replayed, is_shared, "{}", foreign.so_far());
            // A session of another tenant never comes so far.
            let stolen = Session { agent: other.clone(), id: owned.id.clone() };
            assert_eq!(get(&stolen).send(gate.address).await.status, 404);
        }
    });
}

/// Waits until the server works on these calls, by the names that they were given.
async fn working(session: &Session, names: &[&str]) {
    let asked = call("\"asked\"", "search", r#"{"query":"waiting"}"#);
    eventually("the server works on it", async || {
        let text = session.send(&asked).await.text().to_string();
        let is_working =
            |name: &&str| text.contains(&format!(" {name}")) || text.contains(&format!(",{name}"));
        if names.iter().all(is_working) { Ok(()) } else { Err(text) }
    })
    .await;
}

async fn release(session: &Session, name: &str) {
    let released = session.send(&call("8", "search", &format!(r#"{{"query":"release:{name}"}}"#))).await;
    assert_eq!(released.status, 200, "{released:?}");
}

/// What a caller does about the first of the calls with one id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    /// It leaves while the server works on the call.
    Leaves,
    /// It keeps the call open on one worker, and makes the others on another.
    StaysOnItsWorker,
}

/// Begins a priced call whose id is in progress, on a worker that does not see this.
async fn begin_twin(gate: &Gate, session: &Session) -> Connection {
    for _ in 0..100 {
        let mut second = session.begin(&image("7", "wait:second")).await;
        tokio::select! {
            Ok(()) = second.read_until(b"400 Bad Request") => {}
            () = pending(gate, &session.agent, 5) => return second,
        }
    }
    panic!("every connection came to the same worker");
}

/// Three calls with one id: a free one that will fail, a priced one, and a free one that waits. Returns whether the error of
/// the first came on the stream of the second, and the result of the second on the stream of the third.
async fn three_calls_with_one_id(gate: &Gate, session: &Session, first: First) -> (bool, bool) {
    let mut failing = Some(session.begin(&call("7", "search", r#"{"query":"fail:first"}"#)).await);
    working(session, &["first"]).await;
    if first == First::Leaves {
        drop(failing.take());
        gate.decisions(&session.agent, Outcome::Cancelled, 1).await;
    }
    let mut second = begin_twin(gate, session).await;
    working(session, &["first", "second"]).await;
    release(session, "first").await;
    let failed = tokio::select! {
        Ok(()) = second.read_until(b"it failed") => true,
        () = harness::clock::wait(std::time::Duration::from_secs(1)) => false,
    };
    if failed {
        second.response().await.unwrap_or_else(|error| panic!("{error}"));
    }
    let mut third = session.begin(&call("7", "search", r#"{"query":"wait:third"}"#)).await;
    working(session, &["second", "third"]).await;
    release(session, "second").await;
    let delivered = tokio::select! {
        Ok(()) = third.read_until(b"an image") => true,
        () = harness::clock::wait(std::time::Duration::from_secs(1)) => false,
    };
    (failed, delivered)
}

#[test]
fn an_error_that_belongs_to_another_call_with_the_same_id_refunds_nothing() {
    run(async {
        let mut delivered_free = 0;
        for (name, server) in [
            ("TypeScript", node::server("typescript_server", &[]).await),
            ("TypeScript, JSON", node::server("typescript_server", &["json"]).await),
            ("Python", Server::start_program("slow_server", &[]).await),
            ("Python, JSON", Server::start_program("slow_server", &["json"]).await),
        ] {
            let gate = gate_for(&server).await;
            for first in [First::Leaves, First::StaysOnItsWorker] {
                let agent = gate.agent("pro").await;
                let session = Session::open(&agent).await;
                let (failed, delivered) = three_calls_with_one_id(&gate, &session, first).await;
                println!("{name}, {first:?}: failed {failed}, delivered {delivered}");
                delivered_free += usize::from(failed && delivered);
                assert_eq!(gate.settled(&agent).await.posted.get(), 5, "{name}, {first:?}");
                // What fails under an id of its own is refunded, in this session too.
                let mut own = session.begin(&image("20", "fail:own")).await;
                working(&session, &["own"]).await;
                release(&session, "own").await;
                own.read_until(b"it failed").await.unwrap();
                own.response().await.unwrap();
                assert_eq!(gate.settled(&agent).await.posted.get(), 5, "{name}, {first:?}");
            }
            gate.assert_healthy().await;
        }
        assert!(delivered_free >= 2, "the servers do not mix up calls any more");
    });
}
