//! Properties that must hold for every input, for the fuzz targets and for the test that replays their corpora.

use policy::exchange::{AdmissionAnswered, BodyPlan, End, Exchange, Now, ReserveAnswered, Step};
use policy::mcp::answer::{Form, Reader};
use policy::mcp::list::View;
use policy::mcp::sse::ListFilter;
use policy::mcp::{self, Call};
use policy::reading::Listed;
use policy::window::{Monotonic, Verdict};
use policy::{Key, Policy};
use protocol::key::KeyRecord;
use protocol::{EventId, Timestamp};
use serde_json::{Value, json};
use std::sync::{Arc, OnceLock};

/// A server that parses a message less strictly finds no call that the gate did not see.
///
/// The first byte chooses the headers, the rest is the body.
pub fn a_message_has_one_meaning(input: &[u8]) {
    let Some((choice, body)) = input.split_first() else { return };
    let modern: (&[u8], &[u8]) = (b"mcp-protocol-version", b"2026-07-28");
    let headers: &[(&[u8], &[u8])] = match choice % 4 {
        0 => &[],
        1 => &[modern, (b"mcp-method", b"tools/call"), (b"mcp-name", b"search")],
        2 => &[modern, (b"mcp-method", b"tools/list")],
        _ => &[(b"mcp-protocol-version", b"2025-06-18"), (b"content-type", b"application/json")],
    };
    let Ok(message) = mcp::classify(body, headers) else { return };
    // serde_json keeps the last of duplicate names, as most servers do.
    let lenient: Value = serde_json::from_slice(body).expect("what was classified is JSON");
    let named = |name: &str| {
        let object = lenient.as_object().expect("what was classified is an object");
        object.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
    };
    let method = named("method").map(|method| method.as_str().expect("a method is text").to_owned());
    match &message.call {
        Call::Tool { name, arguments } => {
            assert_eq!(method.as_deref(), Some("tools/call"));
            assert_eq!(lenient["params"]["name"], name.as_str());
            for (argument, value) in arguments {
                let seen = &lenient["params"]["arguments"][argument];
                assert_eq!(seen.as_str(), value.as_deref(), "{argument}");
            }
            assert!(!headers.contains(&modern) || (choice % 4 == 1 && name == "search"));
        }
        Call::Response => assert_eq!(method, None),
        Call::ListTools { .. } => assert_eq!(method.as_deref(), Some("tools/list")),
        _ => assert!(!matches!(method.as_deref(), None | Some("tools/call" | "tools/list"))),
    }
    if let Some(id) = message.id {
        assert_eq!(serde_json::from_str::<Value>(&id).ok(), named("id"));
    }
}

/// Whatever a body contains, and however it is batched: no call goes upstream that the key may not make, none is
/// answered twice, and every priced call is reserved.
///
/// The first byte chooses the headers, the rest is the body. The key may call `search`, which is free, and `draw`.
pub fn only_what_is_allowed_goes_upstream(input: &[u8]) {
    let Some((choice, body)) = input.split_first() else { return };
    let version: (&[u8], &[u8]) = (b"mcp-protocol-version", b"2025-03-26");
    let secret = protocol::api_key::mint(protocol::api_key::Kind::Agent, || 7);
    let bearer = format!("Bearer {secret}");
    let mut headers: Vec<(&[u8], &[u8])> =
        vec![(b":method", b"POST"), (b":path", b"/mcp"), (b"authorization", bearer.as_bytes())];
    headers.push((b"content-type", b"application/json"));
    headers.extend(choice.is_multiple_of(2).then_some(version));
    let id = EventId::parse("0192f0c0-0000-7000-8000-000000000001").expect("it is an id");
    let now = Now { wall: Timestamp::from_millis(1_000_000), monotonic: Monotonic(1_000_000) };
    let policy =
        POLICY.get_or_init(|| Arc::new(Policy::from_json(DOCUMENT.as_bytes()).expect("it is a policy")));
    let (mut exchange, _) = Exchange::begin(policy.clone(), id, &headers, false, now);
    let key: KeyRecord = serde_json::from_str(KEY).expect("it is a record");
    exchange.key_found(Arc::new(Key::new(key)), now);
    let mut step = exchange.body(body, now);
    let mut reserved = 0usize;
    let replaced = loop {
        step = match step {
            Step::Admit(_) => exchange.admission_answered(AdmissionAnswered::Admitted),
            Step::AskWindows { asks, .. } => {
                let open = Verdict { admitted: true, remaining: 1, ..Verdict::default() };
                let verdicts = vec![open; asks.len()];
                exchange.windows_asked(&verdicts)
            }
            Step::Reserve(_) => {
                reserved += 1;
                exchange.reserve_answered(ReserveAnswered::Reserved)
            }
            Step::Forward { body } => break body,
            Step::Refuse(reply) => {
                assert!(serde_json::from_slice::<Value>(&reply.body).is_ok(), "a refusal is JSON");
                return;
            }
            other => panic!("{other:?}"),
        };
    };
    let sent = replaced.as_deref().unwrap_or(body);
    let sent: Value = serde_json::from_slice(sent).expect("what goes upstream is JSON");
    let messages = sent.as_array().cloned().unwrap_or_else(|| vec![sent]);
    assert!((1..=32).contains(&messages.len()));
    let mut priced = 0;
    let mut ids = Vec::new();
    for message in &messages {
        let object = message.as_object().expect("each message is an object");
        let named = |name: &str| {
            object.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        // As servers that use only floats compare them.
        ids.extend(named("id").map(|id| id.as_f64().map_or(id.to_string(), |id| (id + 0.0).to_string())));
        if named("method").and_then(Value::as_str) == Some("tools/call") {
            let tool = message["params"]["name"].as_str().expect("a call names its tool");
            assert!(["search", "draw"].contains(&tool), "{tool}");
            priced += usize::from(tool == "draw");
            let arguments = message["params"]["arguments"].as_object();
            let misspelt = |name: &String| name != "q" && name.eq_ignore_ascii_case("q");
            assert!(
                tool != "draw" || !arguments.is_some_and(|given| given.keys().any(misspelt)),
                "{message}"
            );
        }
    }
    assert!(priced <= reserved, "{priced} calls on {reserved} reservations");
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "ids are each one's own");
    // The answers, in any order, are returned completely, and answers to messages that were not sent are dropped.
    let answers: Vec<Value> =
        messages.iter().rev().map(|message| json!({"id": message["id"], "result": {}})).collect();
    let content: (&[u8], &[u8]) = (b"content-type", b"application/json");
    let plan = exchange.response_headers(200, &[content], false, now);
    if plan.body == BodyPlan::Hold && body.trim_ascii_start().starts_with(b"[") {
        let whole =
            exchange.filter_whole(&serde_json::to_vec(&answers).expect("JSON"), now).expect("readable");
        let merged: Value = serde_json::from_slice(&whole.expect("merged")).expect("what goes back is JSON");
        assert!(merged.as_array().is_some_and(|merged| merged.len() <= 32));
    }
    exchange.finish_all(End::Complete, "e", now);
}

static POLICY: OnceLock<Arc<Policy>> = OnceLock::new();
const DOCUMENT: &str = r#"{
    "tiers": {"free": {"rank": 0, "limits": [{"permits": 20, "window": "60s"}]}},
    "risks": {"read_only": {"scope": "read"}, "local_mutation": {"scope": "generate"},
              "external_mutation": {"scope": "generate"}, "destructive": {"scope": "admin"}},
    "services": {"studio": {"kind": "mcp", "path": "/mcp", "tools": {
        "search": {"risk": "read_only"}, "draw": {"risk": "read_only", "price": {"credits": 5,
            "times": {"argument": "q", "values": {"a": 1, "b": 8}, "default": "a"}}},
        "wipe": {"risk": "destructive"}}}}
}"#;
const KEY: &str = r#"{"key_id": "key_1", "tenant_id": "ten_1", "tier": "free", "state": "active", "scopes": ["read"],
    "source": "admin"}"#;

/// Whatever the chunk sizes, the same stream is passed on, no list in it shows a hidden tool, and the same answers are
/// found.
///
/// The first byte is the size of the chunks, the rest is the stream. Tools whose name begins with `a` are visible.
pub fn a_stream_shows_only_what_is_visible(input: &[u8]) {
    let Some((size, stream)) = input.split_first() else { return };
    let in_chunks = filtered(stream.chunks(usize::from(*size).max(1)));
    let whole = filtered([stream].into_iter());
    // An error is found by the end at the latest; how much passed before it depends on the chunks.
    if let (Ok(whole), Ok(in_chunks)) = (&whole, &in_chunks) {
        // A CRLF that is split between two chunks is passed on as LF.
        let lines = |passed: &[u8]| String::from_utf8_lossy(passed).replace("\r\n", "\n");
        assert_eq!(lines(whole), lines(in_chunks));
    }
    assert_eq!(whole.is_ok(), in_chunks.is_ok());
    for passed in [whole, in_chunks] {
        let passed = passed.unwrap_or_else(|passed| passed);
        for event in events(&passed) {
            let message: Value = serde_json::from_slice(&event).unwrap_or_default();
            let messages = message.as_array().cloned().unwrap_or_else(|| vec![message]);
            for (list, name) in [
                ("tools", "name"),
                ("prompts", "name"),
                ("resources", "uri"),
                ("resourceTemplates", "uriTemplate"),
            ] {
                let lists = messages.iter().filter_map(|message| message["result"][list].as_array());
                for item in lists.flatten() {
                    assert!(item[name].as_str().is_some_and(|name| name.starts_with('a')), "{item}");
                }
            }
        }
    }
    assert_eq!(answers([stream].into_iter()), answers(stream.chunks(usize::from(*size).max(1))));
}

/// What is passed on, and whether the stream passed to its end.
fn filtered<'s>(chunks: impl Iterator<Item = &'s [u8]>) -> Result<Vec<u8>, Vec<u8>> {
    let mut filter = ListFilter::default();
    let mut passed = Vec::new();
    for (chunk, end) in chunks.map(|chunk| (chunk, false)).chain([(&[][..], true)]) {
        let sees = |listed: Listed<'_>| Some(listed.name().starts_with('a'));
        match filter.feed(chunk, end, &View::of(&sees)) {
            Ok(more) => passed.extend(more),
            Err(_) => return Err(passed),
        }
    }
    Ok(passed)
}

/// What the gate concludes from the answer to the id 7.
fn answers<'s>(chunks: impl Iterator<Item = &'s [u8]>) -> String {
    let mut reader = Reader::new(Form::Events, Some("7"));
    chunks.for_each(|chunk| reader.feed(chunk));
    format!("{:?} {:?} {:?} {}", reader.verdict(), reader.cost(), reader.usage(), reader.is_resumable())
}

/// The data of each event that a client would dispatch.
fn events(stream: &[u8]) -> Vec<Vec<u8>> {
    let stream = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream);
    let mut text = Vec::with_capacity(stream.len());
    let mut bytes = stream.iter().peekable();
    while let Some(byte) = bytes.next() {
        if *byte == b'\r' {
            bytes.next_if(|next| **next == b'\n');
        }
        text.push(if *byte == b'\r' { b'\n' } else { *byte });
    }
    let mut events = Vec::new();
    let mut data: Vec<&[u8]> = Vec::new();
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    for line in &lines[..lines.len().saturating_sub(1)] {
        if line.is_empty() {
            events.push(std::mem::take(&mut data).join(&b'\n'));
        } else if let Some(value) = line.strip_prefix(b"data:") {
            data.push(value.strip_prefix(b" ").unwrap_or(value));
        } else if *line == b"data" {
            data.push(b"");
        }
    }
    events
}
