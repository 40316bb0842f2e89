//! Rewritten streams: clients see through the gate what they see without it, minus what is hidden.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use harness::clock::in_time;
use harness::http1::Connection;
use harness::scripted::{Script, Scripted};
use harness::{Agent, Gate, Request, files, mcp, node, python, run};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::sync::Arc;

/// The stream that the upstream must send, in hexadecimal.
const STREAM: &str = "x-stream";

/// A gate with an upstream that sends the stream that the request contains, in chunks of some size.
async fn gate(script: fn(&[u8], usize) -> Script) -> Gate {
    let upstream = Scripted::start(move |seen| {
        let stream = seen.header(STREAM).expect("the request names its stream");
        let (size, stream) = stream.split_once(' ').expect("a size and a stream");
        script(&STANDARD.decode(stream).expect("base64"), size.parse().expect("a size"))
    })
    .await;
    Gate::options().upstream(&upstream.url).start().await
}

fn asking(request: Request, stream: &[u8], size: usize) -> Request {
    request.header(STREAM, format!("{size} {}", STANDARD.encode(stream)))
}

/// The requests whose answers are rewritten: a GET stream, a list, a batch.
fn rewritten(agent: &Agent) -> [Request; 3] {
    let batch = mcp::post(&json!([mcp::list(), {"jsonrpc": "2.0", "id": 2, "method": "ping"}]));
    [
        agent.with_key(Request::get(mcp::PATH).header("accept", "text/event-stream")),
        agent.post(&mcp::list()),
        agent.with_key(batch.header("mcp-protocol-version", "2025-03-26")),
    ]
}

#[test]
fn a_line_without_data_passes_at_once() {
    run(async {
        let gate = gate(|stream, _| Script::events(stream)).await;
        let agent = gate.agent("enterprise").await;
        for (sent, seen) in [
            (":hb\n", ":hb\n"),
            (":hb\r", ":hb"),
            (":hb\r\n", ":hb"),
            (":\n", ":\n"),
            ("\u{FEFF}: hb\n", ": hb\n"),
            ("retry: 5\n", "retry: 5\n"),
            ("id: 7\r", "id: 7"),
            ("event: ping\n", "event: ping\n"),
            ("event: ping\rdata: ping\r\r", "data: ping"),
            ("data: {\"method\":\"notifications/message\"}\n: between\n", ": between\n"),
            ("unknown\n", "unknown\n"),
        ] {
            for request in rewritten(&agent) {
                let (request, body) = (asking(request.clone(), sent.as_bytes(), 1), request.body_bytes());
                let mut connection = Connection::open(gate.address).await;
                connection.write(&request.head()).await.unwrap();
                connection.write(&body).await.unwrap();
                // Nothing more is sent, so everything that arrives arrived at once.
                let came = connection.read_until(seen.as_bytes()).await;
                assert!(came.is_ok(), "{sent:?} does not pass at once: {came:?}");
            }
        }
        gate.assert_healthy().await;
    });
}

/// Data that servers send, and some that no server should send.
const DATA: [&str; 22] = [
    "",
    "ping",
    "{not json",
    "[]",
    "[1]",
    "null",
    "\"tools\"",
    "1e999",
    "NaN",
    "\u{FEFF}{}",
    "{\"tools\":\"restarting\"}",
    "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"data\":\"\\ud83d\"}}",
    "{\"jsonrpc\":\"2.0\",\"method\":\"x\",\"method\":\"y\"}",
    "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32000,\"message\":\"x\"}}",
    "{\"jsonrpc\":\"2.0\",\"id\":\"s\",\"method\":\"sampling/createMessage\",\"params\":{\"tools\":[{}]}}",
    "{\"result\":\n{\"tools\":\n[{\"name\":\"unlisted\"},\n{\"name\":\"search\"}]}}",
    "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":[{\"name\":\"unlisted\"},{\"name\":\"search\"}]}}",
    "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":[{\"name\":\"search\",\"title\":\"caf\u{e9}\u{2028}\"}]}}",
    "[{\"method\":\"a\"},{\"id\":1,\"result\":{\"tools\":[{\"name\":\"unlisted\"}],\"nextCursor\":\"\"}}]",
    "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"tools\"}]}}",
    "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":1,\"message\":\"\"},\"result\":null}",
    "  {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":[]}} ",
];

/// A stream of events of every kind, with line ends of every kind.
fn stream(random: &mut StdRng) -> Vec<u8> {
    let mut stream = if random.random_bool(0.2) { "\u{FEFF}".to_owned() } else { String::new() };
    let line_ends = *[&["\n"][..], &["\r\n"], &["\r"], &["\n", "\r", "\r\n"]].choose(random).unwrap();
    for _ in 0..random.random_range(1..12) {
        let mut lines: Vec<String> = Vec::new();
        let name = [
            "event: ping",
            "event: message",
            "event:",
            "event",
            "event: other",
            "id: 1",
            "id",
            "retry: 9",
            ": c",
        ];
        lines.extend((0..random.random_range(0..3)).map(|_| (*name.choose(random).unwrap()).to_owned()));
        if random.random_bool(0.8) {
            let field = if random.random_bool(0.5) { "data: " } else { "data:" };
            lines.extend(DATA.choose(random).unwrap().split('\n').map(|line| format!("{field}{line}")));
        }
        if random.random_bool(0.3) {
            lines.push(
                (*[": c", "id: 2", "event: late", "data", "other: x"].choose(random).unwrap()).to_owned(),
            );
        }
        lines.push(String::new());
        for line in lines {
            stream.push_str(&line);
            let line_end = *line_ends.choose(random).unwrap();
            // A CR before it would turn the two line ends into one.
            let is_half = line.is_empty() && stream.ends_with('\r') && line_end == "\n";
            stream.push_str(if is_half { "\r" } else { line_end });
        }
    }
    // Some parsers wait for the byte after the last CR.
    if stream.ends_with('\r') {
        stream.push_str(": end\n");
    }
    // Some clients accept half of an event as an event.
    if random.random_bool(0.3) {
        stream.push_str("data: {\"result\":{\"tools\":[{\"name\":\"unlisted\"},{\"name\":\"search\"}]}}");
    }
    stream.into_bytes()
}

/// The events as a key may see them.
fn shown(events: &Value) -> Vec<Value> {
    fn hide(message: &mut Value) {
        if let Some(tools) = message.pointer_mut("/result/tools").and_then(Value::as_array_mut) {
            tools.retain(|tool| tool["name"] != "unlisted");
        }
    }
    let shown = |event: &Value| match serde_json::from_str::<Value>(event[2].as_str().unwrap()) {
        Ok(mut data) => {
            hide(&mut data);
            data.as_array_mut().into_iter().flatten().for_each(hide);
            json!([event[0], event[1], data])
        }
        Err(_) => event.clone(),
    };
    events.as_array().unwrap().iter().map(shown).collect()
}

#[test]
fn clients_parse_the_same_events_through_the_gate_less_what_is_hidden() {
    run(async {
        let gate = Arc::new(gate(Script::events_to_the_end).await);
        let agent = gate.agent("enterprise").await;
        let seed = rand::rng().random();
        let mut random = StdRng::seed_from_u64(seed);
        let (mut direct, mut through) = (Vec::new(), Vec::new());
        for round in 0..120 {
            let stream = stream(&mut random);
            let size = *[1, 2, 3, 7, 40, 10_000].choose(&mut random).unwrap();
            let [get, list, _] = rewritten(&agent);
            let request = if round % 2 == 0 { get } else { list };
            let answer =
                in_time("the stream", asking(request, &stream, size).send(gate.address)).await.unwrap();
            assert!(
                answer.is_complete,
                "seed {seed}: cut: {:?} {answer:?}",
                String::from_utf8_lossy(&stream)
            );
            // Python's parser does not know the BOM, and ignores its line.
            let known = stream.strip_prefix("\u{FEFF}".as_bytes()).unwrap_or(&stream);
            direct.push(STANDARD.encode(known));
            through.push(STANDARD.encode(&answer.body));
        }
        let file = files::process_directory().join("streams.json");
        let streams: Vec<&String> = direct.iter().chain(&through).collect();
        std::fs::write(&file, json!(streams).to_string()).unwrap();
        let file = file.to_str().unwrap();
        let parsed = [
            ("npm eventsource-parser", node::client("events", "", &[file]).await.stdout),
            ("PyPI httpx2", python::program("clients/events", &[file]).await),
        ];
        for (parser, parsed) in parsed {
            let parsed: Vec<Value> = serde_json::from_slice(&parsed).unwrap();
            assert_eq!(parsed.len(), 2 * direct.len());
            for (index, stream) in direct.iter().enumerate() {
                let stream = String::from_utf8(STANDARD.decode(stream).unwrap()).unwrap();
                let expected = shown(&parsed[index]);
                let seen = &parsed[index + direct.len()];
                assert!(!seen.to_string().contains("unlisted"), "seed {seed}, {parser}: {stream:?}: {seen}");
                assert_eq!(shown(seen), expected, "seed {seed}, {parser}: {stream:?}");
            }
        }
        gate.assert_healthy().await;
    });
}

#[test]
fn a_batch_is_answered_among_events_of_other_kinds() {
    run(async {
        let gate = gate(Script::events_to_the_end).await;
        let agent = gate.agent("enterprise").await;
        let answers =
            "data: [{\"id\":1,\"result\":{\"tools\":[{\"name\":\"unlisted\"},{\"name\":\"search\"}]}}]\r\r";
        let stream = format!(
            "event: ping\rdata: ping\r\r: hb\rdata: {{\"id\":5,\"progress\":1}}\r\r{answers}data: [1]\r\rdata: {{\"id\":2,\"result\":{{}}}}\r\r"
        );
        for size in [1, 5, 1000] {
            let [_, _, batch] = rewritten(&agent);
            let answer = asking(batch, stream.as_bytes(), size).send(gate.address).await;
            assert!(answer.is_complete && answer.status == 200, "{answer:?}");
            let text = answer.text();
            for part in ["event: ping", "data: ping", ": hb", "\"progress\"", "\"search\"", "[1]", "\"id\":2"]
            {
                assert!(text.contains(part), "{part} is missing: {text}");
            }
            assert!(!text.contains("unlisted"), "{text}");
        }
    });
}

#[test]
fn data_that_may_contain_a_list_never_passes_unfiltered_in_any_event() {
    run(async {
        let gate = gate(Script::events_to_the_end).await;
        let agent = gate.agent("enterprise").await;
        const LISTS: [&str; 5] = [
            "{\"result\":{\"tools\":[{\"name\":\"unlisted\"}]}}",
            "{\"result\":{\"Tools\":[{\"name\":\"unlisted\"}]}}",
            "{\"result\":{},\"result\":{\"tools\":[{\"name\":\"unlisted\"}]}}",
            "{\"result\":{\"too\\u006cs\":[{\"name\":\"unlisted\",}]}}",
            "[[{\"result\":{\"tools\":[{\"name\":\"unlisted\"}]}}]]",
        ];
        for list in LISTS {
            for event in ["", "event: message\n", "event: tools\r", "event: other\nevent: message\n"] {
                let stream = format!("{event}data: {list}\n\nevent: after\ndata: after\n\n");
                let [get, ..] = rewritten(&agent);
                let answer = asking(get, stream.as_bytes(), 9).send(gate.address).await;
                assert!(!answer.text().contains("unlisted"), "{stream:?}: {answer:?}");
                if event == "event: tools\r" {
                    assert!(answer.text().contains("data: after"), "{stream:?}: {answer:?}");
                }
            }
        }
    });
}
