//! How a tool call ended, read from the answer's bytes as they pass, in constant memory.
//!
//! An answer can be megabytes long and come in chunks of any size. Nothing is kept of it but what a
//! [`Scanner`] finds.

use super::scanner::Scanner;
use super::sse;
use protocol::audit::UsageTokens;

/// What an answer says about the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verdict {
    /// A result, and no error in it.
    Success,
    /// A result that is marked `isError`.
    ToolError,
    /// A JSON-RPC error.
    ProtocolError,
    /// The server asks for more input: the call is not over.
    Unfinished,
    /// No answer to the call was seen.
    #[default]
    Nothing,
}

/// One answer among the events of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The id of the request that it answers, as the server wrote it.
    pub id: String,
    /// How that ended.
    pub verdict: Verdict,
    /// What the server says it cost.
    pub cost: Option<u64>,
}

/// The forms in which answers come.
#[derive(Debug)]
pub enum Reader {
    /// One JSON-RPC message.
    Json(Scanner),
    /// A stream of events, each with one message.
    Events(Box<EventReader>),
}

impl Reader {
    /// A reader for an answer of this content type, or `None` if it is neither JSON nor events.
    pub fn for_content_type(content_type: &[u8]) -> Option<Reader> {
        let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        if essence.eq_ignore_ascii_case(b"application/json") {
            Some(Reader::Json(Scanner::default()))
        } else if essence.eq_ignore_ascii_case(b"text/event-stream") {
            Some(Reader::Events(Box::default()))
        } else {
            None
        }
    }

    /// Takes what arrived.
    pub fn feed(&mut self, chunk: &[u8]) {
        match self {
            Reader::Json(scanner) => scanner.feed(chunk),
            Reader::Events(events) => events.feed(chunk, &mut |_| {}),
        }
    }

    /// What was seen so far. A result that has begun counts: a client that leaves in its middle has had it.
    pub fn verdict(&self) -> Verdict {
        self.answer().verdict()
    }

    /// What the server says the call cost.
    pub fn cost(&self) -> Option<u64> {
        self.answer().cost()
    }

    /// The LLM tokens that were reported, the last report of each kind.
    pub fn usage(&self) -> UsageTokens {
        match self {
            Reader::Json(scanner) => scanner.usage(),
            Reader::Events(events) => events.usage.then(events.scanner.usage()),
        }
    }

    fn answer(&self) -> &Scanner {
        match self {
            Reader::Json(scanner) => scanner,
            Reader::Events(events) => events.found.as_ref().unwrap_or(&events.scanner),
        }
    }
}

/// Finds answers among the events of a stream.
#[derive(Debug, Default)]
pub struct EventReader {
    scanner: Scanner,
    /// The first event that was an answer.
    found: Option<Scanner>,
    usage: UsageTokens,
    line: Line,
    /// The first bytes of the line, until it is known what line it is.
    head: Vec<u8>,
    after_cr: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Line {
    #[default]
    Head,
    Data,
    Other,
}

impl EventReader {
    /// `data:` and one blank.
    const HEAD_BYTES: usize = 6;

    /// Takes what arrived, and tells of each answer that has come whole.
    pub fn feed(&mut self, chunk: &[u8], answered: &mut dyn FnMut(Answer)) {
        for byte in chunk {
            let is_second_of_crlf = std::mem::replace(&mut self.after_cr, *byte == b'\r') && *byte == b'\n';
            if is_second_of_crlf {
                continue;
            }
            if matches!(byte, b'\r' | b'\n') {
                self.end_line(answered);
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

    fn end_line(&mut self, answered: &mut dyn FnMut(Answer)) {
        let is_blank = self.line == Line::Head && self.head.is_empty();
        if self.line == Line::Head
            && let Some(value) = sse::data_of(&self.head)
        {
            self.scanner.feed(value);
        }
        if is_blank {
            self.end_event(answered);
        }
        self.head.clear();
        self.line = Line::Head;
    }

    fn end_event(&mut self, answered: &mut dyn FnMut(Answer)) {
        let scanner = std::mem::take(&mut self.scanner);
        self.usage = self.usage.then(scanner.usage());
        let verdict = scanner.verdict();
        if verdict == Verdict::Nothing {
            return;
        }
        if let Some(id) = scanner.id() {
            answered(Answer { id: id.to_owned(), verdict, cost: scanner.cost() });
        }
        self.found.get_or_insert(scanner);
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
            // Only a client that asks would let the gate see how a task ends, and not asking must not be free.
            (r#"{"result":{"resultType":"task","taskId":"x"}}"#, Verdict::Success),
            (r#"{"result":{"task":{"taskId":"x","status":"working"}}}"#, Verdict::Success),
            (r#"{"result":{"resultType":"of_some_extension"}}"#, Verdict::Success),
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
