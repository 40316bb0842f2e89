//! Streams are not buffered: whatever their length, and however slowly their client reads, they use no memory.

use harness::clock::eventually;
use harness::http1::Connection;
use harness::{Gate, Request, mcp, run};
use protocol::audit::Outcome;

#[test]
fn a_long_answer_takes_no_more_memory_than_a_short_one() {
    run(async {
        let gate = Gate::options().workers(1).start().await;
        let agent = gate.agent("enterprise").await;
        let send = async |words: &str| {
            agent.send(mcp::post(&mcp::image("standard")).upstream(words)).await.assert_allowed();
        };
        for form in ["", "sse"] {
            send(&format!("bytes=2000000 {form}")).await;
            let before = peak_bytes(gate.envoy.pid());
            send(&format!("bytes=64000000 {form}")).await;
            let grown = peak_bytes(gate.envoy.pid()) - before;
            assert!(grown < 16_000_000, "{form}: 64 MB of answer took {grown} bytes");
        }
        // All of it was read, or nothing would have been charged.
        assert_eq!(gate.settled(&agent).await.posted.get(), 20);
    });
}

#[test]
fn a_client_that_reads_slowly_or_never_uses_no_memory() {
    const PAUSED: &str = "cluster.upstream.upstream_flow_control_paused_reading_total";
    run(async {
        let gate = Gate::options().workers(1).start().await;
        let agent = gate.agent("enterprise").await;
        agent.send(mcp::post(&mcp::image("standard")).upstream("sse events=1000")).await.assert_allowed();
        agent.send(Request::get(mcp::PATH).upstream("sse events=1000")).await.assert_allowed();
        let before = peak_bytes(gate.envoy.pid());
        let mut connections = Vec::new();
        // A call's answer, which is watched, and a stream that is rewritten, of 40 MB each.
        let call = agent.post(&mcp::image("standard")).upstream("sse events=40000");
        let stream = agent.with_key(Request::get(mcp::PATH).upstream("sse events=40000"));
        for (request, body, reads) in [
            (&call, mcp::image("standard").to_string(), true),
            (&call, mcp::image("standard").to_string(), false),
            (&stream, String::new(), true),
            (&stream, String::new(), false),
        ] {
            let paused = gate.stat(PAUSED).await;
            let mut connection = Connection::open(gate.address).await;
            connection.write(&request.head()).await.unwrap();
            connection.write(body.as_bytes()).await.unwrap();
            if reads {
                connection.read_until(b"notifications/message").await.unwrap();
            }
            eventually("Envoy reads no more from upstream", async || match gate.stat(PAUSED).await {
                now if now > paused => Ok(()),
                now => Err(format!("paused {now} times")),
            })
            .await;
            connections.push(connection);
        }
        // All four hang half read; Envoy's buffers bound what they hold.
        let held = peak_bytes(gate.envoy.pid()) - before;
        assert!(held < 32_000_000, "four answers of 40 MB hold {held} bytes");
        gate.assert_serving(&agent).await;
        drop(connections);
        // Neither call had delivered its result: disconnecting does not make them free.
        gate.decisions(&agent, Outcome::Cancelled, 2).await;
        assert_eq!(gate.settled(&agent).await.posted.get(), 15);
        // A slow reader gets all of it.
        let mut connection = Connection::open(gate.address).await;
        let last = agent.post(&mcp::image("standard")).upstream("sse events=2000");
        connection.write(&last.head()).await.unwrap();
        connection.write(mcp::image("standard").to_string().as_bytes()).await.unwrap();
        connection.read_until(b"structuredContent").await.unwrap();
        drop(connection);
        eventually("the answer that came is charged", async || {
            let posted = gate.balance(&agent).await.posted.get();
            if posted == 20 { Ok(()) } else { Err(format!("{posted} credits posted")) }
        })
        .await;
        gate.assert_healthy().await;
    });
}

/// The peak memory of a process.
fn peak_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
