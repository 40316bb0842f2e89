//! How a tool call ended, read from the answer's bytes as they pass, in constant memory.
//!
//! An answer can be megabytes long and come in chunks of any size. Nothing is kept of it: a scanner follows the JSON
//! only as deep as `result.isError` and `result.resultType`.

use super::sse;

/// What an answer says about the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A result, and no error in it.
    Success,
    /// A result that is marked `isError`.
    ToolError,
    /// A JSON-RPC error.
    ProtocolError,
    /// The server asks for more input, or made it a task: the call is not over.
    Unfinished,
    /// No answer to the call was seen.
    Nothing,
}

/// The forms in which answers come.
#[derive(Debug)]
pub enum Reader {
    /// One JSON-RPC message.
    Json(Scanner),
    /// A stream of events, each with one message.
    Events(EventReader),
}

impl Reader {
    /// A reader for an answer of this content type, or `None` if it is neither JSON nor events.
    pub fn for_content_type(content_type: &[u8]) -> Option<Reader> {
        let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        if essence.eq_ignore_ascii_case(b"application/json") {
            Some(Reader::Json(Scanner::default()))
        } else if essence.eq_ignore_ascii_case(b"text/event-stream") {
            Some(Reader::Events(EventReader::default()))
        } else {
            None
        }
    }

    /// Takes what arrived.
    pub fn feed(&mut self, chunk: &[u8]) {
        match self {
            Reader::Json(scanner) => scanner.feed(chunk),
            Reader::Events(events) => events.feed(chunk),
        }
    }

    /// What was seen so far. A result that has begun counts: a client that leaves in its middle has had it.
    pub fn verdict(&self) -> Verdict {
        match self {
            Reader::Json(scanner) => scanner.verdict(),
            Reader::Events(events) => match events.found {
                Verdict::Nothing => events.scanner.verdict(),
                found => found,
            },
        }
    }
}

/// Finds the call's answer among the events of its stream.
#[derive(Debug)]
pub struct EventReader {
    scanner: Scanner,
    found: Verdict,
    line: Line,
    /// The first bytes of the line, until it is known what line it is.
    head: Vec<u8>,
    after_cr: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Line {
    Head,
    Data,
    Other,
}

impl Default for EventReader {
    fn default() -> EventReader {
        EventReader {
            scanner: Scanner::default(),
            found: Verdict::Nothing,
            line: Line::Head,
            head: Vec::new(),
            after_cr: false,
        }
    }
}

impl EventReader {
    /// `data:` and one blank.
    const HEAD_BYTES: usize = 6;

    fn feed(&mut self, chunk: &[u8]) {
        for byte in chunk {
            let is_second_of_crlf = std::mem::replace(&mut self.after_cr, *byte == b'\r') && *byte == b'\n';
            if is_second_of_crlf {
                continue;
            }
            if matches!(byte, b'\r' | b'\n') {
                self.end_line();
                continue;
            }
            match self.line {
                Line::Data => self.scanner.feed(&[*byte]),
                Line::Other => {}
                Line::Head => {
                    self.head.push(*byte);
                    self.tell_line();
                }
            }
        }
    }

    fn tell_line(&mut self) {
        if self.head.len() < EventReader::HEAD_BYTES {
            return;
        }
        self.line = match sse::data_of(&self.head) {
            Some(value) => {
                self.scanner.feed(value);
                Line::Data
            }
            None => Line::Other,
        };
    }

    fn end_line(&mut self) {
        let is_blank = self.line == Line::Head && self.head.is_empty();
        if self.line == Line::Head
            && let Some(value) = sse::data_of(&self.head)
        {
            self.scanner.feed(value);
        }
        if is_blank {
            let verdict = std::mem::take(&mut self.scanner).verdict();
            if self.found == Verdict::Nothing {
                self.found = verdict;
            }
        }
        self.head.clear();
        self.line = Line::Head;
    }
}

/// Follows one JSON-RPC message to the few facts that settle a call.
#[derive(Debug, Default)]
pub struct Scanner {
    depth: u32,
    string: Option<Text>,
    /// The innermost container is an object, for the depths that matter.
    is_object: [bool; 3],
    /// The next string at this depth is a name.
    wants_name: bool,
    /// The name last read at depth 1 and at depth 2.
    names: [Name; 2],
    /// A bare word being read: `true`, `null`, a number.
    word: [u8; 4],
    word_bytes: usize,
    has_result: bool,
    has_error: bool,
    has_method: bool,
    is_error: bool,
    is_unfinished: bool,
}

#[derive(Debug, Default)]
struct Text {
    escaped: bool,
    is_name: bool,
    bytes: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Name {
    #[default]
    Other,
    Result,
    Error,
    Method,
    IsError,
    ResultType,
}

impl Scanner {
    /// Longest name or value that is told from another.
    const TEXT_BYTES_MAX: usize = 16;

    /// Takes what arrived.
    pub fn feed(&mut self, chunk: &[u8]) {
        for byte in chunk {
            match &mut self.string {
                Some(text) if text.escaped => text.escaped = false,
                Some(text) => match byte {
                    b'\\' => text.escaped = true,
                    b'"' => self.end_string(),
                    byte => {
                        if text.bytes.len() <= Scanner::TEXT_BYTES_MAX {
                            text.bytes.push(*byte);
                        }
                    }
                },
                None => self.structure(*byte),
            }
        }
    }

    /// What was seen so far.
    pub fn verdict(&self) -> Verdict {
        // A server's own request or notification has a method; it is no answer.
        if self.has_method {
            Verdict::Nothing
        } else if self.has_error {
            Verdict::ProtocolError
        } else if !self.has_result {
            Verdict::Nothing
        } else if self.is_error {
            Verdict::ToolError
        } else if self.is_unfinished {
            Verdict::Unfinished
        } else {
            Verdict::Success
        }
    }

    fn structure(&mut self, byte: u8) {
        match byte {
            b'"' => {
                self.value_begins();
                let is_name = self.wants_name && self.depth <= 2;
                self.string = Some(Text { is_name, ..Text::default() });
            }
            b'{' | b'[' => {
                self.value_begins();
                self.depth = self.depth.saturating_add(1);
                self.enter(byte == b'{');
            }
            b'}' | b']' => {
                self.end_word();
                self.depth = self.depth.saturating_sub(1);
                self.wants_name = false;
            }
            b',' => {
                self.end_word();
                self.wants_name = self.in_object();
            }
            b':' => self.wants_name = false,
            byte if byte.is_ascii_whitespace() => self.end_word(),
            byte => {
                self.value_begins();
                if let Some(place) = self.word.get_mut(self.word_bytes) {
                    *place = byte;
                }
                self.word_bytes = self.word_bytes.saturating_add(1);
            }
        }
    }

    fn enter(&mut self, is_object: bool) {
        let index = usize::try_from(self.depth).unwrap_or(usize::MAX);
        if let Some(place) = self.is_object.get_mut(index) {
            *place = is_object;
        }
        self.wants_name = is_object && self.in_object();
        if self.depth == 2
            && let [_, second] = &mut self.names
        {
            *second = Name::Other;
        }
    }

    fn in_object(&self) -> bool {
        let index = usize::try_from(self.depth).unwrap_or(usize::MAX);
        self.is_object.get(index).copied().unwrap_or(false)
    }

    /// A value begins: if it is the answer's `result` or `error`, that is there now.
    fn value_begins(&mut self) {
        if self.depth != 1 || self.wants_name || !self.in_object() {
            return;
        }
        match self.names {
            [Name::Result, _] => self.has_result = true,
            [Name::Error, _] => self.has_error = true,
            [Name::Method, _] => self.has_method = true,
            _ => {}
        }
    }

    fn end_string(&mut self) {
        let Some(text) = self.string.take() else { return };
        if text.is_name {
            let name = match text.bytes.as_slice() {
                b"result" => Name::Result,
                b"error" => Name::Error,
                b"method" => Name::Method,
                b"isError" => Name::IsError,
                b"resultType" => Name::ResultType,
                _ => Name::Other,
            };
            match (&mut self.names, self.depth) {
                ([first, _], 1) => *first = name,
                ([_, second], 2) => *second = name,
                _ => {}
            }
        } else if self.depth == 2 && self.names == [Name::Result, Name::ResultType] {
            self.is_unfinished = text.bytes.as_slice() != b"complete";
        }
    }

    fn end_word(&mut self) {
        let word = self.word.get(..self.word_bytes).unwrap_or_default();
        if word == b"true" && self.depth == 2 && self.names == [Name::Result, Name::IsError] {
            self.is_error = true;
        }
        self.word_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(content_type: &str, answer: &str) -> Verdict {
        let mut seen = None;
        for size in [1, 2, 3, 7, answer.len().max(1)] {
            let mut reader = Reader::for_content_type(content_type.as_bytes()).unwrap();
            answer.as_bytes().chunks(size).for_each(|chunk| reader.feed(chunk));
            let verdict = reader.verdict();
            assert_eq!(*seen.get_or_insert(verdict), verdict, "in chunks of {size}: {answer}");
        }
        seen.unwrap()
    }

    #[test]
    fn a_json_answer_is_told_apart() {
        for (answer, verdict) in [
            (r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#, Verdict::Success),
            (r#"{"result":{"content":[{"isError":true}],"isError":false},"id":1}"#, Verdict::Success),
            (
                r#"{"result":{"structuredContent":{"isError":true,"error":1},"resultType":"complete"}}"#,
                Verdict::Success,
            ),
            (r#"{"result":{"content":[{"text":"\"isError\":true}"}]}}"#, Verdict::Success),
            (r#"{"result":{"content":[],"isError": true }}"#, Verdict::ToolError),
            (r#"{"result":{"isError":true,"content":[{"a":{"isError":false}}]}}"#, Verdict::ToolError),
            (r#"{"error":{"code":-1,"message":"result"}}"#, Verdict::ProtocolError),
            (r#"{"result":{"resultType":"input_required"}}"#, Verdict::Unfinished),
            (r#"{"result":{"resultType":"task","taskId":"x"}}"#, Verdict::Unfinished),
            (r#"{"method":"notifications/progress","params":{"result":1}}"#, Verdict::Nothing),
            (r#"{"id":1,"method":"sampling/createMessage","params":{}}"#, Verdict::Nothing),
            (r#"[{"result":{}}]"#, Verdict::Nothing),
            (r#""result""#, Verdict::Nothing),
            ("", Verdict::Nothing),
            // Cut off in the middle.
            (r#"{"result":{"content":[{"text":"half"#, Verdict::Success),
            (r#"{"id":1,"resu"#, Verdict::Nothing),
        ] {
            assert_eq!(verdicts("application/json; charset=utf-8", answer), verdict, "{answer}");
        }
    }

    #[test]
    fn the_answer_is_found_among_events() {
        let progress =
            "event: message\r\ndata: {\"method\":\"notifications/progress\",\"params\":{}}\r\n\r\n";
        for (answer, verdict) in [
            (format!("{progress}data: {{\"result\":{{}}}}\r\n\r\n"), Verdict::Success),
            (
                format!("{progress}: c\n\ndata:{{\"result\":\ndata:{{\"isError\":true}}}}\n\n{progress}"),
                Verdict::ToolError,
            ),
            (format!("id: 1\nretry: 5\n\n{progress}data: {{\"error\":{{}}}}\n\n"), Verdict::ProtocolError),
            (format!("{progress}{progress}"), Verdict::Nothing),
            ("data\n\ndata:\n\n".to_owned(), Verdict::Nothing),
            ("data: {\"result\":{\"content\":[".to_owned(), Verdict::Success),
        ] {
            assert_eq!(verdicts("text/event-stream", &answer), verdict, "{answer}");
        }
    }
}
