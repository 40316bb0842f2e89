//! Bodies that are too large, slow, cut off, or end in unusual places.

use super::caller;
use harness::agent::{NewKey, unknown_secret};
use harness::clock::eventually;
use harness::gate::at_once;
use harness::http1::Connection;
use harness::http2::Http2;
use harness::relay::Fault;
use harness::{Gate, Request, Response, mcp, policy, run};
use serde_json::json;
use std::pin::Pin;
use std::time::Duration;

/// A call with a body of exactly so many bytes.
fn padded(bytes: usize) -> Vec<u8> {
    let empty = mcp::call("search", json!({"query": ""})).to_string();
    mcp::call("search", json!({"query": "x".repeat(bytes - empty.len())})).to_string().into_bytes()
}

#[test]
fn a_body_larger_than_what_is_held_is_refused() {
    run(async {
        let gate = Gate::shared().await;
        let agent = caller(gate).await;
        gate.cache_key(&agent).await;
        for bytes in [1_048_577, 1_200_000, 5_000_000] {
            let refused = agent.send(mcp::post_bytes(&padded(bytes))).await;
            refused.assert_refused(413, "invalid_request");
            assert_eq!(refused.rate().limit, 1000);
            gate.assert_unseen(&refused.marker);
            let body = padded(bytes);
            let chunked =
                Request::post("/mcp").header("content-type", "application/json").chunks(body.chunks(9_999));
            let refused = agent.send(chunked).await;
            assert_eq!(refused.status, 413, "{refused:?}");
            refused.rate();
            gate.assert_unseen(&refused.marker);
        }
        let largest = padded(1_000_000);
        let response = agent.send(mcp::post_bytes(&largest)).await;
        response.assert_allowed();
        assert_eq!(gate.upstream.the_one(&response.marker).body, largest);
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn a_large_body_with_an_uncached_key_is_refused_in_the_same_form() {
    run(async {
        let gate = Gate::shared().await;
        for round in 0..3 {
            let agent = caller(gate).await;
            let refused = agent.send(mcp::post_bytes(&padded(2_000_000))).await;
            refused.assert_refused(413, "invalid_request");
            gate.assert_unseen(&refused.marker);
            let unknown = mcp::post_bytes(&padded(2_000_000)).key(&unknown_secret()).send(gate.address).await;
            assert!(matches!(unknown.status, 401 | 413), "round {round}: {unknown:?}");
            unknown.rate();
            assert!(unknown.reason().is_some(), "{unknown:?}");
            gate.assert_unseen(&unknown.marker);
            gate.assert_serving(&agent).await;
        }
    });
}

#[test]
fn a_service_may_accept_smaller_bodies_only() {
    run(async {
        let gate = Gate::options()
            .policy(|policy| policy["services"]["studio"]["body_bytes_max"] = policy::yaml("4096"))
            .start()
            .await;
        let agent = caller(&gate).await;
        agent.send(mcp::post_bytes(&padded(4096))).await.assert_allowed();
        for body in [padded(4097), padded(100_000)] {
            let refused = agent.send(mcp::post_bytes(&body)).await;
            refused.assert_refused(413, "invalid_request");
            assert_eq!(refused.code(), Some(41301), "{refused:?}");
            gate.assert_unseen(&refused.marker);
        }
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn chunked_encoding_does_not_hide_a_call() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("enterprise", 100, NewKey::with_scopes(&["read"])).await;
        let post = |body: &[u8], size: usize| {
            Request::post("/mcp").header("content-type", "application/json").chunks(body.chunks(size))
        };
        let (allowed, denied) = (mcp::search().to_string(), mcp::image("standard").to_string());
        for size in [1, 2, 7, 50, 1000] {
            let response = agent.send(post(allowed.as_bytes(), size)).await;
            response.assert_allowed();
            assert_eq!(gate.upstream.the_one(&response.marker).body, allowed.as_bytes());
            let refused = agent.send(post(denied.as_bytes(), size)).await;
            refused.assert_refused(403, "insufficient_scope");
            gate.assert_unseen(&refused.marker);
        }
        // A chunk that completes one message and begins another.
        let both = format!("{allowed}{denied}");
        let refused = agent.send(post(both.as_bytes(), allowed.len())).await;
        refused.assert_refused(400, "invalid_request");
        gate.assert_unseen(&refused.marker);
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn a_slow_body_is_held_until_it_is_complete() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("enterprise", 100, NewKey::with_scopes(&["read"])).await;
        let slow = |body: &str| {
            let request = Request::post("/mcp").header("content-type", "application/json");
            let third = body.len() / 3;
            let parts = [&body[..third], &body[third..2 * third], &body[2 * third..]];
            request.chunks(parts.map(str::as_bytes)).slowly(Duration::from_millis(150))
        };
        let body = mcp::search().to_string();
        let allowed = agent.with_key(slow(&body));
        let marker = allowed.marker().to_owned();
        let chunk = |part: &str| format!("{:x}\r\n{part}\r\n", part.len());
        let (first, rest) = body.split_at(body.len() / 3);
        let (second, last) = rest.split_at(body.len() / 3);
        let mut connection = Connection::open(gate.address).await;
        connection.write(&allowed.head()).await.unwrap();
        connection.write((chunk(first) + &chunk(second)).as_bytes()).await.unwrap();
        // Until the last part has arrived, nothing is upstream, not even the headers.
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(200) {
            gate.assert_unseen(&marker);
            harness::wait(Duration::from_millis(10)).await;
        }
        connection.write((chunk(last) + "0\r\n\r\n").as_bytes()).await.unwrap();
        connection.response().await.unwrap().assert_allowed();
        gate.upstream.the_one(&marker);
        let client = Http2::open(gate.address).await;
        for denied in
            [slow(&mcp::image("standard").to_string()), slow(&mcp::call("unlisted", json!({})).to_string())]
        {
            let refused = client.send(agent.with_key(denied)).await.unwrap();
            assert!(matches!(refused.status, 403 | 404), "{refused:?}");
            gate.assert_unseen(&refused.marker);
        }
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn a_client_that_disconnects_within_its_body_is_not_forwarded_or_charged() {
    run(async {
        let gate = Gate::shared().await;
        let agent = caller(gate).await;
        let body = mcp::image("standard").to_string();
        for sent in [0, 1, body.len() / 2, body.len() - 1] {
            let request = agent.post(&mcp::image("standard"));
            let marker = request.marker().to_owned();
            let mut connection = Connection::open(gate.address).await;
            connection.write(&request.head()).await.unwrap();
            connection.write(&body.as_bytes()[..sent]).await.unwrap();
            drop(connection);
            gate.assert_serving(&agent).await;
            gate.assert_unseen(&marker);
        }
        assert_eq!(gate.settled(&agent).await.available.get(), 1000);
    });
}

#[test]
fn trailers_do_not_open_the_gate() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("enterprise", 100, NewKey::with_scopes(&["read"])).await;
        let client = Http2::open(gate.address).await;
        let request = |body: &str| {
            // DATA that does not end the stream, then trailers that do: the body callback never sees the end.
            let request = Request::post("/mcp").header("content-type", "application/json");
            agent.with_key(request.chunks([body.as_bytes()]).trailer("x-trailer", b"1"))
        };
        let (allowed, denied) = (mcp::search().to_string(), mcp::image("standard").to_string());
        for round in 0..3 {
            let response = client.send(request(&allowed)).await.unwrap();
            response.assert_allowed();
            assert_eq!(gate.upstream.the_one(&response.marker).body, allowed.as_bytes());
            let refused = client.send(request(&denied)).await.unwrap();
            refused.assert_refused(403, "insufficient_scope");
            gate.assert_unseen(&refused.marker);
            let over_h1 = request(&denied).send(gate.address).await;
            over_h1.assert_refused(403, "insufficient_scope");
            gate.assert_unseen(&over_h1.marker);
            let no_body = client.send(request("")).await.unwrap();
            assert_eq!(no_body.status, 400, "round {round}: {no_body:?}");
            gate.assert_unseen(&no_body.marker);
            let unknown = request(&allowed).without("authorization").key(&unknown_secret());
            let refused = client.send(unknown).await.unwrap();
            refused.assert_refused(401, "auth_denied");
            gate.assert_unseen(&refused.marker);
        }
        // Trailers on a request that was decided on its headers.
        let builds = Request::get("/api/v1/mcp/projects/1/builds")
            .chunks([b"x".as_slice()])
            .trailer("x-trailer", b"1");
        assert_eq!(client.send(agent.with_key(builds)).await.unwrap().status, 200);
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn an_empty_last_frame_changes_nothing() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("enterprise", 100, NewKey::with_scopes(&["read"])).await;
        let client = Http2::open(gate.address).await;
        for (message, status) in [(mcp::search(), 200), (mcp::image("standard"), 403)] {
            let body = message.to_string();
            let request =
                Request::post("/mcp").header("content-type", "application/json").chunks([body.as_bytes()]);
            let response = client.send(agent.with_key(request)).await.unwrap();
            assert_eq!(response.status, status, "{response:?}");
            assert_eq!(gate.upstream.seen(&response.marker).len(), usize::from(status == 200));
        }
        let parallel = (0..40).map(|n| {
            let (client, agent) = (client.clone(), agent.clone());
            let message = if n % 2 == 0 { mcp::search() } else { mcp::image("standard") };
            async move { client.send(agent.post(&message)).await.unwrap() }
        });
        let answers = at_once(parallel).await;
        for (n, answer) in answers.iter().enumerate() {
            assert_eq!(answer.status, if n % 2 == 0 { 200 } else { 403 }, "{answer:?}");
            assert_eq!(gate.upstream.seen(&answer.marker).len(), usize::from(n % 2 == 0));
        }
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn expecting_100_continue_does_not_pass_anything_early() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("enterprise", 100, NewKey::with_scopes(&["read"])).await;
        for (message, status) in [(mcp::search(), 200), (mcp::image("standard"), 403)] {
            let request = agent.post(&message).header("expect", "100-continue");
            let marker = request.marker().to_owned();
            let mut connection = Connection::open(gate.address).await;
            connection.write(&request.head()).await.unwrap();
            // Envoy asks for the body; nothing is decided yet, so nothing is upstream.
            connection.read_until(b"100 Continue").await.unwrap();
            gate.assert_unseen(&marker);
            connection.write(message.to_string().as_bytes()).await.unwrap();
            let response = connection.response().await.unwrap();
            assert_eq!(response.status, status, "{response:?}");
            assert_eq!(gate.upstream.seen(&marker).len(), usize::from(status == 200));
        }
        let refused = gate
            .send(mcp::post(&mcp::search()).header("expect", "100-continue").key(&unknown_secret()))
            .await;
        assert_eq!(refused.status, 401, "{refused:?}");
        gate.assert_unseen(&refused.marker);
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn one_key_cannot_fill_the_gate_with_held_bodies() {
    run(async {
        let gate = Gate::options().start().await;
        let hog = caller(&gate).await;
        let other = caller(&gate).await;
        let body = padded(1_000_000);
        let mut held = Vec::new();
        let mut refused = 0;
        for _ in 0..120 {
            let request = hog.post(&mcp::search()).body(&body);
            let mut connection = Connection::open(gate.address).await;
            connection.write(&request.head()).await.unwrap();
            let _ = connection.write(&body[..body.len() - 1]).await;
            held.push(connection);
        }
        gate.assert_serving(&other).await;
        for connection in &mut held {
            if let Ok(Ok(response)) =
                tokio::time::timeout(Duration::from_millis(20), connection.response()).await
            {
                // On a slow machine others may have been held for too long.
                if response.status != 408 {
                    response.assert_refused(429, "rate_limited");
                    refused += 1;
                }
            }
        }
        assert!(refused > 0, "a key held 120 MB");
        drop(held);
        gate.assert_serving(&hog).await;
    });
}

#[test]
fn nothing_passes_during_a_ledger_call() {
    run(async {
        let gate = Gate::options().relay().shipped_timeout().start().await;
        let agent = caller(&gate).await;
        gate.cache_key(&agent).await;
        let client = Http2::open(gate.address).await;
        // The answer never comes, and later parts of the request must not release it.
        gate.relay().fail("/filter/v1/reserve", Fault::Hang);
        gate.relay().fail("/filter/v1/resolve", Fault::Hang);
        let (priced, free) = (mcp::image("standard").to_string(), mcp::search().to_string());
        for (secret, body) in [(agent.secret.clone(), &priced), (unknown_secret(), &free)] {
            let post = || Request::post("/mcp").header("content-type", "application/json").key(&secret);
            let halves = || [body.as_bytes()[..20].to_vec(), body.as_bytes()[20..].to_vec()];
            let slowly = Duration::from_millis(100);
            let requests = [
                post().body(body.as_bytes()),
                post().chunks([body.as_bytes()]),
                post().chunks(halves().iter().map(Vec::as_slice)).slowly(slowly),
                post().chunks([body.as_bytes()]).trailer("x-trailer", b"1"),
                post().chunks([body.as_bytes()]).slowly(slowly).trailer("x-trailer", b"1"),
                Request::get("/api/v1/mcp/projects/1/builds")
                    .key(&secret)
                    .chunks([])
                    .trailer("x-trailer", b"1"),
            ];
            let sent = requests.into_iter().flat_map(|request| {
                let (client, address) = (client.clone(), gate.address);
                let over_h2 = request.clone().with_new_marker();
                let h1: Pin<Box<dyn Future<Output = Response> + Send>> = Box::pin(request.send(address));
                let h2: Pin<Box<dyn Future<Output = Response> + Send>> =
                    Box::pin(async move { client.send(over_h2).await.unwrap() });
                [h1, h2]
            });
            for (index, refused) in at_once(sent).await.into_iter().enumerate() {
                if secret == agent.secret && index >= 10 {
                    // A cached key and a free call: no ledger call is made.
                    assert_eq!(refused.status, 200, "{refused:?}");
                    continue;
                }
                refused.assert_refused(503, "ledger_unavailable");
                gate.assert_unseen(&refused.marker);
            }
        }
        gate.relay().restore();
        gate.assert_serving(&agent).await;
        eventually("the credits are back", async || {
            let balance = gate.balance(&agent).await;
            if balance.available.get() == 1000 { Ok(()) } else { Err(format!("{balance:?}")) }
        })
        .await;
    });
}
