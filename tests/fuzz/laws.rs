//! What must hold of every input, for the fuzz targets and for the test that replays their corpora.

use policy::mcp::answer::EventReader;
use policy::mcp::list::View;
use policy::mcp::sse::ListFilter;
use policy::mcp::{self, Call};
use policy::reading::Listed;
use serde_json::Value;

/// A server that reads a message with less care sees no call that the gate did not see.
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

/// Whatever the chunks, the same stream goes on, no list in it shows a hidden tool, and the same answers are found.
///
/// The first byte is the size of the chunks, the rest is the stream. Tools whose name begins with `a` are visible.
pub fn a_stream_shows_only_what_is_visible(input: &[u8]) {
    let Some((size, stream)) = input.split_first() else { return };
    let in_chunks = filtered(stream.chunks(usize::from(*size).max(1)));
    let whole = filtered([stream].into_iter());
    // A fault is found by the end at the latest; how much was passed before it depends on the chunks.
    if let (Ok(whole), Ok(in_chunks)) = (&whole, &in_chunks) {
        assert_eq!(whole, in_chunks);
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

/// What passes, and whether it passed to its end.
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

fn answers<'s>(chunks: impl Iterator<Item = &'s [u8]>) -> Vec<String> {
    let mut reader = EventReader::default();
    let mut found = Vec::new();
    chunks.for_each(|chunk| reader.feed(chunk, &mut |answer| found.push(format!("{answer:?}"))));
    found
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
