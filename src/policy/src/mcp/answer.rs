//! How a tool call ended, read from the answer's bytes as they pass, in constant memory.
//!
//! An answer can be megabytes long and come in chunks of any size. Nothing is kept of it but what a
//! [`Scanner`] finds.

use super::scanner::Scanner;
use super::{id, sse};
use protocol::audit::UsageTokens;
use std::borrow::Cow;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One JSON-RPC message.
    Json,
    /// A stream of events, each with one message.
    Events,
}

impl Form {
    /// The form of an answer of this content type, if it is one of them.
    pub fn of(content_type: &[u8]) -> Option<Form> {
        let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        [Form::Json, Form::Events]
            .into_iter()
            .find(|form| essence.eq_ignore_ascii_case(form.content_type().as_bytes()))
    }

    /// Its content type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Form::Json => "application/json",
            Form::Events => "text/event-stream",
        }
    }
}

/// Finds the answer to one request in what a server sends, and the answers to others: a server may send any answer of a
/// session on any of its streams, and one that takes `1` and `"1"` for the same id does.
#[derive(Debug)]
pub struct Reader {
    form: Form,
    /// What the request's id means; without one nothing is its answer.
    own: Option<String>,
    scanner: Scanner,
    /// The answer, once it has come whole.
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

impl Reader {
    /// `data:` and one blank.
    const HEAD_BYTES: usize = 6;

    /// A reader of answers to the request with this id.
    pub fn new(form: Form, id: Option<&str>) -> Reader {
        Reader {
            form,
            own: id.and_then(id::meaning).map(Cow::into_owned),
            scanner: Scanner::default(),
            found: None,
            usage: UsageTokens::default(),
            line: Line::default(),
            head: Vec::new(),
            after_cr: false,
        }
    }

    /// In which form it reads them.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Takes what arrived, and tells of each answer to another request that has come whole.
    pub fn feed(&mut self, chunk: &[u8], others: &mut dyn FnMut(Answer)) {
        match self.form {
            Form::Json => {
                self.scanner.feed(chunk);
                if self.scanner.is_whole() {
                    self.end_message(others);
                }
            }
            Form::Events => chunk.iter().for_each(|byte| self.feed_event(*byte, others)),
        }
    }

    /// What was seen so far. A result that has begun counts: a client that leaves in its middle has had it.
    pub fn verdict(&self) -> Verdict {
        self.answer().map_or(Verdict::Nothing, Scanner::verdict)
    }

    /// The answer has come whole.
    pub fn is_whole(&self) -> bool {
        self.found.is_some()
    }

    /// What the server says the call cost.
    pub fn cost(&self) -> Option<u64> {
        self.answer().and_then(Scanner::cost)
    }

    /// The LLM tokens that were reported, the last report of each kind.
    pub fn usage(&self) -> UsageTokens {
        self.usage.then(self.scanner.usage())
    }

    fn answer(&self) -> Option<&Scanner> {
        self.found.as_ref().or_else(|| Some(&self.scanner).filter(|message| self.is_own(message)))
    }

    /// An answer without an id can be for nobody but who asked.
    fn is_own(&self, message: &Scanner) -> bool {
        let meant = message.id().and_then(id::meaning);
        self.own.is_some() && (meant.is_none() || meant.as_deref() == self.own.as_deref())
    }

    fn feed_event(&mut self, byte: u8, others: &mut dyn FnMut(Answer)) {
        let is_second_of_crlf = std::mem::replace(&mut self.after_cr, byte == b'\r') && byte == b'\n';
        if is_second_of_crlf {
            return;
        }
        if matches!(byte, b'\r' | b'\n') {
            self.end_line(others);
            return;
        }
        match self.line {
            Line::Data => self.scanner.feed(&[byte]),
            Line::Other => {}
            Line::Head => {
                self.head.push(byte);
                self.tell_line();
            }
        }
    }

    fn tell_line(&mut self) {
        if self.head.len() < Reader::HEAD_BYTES {
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

    fn end_line(&mut self, others: &mut dyn FnMut(Answer)) {
        let is_blank = self.line == Line::Head && self.head.is_empty();
        if self.line == Line::Head
            && let Some(value) = sse::data_of(&self.head)
        {
            self.scanner.feed(value);
        }
        if is_blank {
            self.end_message(others);
        }
        self.head.clear();
        self.line = Line::Head;
    }

    fn end_message(&mut self, others: &mut dyn FnMut(Answer)) {
        let scanner = std::mem::take(&mut self.scanner);
        self.usage = self.usage.then(scanner.usage());
        let verdict = scanner.verdict();
        if verdict == Verdict::Nothing {
            return;
        }
        if self.is_own(&scanner) {
            self.found.get_or_insert(scanner);
        } else if let Some(id) = scanner.id() {
            others(Answer { id: id.to_owned(), verdict, cost: scanner.cost() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(content_type: &str, answer: &str) -> Verdict {
        let mut seen = None;
        for size in [1, 2, 3, 7, answer.len().max(1)] {
            let mut reader = Reader::new(Form::of(content_type.as_bytes()).unwrap(), Some("1"));
            answer.as_bytes().chunks(size).for_each(|chunk| reader.feed(chunk, &mut |_| {}));
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

    #[test]
    fn the_answers_of_others_are_told_apart_in_either_form() {
        for (message, own, others) in [
            (r#"{"id":1,"result":{}}"#, Verdict::Success, 0),
            (r#"{"result":{},"id":1}"#, Verdict::Success, 0),
            (r#"{"result":{}}"#, Verdict::Success, 0),
            (r#"{"id":null,"error":{}}"#, Verdict::ProtocolError, 0),
            (r#"{"id":"1","result":{}}"#, Verdict::Nothing, 1),
            (r#"{"error":{},"id":2}"#, Verdict::Nothing, 1),
            (r#"{"id":2,"method":"ping"}"#, Verdict::Nothing, 0),
        ] {
            for (form, sent) in
                [(Form::Json, message.to_owned()), (Form::Events, format!("data: {message}\n\n"))]
            {
                let mut told = Vec::new();
                let mut reader = Reader::new(form, Some("1"));
                reader.feed(sent.as_bytes(), &mut |answer| told.push(answer));
                assert_eq!((reader.verdict(), told.len()), (own, others), "{sent}");
                assert_eq!(reader.is_whole(), own != Verdict::Nothing);
                // Who has no id hears the answers of others alone.
                let mut told = Vec::new();
                let mut reader = Reader::new(form, None);
                reader.feed(sent.as_bytes(), &mut |answer| told.push(answer));
                assert_eq!(reader.verdict(), Verdict::Nothing);
                assert_eq!(told.len(), usize::from(sent.contains("\"id\":") && !sent.contains("method")));
            }
        }
    }
}
