//! Charges follow what really happened: every call that went upstream is charged unless it was seen to fail, calls in
//! several rounds once, costs as the upstream reports them, and LLM tokens are recorded. `proof` covers all forms of
//! answers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use harness::agent::NewKey;
use harness::clock::{eventually, in_time};
use harness::http1::Connection;
use harness::{Agent, Gate, Request, Response, mcp, policy, run};
use protocol::audit::Outcome;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};

fn image(id: u64) -> Value {
    let mut call = mcp::image("standard");
    call["id"] = json!(id);
    call
}

/// The call of a session whose stream ends without a result.
async fn call_without_result(agent: &Agent, session: Option<&str>, id: u64) {
    let call = within(mcp::post(&image(id)), session).upstream("sse-empty");
    agent.send(call).await.assert_allowed();
}

/// The stream of a session on which the result of a call arrives.
async fn stream_with_result(agent: &Agent, session: Option<&str>, words: &str) -> Response {
    let stream = Request::get(mcp::PATH).header("accept", "text/event-stream").upstream(words);
    let resumed = session.iter().fold(stream, |stream, _| stream.header("last-event-id", "1"));
    agent.send(within(resumed, session)).await
}

fn within(request: Request, session: Option<&str>) -> Request {
    session.iter().fold(request, |request, session| request.header("mcp-session-id", *session))
}

/// Sends a call and keeps the connection open.
async fn begin(agent: &Agent, call: Request, body: &[u8]) -> Connection {
    let call = agent.with_key(call);
    let mut connection = Connection::open(agent.gate).await;
    connection.write(&call.head()).await.unwrap();
    connection.write(body).await.unwrap();
    connection
}

async fn wait_until_upstream(gate: &Gate, marker: &str) {
    eventually("the call is upstream", async || match gate.upstream.seen(marker).len() {
        1 => Ok(()),
        other => Err(format!("{other} calls")),
    })
    .await;
}

async fn pending(gate: &Gate, agent: &Agent, credits: u64) {
    eventually("it is set aside", async || {
        let balance = gate.balance(agent).await;
        if balance.pending.get() == credits { Ok(()) } else { Err(format!("{balance:?}")) }
    })
    .await;
}

#[test]
fn results_on_other_streams_settle_nothing() {
    run(async {
        let mut gate = Gate::options().start().await;
        let other = gate.another_envoy().await;
        let agent = gate.agent("enterprise").await;
        let at_other = Agent { gate: other, ..agent.clone() };
        let own = agent.session(format!("s-{}", agent.key)).await;
        // More ids than a table could remember, and one id again and again; an error on another stream refunds nothing.
        for call in 0..70_u64 {
            let session = Some(own.as_str()).filter(|_| call % 3 != 0);
            let id = if call % 2 == 0 { 7 } else { call };
            let words = if call % 5 == 0 {
                format!("sse result-of={id} is-error")
            } else {
                format!("sse result-of={id}")
            };
            if call % 7 == 0 {
                stream_with_result(&agent, session, &words).await;
            }
            call_without_result(&agent, session, id).await;
            let reader = if call % 2 == 0 { &agent } else { &at_other };
            assert_eq!(stream_with_result(reader, session, &words).await.status, 200);
        }
        assert_eq!(gate.settled(&agent).await.posted.get(), 350);
        gate.assert_healthy().await;
    });
}

#[test]
fn disconnecting_before_the_first_byte_is_charged_exact_and_leased() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        let own = agent.session("s").await;
        for (round, session) in [(1, Some(own.as_str())), (2, None)] {
            let call = within(mcp::post(&image(3)), session).upstream("hang");
            let marker = call.marker().to_owned();
            let connection = begin(&agent, call, image(3).to_string().as_bytes()).await;
            wait_until_upstream(gate, &marker).await;
            drop(connection);
            let decision = gate.decisions(&agent, Outcome::Cancelled, round).await.remove(0);
            assert_eq!(decision["credits"], 5, "{decision}");
            stream_with_result(&agent, session, "sse result-of=3").await;
            assert_eq!(gate.settled(&agent).await.posted.get() as usize, 5 * round);
        }
        let agent = gate.agent("pro").await;
        let own = agent.session("s").await;
        let summarize = mcp::call("summarize", json!({"text": "a long story"}));
        // The first calls reserve exactly, until there is a lease.
        for _ in 0..8 {
            agent.call(&summarize).await.assert_allowed();
        }
        let ways = ["hang", "hang", "sse-empty", "sse-empty", "is-error", "status=503"];
        for (number, words) in ways.into_iter().enumerate() {
            // Each has an id of its own: what fails under an id that was left is charged.
            let mut summarize = summarize.clone();
            summarize["id"] = number.into();
            let call = within(mcp::post(&summarize), Some(&own)).upstream(words);
            let marker = call.marker().to_owned();
            let mut connection = begin(&agent, call, summarize.to_string().as_bytes()).await;
            wait_until_upstream(gate, &marker).await;
            if words != "hang" {
                connection.response().await.unwrap();
            }
        }
        gate.decisions(&agent, Outcome::Cancelled, 2).await;
        stream_with_result(&agent, Some(&own), "sse result-of=1 is-error").await;
        let settled = gate.settled(&agent).await;
        assert_eq!((settled.available.get(), settled.posted.get()), (988, 12));
        gate.assert_healthy().await;
    });
}

#[test]
fn a_call_that_was_never_sent_upstream_is_not_charged() {
    run(async {
        // Connections to it never complete, as with a host that drops packets.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(connection) =
            tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(address)).await
        {
            waiting.push(connection.unwrap());
        }
        // Longer than two calls take on a busy machine: they wait for one connection attempt if one worker has both.
        let edit = |bootstrap: &mut _| {
            let timeout = "static_resources/clusters/upstream/connect_timeout";
            *cli::stack::bootstrap::field(bootstrap, timeout).expect("it is set") = policy::yaml("15s");
        };
        let gate = Gate::options().upstream(format!("http://{address}")).envoy(edit).start().await;
        let agent = gate.agent("pro").await;
        let body = mcp::image("standard").to_string();
        for call in 1..=2 {
            let connection = begin(&agent, mcp::post(&mcp::image("standard")), body.as_bytes()).await;
            pending(&gate, &agent, 5).await;
            drop(connection);
            let decision = gate.decisions(&agent, Outcome::Cancelled, call).await.remove(0);
            assert_eq!(decision["credits"], 0, "{decision}");
            let settled = gate.settled(&agent).await;
            assert_eq!((settled.available.get(), settled.posted.get()), (1000, 0));
        }
        // Waiting clients are told that the upstream is unavailable.
        let refused = agent.call(&mcp::image("standard")).await;
        assert_eq!(refused.status, 503, "{refused:?}");
        assert_eq!(gate.settled(&agent).await.available.get(), 1000);
        // An attempt of the other worker may still be in progress: the next call would join it, and fail with it.
        eventually("no attempt to connect is left", async || {
            match gate.stat("cluster.upstream.upstream_cx_active").await {
                0 => Ok(()),
                other => Err(format!("{other} connections")),
            }
        })
        .await;
        // Once the upstream has the request, disconnecting is charged.
        drop(waiting);
        let (call_came, mut calls) = tokio::sync::mpsc::unbounded_channel();
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let call_came = call_came.clone();
                tokio::spawn(async move {
                    let mut read = Vec::new();
                    if stream.read_buf(&mut read).await.is_ok() && read.starts_with(b"POST") {
                        call_came.send(stream).expect("the test waits for it");
                    }
                });
            }
        });
        let connection = begin(&agent, mcp::post(&mcp::image("standard")), body.as_bytes()).await;
        let _unanswered = in_time("the call is upstream", calls.recv()).await.unwrap();
        drop(connection);
        gate.decisions(&agent, Outcome::Cancelled, 3).await;
        assert_eq!(gate.settled(&agent).await.posted.get(), 5);
        gate.assert_healthy().await;
        serving.abort();
    });
}

#[test]
fn only_an_interruption_by_the_upstream_is_refunded() {
    run(async {
        // Envoy's own limits on streams do not count as upstream failures.
        let gate = Gate::options()
            .policy(|policy| {
                policy["services"]["ci"]["tools"]["GET /projects/{project}/builds"]["price"] =
                    policy::yaml("{credits: 3}");
            })
            .envoy(|bootstrap| {
                let manager = "static_resources/listeners/gate/filter_chains/0/filters/\
                    envoy.filters.network.http_connection_manager/typed_config/stream_idle_timeout";
                *cli::stack::bootstrap::field(bootstrap, manager).expect("it is set") = policy::yaml("1s");
            })
            .start()
            .await;
        let head = |length: usize, kind: &str| {
            format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n")
        };
        let json = |body: &str| head(5000, "application/json") + body;
        let events = |body: &str| head(5000, "text/event-stream") + body;
        let chunked = |body: &str| {
            format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{body}"
            )
        };
        let note = "data: {\"method\":\"notifications/message\"}\n\n";
        for (answer, then, charged) in [
            (json(""), "close", 0),
            (json("{\"id\":1,"), "close", 0),
            (json("{\"id\":1,\"result\":{"), "close", 5),
            (events(""), "close", 0),
            (events(note), "close", 0),
            (events(note), "reset", 0),
            (events(&format!("id: 5\n{note}")), "close", 5),
            (chunked(""), "close", 0),
            (chunked("3\r\n: \n\r\nzz\r\n"), "hang", 0),
            (chunked("3\r\n: \n\r\n"), "hang", 5),
            (events(note), "hang", 5),
            (json(""), "hang", 5),
            (head(5000, "text/plain"), "close", 0),
            (head(5000, "text/plain") + "x", "close", 5),
            (head(5000, "text/plain"), "hang", 5),
        ] {
            let agent = gate.agent("pro").await;
            let words = format!("raw={} then={then}", STANDARD.encode(&answer));
            let call = agent.with_key(mcp::post(&mcp::image("standard")).upstream(&words));
            let _ = call.try_send(agent.gate).await;
            let settled = gate.settled(&agent).await;
            assert_eq!((settled.posted.get(), settled.pending.get()), (charged, 0), "{then}: {answer}");
        }
        for (answer, then, charged) in [
            (head(5000, "text/plain"), "close", 0),
            (head(5000, "text/plain") + "x", "close", 3),
            (head(5000, "text/plain"), "hang", 3),
        ] {
            let agent = gate.agent("pro").await;
            let words = format!("raw={} then={then}", STANDARD.encode(&answer));
            let call = agent.with_key(Request::get("/api/v1/mcp/projects/1/builds").upstream(&words));
            let _ = call.try_send(agent.gate).await;
            assert_eq!(gate.settled(&agent).await.posted.get(), charged, "{then}: {answer}");
        }
        gate.assert_healthy().await;
    });
}

#[test]
fn a_client_that_sends_an_incomplete_request_pays_for_it() {
    run(async {
        const ROUTE: &str = "POST /projects/{project}/trigger";
        let gate = Gate::options()
            .policy(|policy| {
                policy["services"]["ci"]["tools"][ROUTE]["price"] = policy::yaml("{credits: 3}");
            })
            .envoy(|bootstrap| {
                let manager = "static_resources/listeners/gate/filter_chains/0/filters/\
                    envoy.filters.network.http_connection_manager/typed_config/request_timeout";
                *cli::stack::bootstrap::field(bootstrap, manager).expect("it is set") = policy::yaml("2s");
            })
            .start()
            .await;
        // Its handler runs after the headers. Then there is no chunk, a bad end of one, a bad trailer, nothing, or the
        // client disconnects.
        let spoilt =
            ["zz\r\n", "1\r\nxZZ", "fffffffffffffffff\r\n", "0\r\nno trailer\r\n\r\n", "1\r\nx\r\n", ""];
        for rest in spoilt {
            let agent = gate.agent_with("pro", 100, NewKey::with_scopes(&["trigger"])).await;
            let call = Request::post("/api/v1/mcp/projects/1/trigger").chunks([b"x".as_slice()]);
            let call = agent.with_key(call.upstream("hang"));
            let marker = call.marker().to_owned();
            let mut connection = Connection::open(agent.gate).await;
            connection.write(&call.head()).await.unwrap();
            wait_until_upstream(&gate, &marker).await;
            connection.write(rest.as_bytes()).await.unwrap();
            if !rest.is_empty() {
                let answer = connection.response().await.unwrap();
                answer.assert_refused(answer.status, "invalid_request");
                assert!(matches!(answer.status, 400 | 408), "{rest:?}: {answer:?}");
            }
            drop(connection);
            gate.decisions(&agent, Outcome::Cancelled, 1).await;
            assert_eq!(gate.settled(&agent).await.posted.get(), 3, "{rest:?}");
        }
        gate.assert_healthy().await;
    });
}

#[test]
fn a_redirect_to_the_last_slash_is_charged_where_the_call_is_repeated() {
    run(async {
        let gate = Gate::shared().await;
        for (status, location, charged) in
            [(307, "/mcp/", 0), (308, "http://gate.test/mcp/", 0), (307, "/elsewhere/", 5), (302, "/mcp/", 5)]
        {
            let agent = gate.agent("pro").await;
            let answer =
                format!("HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
            let words = format!("raw={}", STANDARD.encode(answer));
            let moved = agent.send(mcp::post(&mcp::image("standard")).upstream(&words)).await;
            assert_eq!(moved.status, status);
            gate.decisions(&agent, Outcome::Allowed, 1).await;
            assert_eq!(gate.settled(&agent).await.posted.get(), charged, "{status} {location}");
        }
    });
}

#[test]
fn a_tool_may_refund_calls_with_an_unknown_result() {
    run(async {
        let refunding = |policy: &mut serde_yaml_ng::Value| {
            policy["services"]["studio"]["tools"]["image_generate"]["on_unknown"] = policy::yaml("refund");
        };
        let gate = Gate::options().policy(refunding).start().await;
        for (words, charged) in [
            ("", 5),
            ("sse", 5),
            ("is-error", 0),
            ("sse-empty", 0),
            ("gzip", 0),
            ("status=202", 0),
            ("status=500", 0),
            ("close-mid-body", 0),
        ] {
            let agent = gate.agent("pro").await;
            let session = agent.session("s").await;
            agent.send(within(mcp::post(&mcp::image("standard")), Some(&session)).upstream(words)).await;
            assert_eq!(gate.settled(&agent).await.posted.get(), charged, "{words}");
        }
        let body = mcp::image("standard").to_string();
        for (words, seen, charged) in [("hang", None, 0), ("sse-open", Some("structuredContent"), 5)] {
            let agent = gate.agent("pro").await;
            let call = mcp::post(&mcp::image("standard")).upstream(words);
            let marker = call.marker().to_owned();
            let mut connection = begin(&agent, call, body.as_bytes()).await;
            wait_until_upstream(&gate, &marker).await;
            if let Some(seen) = seen {
                connection.read_until(seen.as_bytes()).await.unwrap();
            }
            drop(connection);
            assert_eq!(gate.settled(&agent).await.posted.get(), charged, "{words}");
        }
        gate.assert_healthy().await;
    });
}

#[test]
fn a_call_that_becomes_a_task_is_charged_once_and_what_follows_is_not() {
    run(async {
        let gate = Gate::shared().await;
        for (behaviour, modern) in [("task", true), ("legacy-task", false)] {
            // Its end changes nothing: the gate would see it only if the client asked.
            for end in ["", "is-error"] {
                let agent = gate.agent("pro").await;
                let send = async |message: Value, words: &str| {
                    let task = message["params"]["taskId"].as_str().map(str::to_owned);
                    let request = if modern { mcp::modern(message) } else { mcp::post(&message) };
                    let request = match task.filter(|_| modern) {
                        Some(task) => request.header("mcp-name", &task),
                        None => request,
                    };
                    agent.send(request.upstream(words)).await.assert_allowed();
                };
                send(mcp::image("standard"), behaviour).await;
                for method in ["tasks/get", "tasks/get", "tasks/cancel"] {
                    send(mcp::request(method, json!({"taskId": "t1"})), end).await;
                }
                gate.decisions(&agent, Outcome::Allowed, 4).await;
                let settled = gate.settled(&agent).await;
                assert_eq!((settled.available.get(), settled.posted.get()), (995, 5), "{behaviour} {end}");
            }
        }
    });
}

#[test]
fn a_call_in_several_rounds_is_charged_once() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        for round in 0..3 {
            let mut call = mcp::image("standard");
            call["id"] = json!(round);
            if round > 0 {
                call["params"]["inputResponses"] = json!({"name": {"action": "accept"}});
                call["params"]["requestState"] = json!("1");
            }
            let behaviour = if round < 2 { "input-required" } else { "" };
            let answer = agent.send(mcp::modern(call).upstream(behaviour)).await;
            answer.assert_allowed();
            let settled = gate.settled(&agent).await;
            assert_eq!(settled.posted.get(), if round < 2 { 0 } else { 5 }, "{settled:?}");
        }
    });
}

#[test]
fn reported_usage_is_in_the_record() {
    run(async {
        let gate = Gate::shared().await;
        for form in ["usage", "usage sse", "usage chunked"] {
            let agent = gate.agent("pro").await;
            agent.send(mcp::post(&mcp::search()).upstream(form)).await.assert_allowed();
            let decision = gate.decisions(&agent, Outcome::Allowed, 1).await.remove(0);
            assert_eq!(decision["usage_tokens"], json!({"input": 7, "output": 9}), "{form}: {decision}");
        }
        let agent = gate.agent("pro").await;
        agent.send(mcp::post(&mcp::search())).await.assert_allowed();
        let decision = gate.decisions(&agent, Outcome::Allowed, 1).await.remove(0);
        assert_eq!(decision.get("usage_tokens"), None, "{decision}");
    });
}

#[test]
fn usage_of_http_services_is_read_if_the_policy_says_so() {
    run(async {
        let reading = |policy: &mut serde_yaml_ng::Value| {
            policy["services"]["ci"]["usage_tokens"] = policy::yaml("true");
        };
        let reads = Gate::options().policy(reading).start().await;
        let expected = json!({"input": 7, "output": 9});
        for (gate, expected) in [(&reads, Some(&expected)), (Gate::shared().await, None)] {
            for form in ["usage", "usage sse", "usage chunked bytes=300000"] {
                let agent = gate.agent("pro").await;
                let answer = agent.send(Request::get("/api/v1/mcp/projects/1/builds").upstream(form)).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                let decision = gate.decisions(&agent, Outcome::Allowed, 1).await.remove(0);
                assert_eq!(decision.get("usage_tokens"), expected, "{form}: {decision}");
            }
        }
        reads.assert_healthy().await;
    });
}

#[test]
fn only_a_trusted_upstream_sets_the_cost_and_never_above_the_price() {
    run(async {
        let trusting = |policy: &mut serde_yaml_ng::Value| {
            policy["services"]["studio"]["tools"]["summarize"]["price"] =
                policy::yaml("{credits: 20, upstream_cost: true}");
        };
        let gate = Gate::options().policy(trusting).start().await;
        for (tool, words, charged) in [
            ("summarize", "cost=3", 3),
            ("summarize", "cost=3 sse", 3),
            ("summarize", "cost=0", 0),
            ("summarize", "cost=500", 20),
            ("summarize", "", 20),
            ("summarize", "cost=3 is-error", 0),
            ("image_generate", "cost=1", 5),
        ] {
            let agent = gate.agent("pro").await;
            agent.send(mcp::post(&mcp::call(tool, json!({}))).upstream(words)).await;
            let settled = gate.settled(&agent).await;
            assert_eq!(settled.posted.get(), charged, "{tool}: {words}");
        }
    });
}

#[test]
fn a_cost_above_the_price_is_charged_up_to_the_overrun_that_the_policy_allows() {
    run(async {
        let overrunning = |policy: &mut serde_yaml_ng::Value| {
            policy["services"]["studio"]["tools"]["summarize"]["price"] =
                policy::yaml("{credits: 20, upstream_cost: true, overrun_credits_max: 10}");
        };
        let gate = Gate::options().policy(overrunning).start().await;
        for (held, words, charged) in [
            (100, "cost=3", 3),
            (100, "cost=25", 25),
            (100, "cost=25 sse", 25),
            (100, "cost=500", 30),
            (100, "", 20),
            (100, "cost=25 is-error", 0),
            // Only 4 credits are left besides the reservation: they are charged, and no debt is made.
            (24, "cost=30", 24),
        ] {
            let agent = gate.agent_with("pro", held, NewKey::default()).await;
            agent.send(mcp::post(&mcp::call("summarize", json!({}))).upstream(words)).await;
            let settled = gate.settled(&agent).await;
            assert_eq!((settled.posted.get(), settled.pending.get()), (charged, 0), "{held}: {words}");
            assert_eq!(settled.available.get(), held - charged, "{held}: {words}");
        }
    });
}

#[test]
fn the_first_event_is_not_held_back() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("enterprise").await;
        agent.call(&mcp::search()).await.assert_allowed();
        let mut direct = Vec::new();
        let mut through = Vec::new();
        for _ in 0..40 {
            direct.push(first_event(gate.upstream.address, mcp::post(&mcp::search())).await);
            through.push(first_event(gate.address, agent.post(&mcp::search())).await);
        }
        direct.sort_unstable();
        through.sort_unstable();
        // The fastest: the others prove nothing on a busy machine. The stream stays open, so nothing waited for its
        // end.
        let added = through[0].saturating_sub(direct[0]);
        assert!(added < Duration::from_millis(15), "the gate adds {added:?} to {:?}", direct[0]);
    });
}

/// The time until the first event of a stream that stays open.
async fn first_event(address: std::net::SocketAddr, request: Request) -> Duration {
    let request = request.upstream("sse-open");
    let mut connection = Connection::open(address).await;
    let began = Instant::now();
    connection.write(&request.head()).await.unwrap();
    connection.write(mcp::search().to_string().as_bytes()).await.unwrap();
    connection.read_until(b"data: ").await.unwrap();
    began.elapsed()
}
