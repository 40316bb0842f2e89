//! Server-sent events, read and rewritten as they pass, without pausing the stream.
//!
//! Only the data of an event is held, until the blank line that ends the event; all other lines pass as they arrive. A lone
//! CR becomes LF and a BOM is removed, so that clients that support only some line ends see the same lines.

use super::list;

/// The largest event that is held to be filtered, in bytes. Results with an image also come on such streams.
const EVENT_BYTES_MAX: usize = 4 << 20;
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Removes hidden items from every list in a stream of events.
#[derive(Debug, Default)]
pub struct ListFilter {
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// The event from its first line of data on, without comments.
    kept: Vec<u8>,
    /// The event has a type that clients do not read as a message.
    is_other: bool,
    has_begun: bool,
    after_cr: bool,
}

impl ListFilter {
    /// Reads a chunk and returns what may be passed on. `end` means that no more chunks follow.
    pub fn feed(
        &mut self,
        chunk: &[u8],
        end: bool,
        view: &list::View<'_>,
    ) -> Result<Vec<u8>, list::Unreadable> {
        self.feed_with(chunk, end, &mut |message| list::filter(message, view))
    }

    /// Like [`ListFilter::feed`], with each message replaced by what `replace` returns: `None` keeps it, an empty one drops it.
    pub fn feed_with(
        &mut self,
        chunk: &[u8],
        end: bool,
        replace: &mut Replace<'_>,
    ) -> Result<Vec<u8>, list::Unreadable> {
        let mut passed = Vec::with_capacity(chunk.len());
        let mut rest = chunk;
        while !rest.is_empty() {
            if std::mem::take(&mut self.after_cr) {
                // The LF of a CRLF whose CR was the end of the previous line.
                rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            }
            let length = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
            let (text, next) = rest.split_at(length.unwrap_or(rest.len()));
            self.line.extend_from_slice(text);
            if self.line.len().saturating_add(self.kept.len()) > EVENT_BYTES_MAX {
                return Err(list::Unreadable);
            }
            let (line_end, next): (&[u8], _) = match next {
                [b'\r', b'\n', next @ ..] => (b"\r\n", next),
                [b'\r', next @ ..] | [b'\n', next @ ..] => (b"\n", next),
                _ => break,
            };
            self.after_cr = line_end == b"\n" && rest.get(text.len()) == Some(&b'\r');
            self.end_line(line_end, replace, &mut passed)?;
            rest = next;
        }
        if end {
            // Some clients accept a last event without its blank line.
            self.end_line(b"", replace, &mut passed)?;
            let event = std::mem::take(&mut self.kept);
            rewrite(&event, self.is_other, replace, &mut passed)?;
        }
        Ok(passed)
    }

    fn end_line(
        &mut self,
        line_end: &[u8],
        replace: &mut Replace<'_>,
        passed: &mut Vec<u8>,
    ) -> Result<(), list::Unreadable> {
        let line = std::mem::take(&mut self.line);
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        let line = line.strip_prefix(BOM).filter(|_| is_first).unwrap_or(&line);
        if line.is_empty() && !line_end.is_empty() {
            let event = std::mem::take(&mut self.kept);
            rewrite(&event, std::mem::take(&mut self.is_other), replace, passed)?;
        }
        if let Some(name) = line.strip_prefix(b"event:") {
            self.is_other = !matches!(name.trim_ascii(), b"" | b"message");
        }
        let is_held = value_of(line).is_some() || !(self.kept.is_empty() || line.starts_with(b":"));
        let into = if is_held && !line.is_empty() { &mut self.kept } else { passed };
        into.extend_from_slice(line);
        into.extend_from_slice(line_end);
        Ok(())
    }
}

/// Returns what to send instead of a message; `None` keeps the message.
pub type Replace<'r> = dyn FnMut(&[u8]) -> Result<Option<Vec<u8>>, list::Unreadable> + 'r;

/// The lines of an event, without line ends.
fn lines(event: &[u8]) -> impl Iterator<Item = &[u8]> {
    event.split(|byte| *byte == b'\n').flat_map(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        line.split(|byte| *byte == b'\r')
    })
}

/// The value of a `data` line.
fn value_of(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"data")?;
    match rest.strip_prefix(b":") {
        Some(value) => Some(value.strip_prefix(b" ").unwrap_or(value)),
        None if rest.is_empty() => Some(rest),
        None => None,
    }
}

/// Writes an event, except for the blank line that ends it.
fn rewrite(
    event: &[u8],
    is_other: bool,
    replace: &mut Replace<'_>,
    passed: &mut Vec<u8>,
) -> Result<(), list::Unreadable> {
    let data = lines(event).filter_map(value_of).collect::<Vec<_>>().join(&b'\n');
    let replaced = if data.trim_ascii().is_empty() {
        None
    } else {
        // Clients replace invalid UTF-8 by a replacement character and read on, so the filter does the same.
        match replace(String::from_utf8_lossy(&data).as_bytes()) {
            Err(list::Unreadable) if !list::may_contain_list(&data) => None,
            // No client reads it as a message, so it is dropped and the stream goes on.
            Err(list::Unreadable) if is_other => Some(Vec::new()),
            replaced => replaced?,
        }
    };
    let Some(replaced) = replaced else {
        passed.extend_from_slice(event);
        return Ok(());
    };
    for line in lines(event).filter(|line| !line.is_empty() && value_of(line).is_none()) {
        passed.extend_from_slice(line);
        passed.push(b'\n');
    }
    write_data(&replaced, passed);
    Ok(())
}

/// Writes a message as an event. Its type is the default, but some clients read no event without it.
pub fn write(message: &[u8], stream: &mut Vec<u8>) {
    stream.extend_from_slice(b"event: message\n");
    write_data(message, stream);
    stream.push(b'\n');
}

fn write_data(message: &[u8], stream: &mut Vec<u8>) {
    for line in message.split(|byte| *byte == b'\n').filter(|_| !message.is_empty()) {
        stream.extend_from_slice(b"data: ");
        stream.extend_from_slice(line);
        stream.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]
    use super::list::View;
    use super::*;

    const STREAM: &str = "event: message\nid: 7\ndata: {\"method\":\"notifications/progress\"}\n\n: ping\n\nid: 8\r\ndata: {\"result\":\r\ndata: {\"tools\":[{\"name\":\"no\"},{\"name\":\"ok\"}]}}\r\n\r\ndata:\n\n";
    const EXPECTED: &str = "event: message\nid: 7\ndata: {\"method\":\"notifications/progress\"}\n\n: ping\n\nid: 8\ndata: {\"result\":\ndata: {\"tools\":[{\"name\":\"ok\"}]}}\n\ndata:\n\n";

    fn passed_in(stream: &[u8], size: usize) -> Result<String, list::Unreadable> {
        let sees = |listed: crate::reading::Listed<'_>| Some(listed.name().starts_with("ok"));
        let mut filter = ListFilter::default();
        let mut passed = Vec::new();
        for chunk in stream.chunks(size) {
            passed.extend(filter.feed(chunk, false, &View::of(&sees))?);
        }
        passed.extend(filter.feed(b"", true, &View::of(&sees))?);
        Ok(String::from_utf8_lossy(&passed).into_owned())
    }

    #[test]
    fn chunks_of_any_size_give_the_same_stream() {
        for size in 1..STREAM.len() {
            let passed = passed_in(STREAM.as_bytes(), size).unwrap().replace("\r\n", "\n");
            assert_eq!(passed, EXPECTED, "in chunks of {size}");
        }
    }

    #[test]
    fn events_without_a_message_pass_unchanged() {
        for stream in [
            "event: ping\ndata: ping\n\n",
            "event: ping\r\ndata: {not json\r\n\r\n",
            "data: [1]\n\ndata: 1\n\ndata: null\n\ndata: \"tools\"\n\ndata: NaN\n\n",
            "data\n\ndata:\n\n: tools\n\nretry: 5\n\nid\n\nunknown: {\n\n",
            "event: status\ndata: {\"tools\":\"restarting\"}\n\n",
            "data: {\"method\":\"x\",\"method\":\"y\"}\n\n",
            "data: ping\ndata\nid: 4\n: c\n\n\n\n",
            "data: cut off",
            "data: {\"method\":\"x\"}\nid: 5",
        ] {
            for size in 1..=stream.len() {
                let passed = passed_in(stream.as_bytes(), size).unwrap().replace("\r\n", "\n");
                let comments_first = stream.replace("\r\n", "\n").replace("data\nid: 4\n: c\n", "");
                if stream.contains(": c\n") {
                    assert_eq!(passed, ": c\ndata: ping\ndata\nid: 4\n\n\n\n");
                } else {
                    assert_eq!(passed, comments_first, "in chunks of {size}");
                }
            }
        }
    }

    #[test]
    fn lines_pass_at_once_and_data_at_the_end_of_its_event() {
        let sees = |_: crate::reading::Listed<'_>| Some(true);
        let view = View::of(&sees);
        let mut filter = ListFilter::default();
        for (chunk, expected) in [
            ("\u{FEFF}:hb\n", ":hb\n"),
            (":hb\r", ":hb\n"),
            ("\nretry: 1\r", "retry: 1\n"),
            ("data: {\"a\":1}\r", ""),
            (": c\r", ": c\n"),
            ("\r", "data: {\"a\":1}\n\n"),
            ("\n: d\r\n", ": d\r\n"),
            ("dat", ""),
        ] {
            assert_eq!(filter.feed(chunk.as_bytes(), false, &view), Ok(expected.into()), "{chunk:?}");
        }
    }

    #[test]
    fn data_that_may_contain_a_list_is_filtered_in_any_event() {
        const LIST: &str = "{\"result\":{\"tools\":[{\"name\":\"no\"},{\"name\":\"ok\"}]}}";
        for (stream, expected) in [
            (format!("event: other\ndata: {LIST}\n\n"), true),
            (format!("data: [{LIST},{{\"method\":\"x\"}}]\r\r"), true),
            (format!("\u{FEFF}data: {LIST}\n\n"), true),
            (format!("data: {LIST}"), true),
            (
                format!("event: other\ndata: {{\"result\":{{}},{}\n\n: on\n\n", LIST.trim_start_matches('{')),
                false,
            ),
            ("event: log\ndata: {\"result\":{\"too\\u006cs\":[{}]}}\n\n: on\n\n".to_owned(), false),
            ("event: log\ndata: {\"result\":{\"Tool\u{17F}\":[{}]},NaN}\n\n: on\n\n".to_owned(), false),
        ] {
            let passed = passed_in(stream.as_bytes(), 3).unwrap();
            assert!(!passed.contains("\"no\"") && !passed.contains("{}"), "{passed}");
            assert_eq!(passed.contains("\"ok\""), expected, "{passed}");
            assert_eq!(passed.ends_with("\n\n"), stream.ends_with("\n\n") || stream.ends_with('\r'));
        }
        let not_utf8 = b"data: {\"result\":{\"tools\":[{\"name\":\"no\xff\"},{\"name\":\"ok\xff\"}]}}\n\n";
        let passed = passed_in(not_utf8, 5).unwrap();
        assert!(passed.contains("\"ok\u{FFFD}\"") && !passed.contains("\"no"), "{passed}");
    }

    #[test]
    fn what_cannot_be_read_is_not_passed() {
        assert!(passed_in(b"data: {\"result\":{\"tools\"\n\n", 100).is_err());
        assert!(passed_in(b"event: message\ndata: {\"result\":{\"Tools\":[]}}\n\n", 9).is_err());
        assert!(passed_in(&vec![b'x'; EVENT_BYTES_MAX + 1], 1 << 20).is_err());
    }

    proptest::proptest! {
        /// A parser finds the same events with and without the filter, for lines of every kind in any order and any chunks.
        #[test]
        fn a_parser_sees_the_same_through_the_filter(
            kinds in proptest::collection::vec((0usize..LINES.len(), 0usize..3), 0..30),
            size in 1usize..40,
        ) {
            let mut stream = Vec::new();
            for (line, line_end) in kinds {
                stream.extend_from_slice(LINES[line].as_bytes());
                stream.extend_from_slice([&b"\n"[..], b"\r", b"\r\n"][line_end]);
            }
            let direct = events(&String::from_utf8(stream.clone()).unwrap());
            let Ok(passed) = passed_in(&stream, size) else {
                // A list followed by more text: a client that reads only the beginning would accept it as a list.
                let is_of_more = |event: &String| event.contains("tools") && event.contains('\n');
                proptest::prop_assert!(direct.iter().any(is_of_more));
                return Ok(());
            };
            let through = events(&passed);
            let list = LINES[LINES.len() - 1].trim_start_matches("data: ");
            let visible = |event: &String| match event.splitn(3, '|').last().map(str::trim) {
                Some(data) if data == list => Some(event.replace("{\"name\":\"no\"},", "")),
                // As above, but the event is no message: it is withheld, and the stream goes on.
                Some(data) if data.starts_with('{') && data.contains("tools") => None,
                _ => Some(event.clone()),
            };
            let direct: Vec<String> = direct.iter().filter_map(visible).collect();
            proptest::prop_assert_eq!(direct, through);
        }
    }

    const LINES: [&str; 14] = [
        "",
        "",
        "",
        ":",
        ": hb",
        "event: ping",
        "event",
        "event: message",
        "data: ping",
        "data",
        "id: 1",
        "retry: 2",
        "data:  {\"method\":\"x\"}",
        "data: {\"result\":{\"tools\":[{\"name\":\"no\"},{\"name\":\"ok\"}]}}",
    ];

    /// The events that a parser of the standard finds in a stream.
    fn events(stream: &str) -> Vec<String> {
        let (mut found, mut data, mut event, mut id) =
            (Vec::new(), None::<String>, String::new(), String::new());
        for line in stream.replace("\r\n", "\n").replace('\r', "\n").split('\n') {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match (line, name) {
                ("", _) => {
                    let event = std::mem::take(&mut event);
                    found.extend(data.take().map(|data| format!("{event}|{id}|{data}")));
                }
                (_, "data") => {
                    data = Some(data.map_or(value.to_owned(), |data| format!("{data}\n{value}")));
                }
                (_, "event") => value.clone_into(&mut event),
                (_, "id") => value.clone_into(&mut id),
                _ => {}
            }
        }
        found
    }

    #[test]
    fn each_byte_is_copied_a_few_times_whatever_the_chunks() {
        // A filter that reads the whole event again with each chunk would need minutes for this.
        let mut large = b"data: ".to_vec();
        large.resize(1_000_000, b' ');
        large.extend_from_slice(b"\r\n\r\n");
        for (stream, size) in
            [(large.as_slice(), 1), (&large, 7), (&[b'\n'; 1_000_000], 100_000), (&[b'\r'; 1_000_000], 1)]
        {
            let passed = passed_in(stream, size).unwrap();
            assert!(passed.len() >= stream.len() - 2 && passed.len() <= stream.len(), "{}", passed.len());
        }
    }
}
