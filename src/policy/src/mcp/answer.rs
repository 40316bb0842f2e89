//! How a tool call ended. The answer is read as its bytes pass, in constant memory, and in the way that clients read it.
//!
//! An answer can be megabytes long and arrive in chunks of any size. Only the facts that a [`Scanner`] finds are kept.
//! An unclear answer never counts as a failure, because a failure is refunded.

use super::id;
use super::scanner::{Facts, Scanner};
use protocol::audit::UsageTokens;
use std::borrow::Cow;

pub use super::scanner::Verdict;

/// The formats of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One JSON-RPC message, or an array of them.
    Json,
    /// A stream of events, each with one message or an array of them.
    Events,
}

impl Form {
    /// The form for this content type; `None` for any other type. A proxy may join repeated headers with commas; then all of
    /// them must name the same form.
    pub fn of(content_type: &[u8]) -> Option<Form> {
        let mut forms = content_type.split(|byte| *byte == b',').map(Form::of_one);
        let first = forms.next()?;
        first.filter(|_| forms.all(|form| form == first))
    }

    fn of_one(content_type: &[u8]) -> Option<Form> {
        let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
        let essence = essence.trim_ascii().to_ascii_lowercase();
        match essence.as_slice() {
            b"text/event-stream" => Some(Form::Events),
            b"application/json" | b"text/json" | b"application/json-rpc" => Some(Form::Json),
            other if other.starts_with(b"application/") && other.ends_with(b"+json") => Some(Form::Json),
            _ => None,
        }
    }
}

/// Finds the answer to one request in what the server sends.
#[derive(Debug)]
pub struct Reader {
    form: Form,
    /// The meaning of the request's id; without an id, no message can be the answer.
    own: Option<String>,
    scanner: Scanner,
    /// The number of answers to the request so far. `pending` counts those in the event that has not ended.
    answers: u32,
    pending: u32,
    first: Facts,
    /// `has_result`: an answer is certainly a result. `is_unclear`: at least one answer could be read in two ways.
    has_result: bool,
    is_unclear: bool,
    is_resumable: bool,
    usage: UsageTokens,
    /// How many bytes of a byte order mark have arrived; the full length if there is none.
    mark: usize,
    line: Line,
    /// The first bytes of the line, until they identify the kind of line.
    head: Vec<u8>,
    after_cr: bool,
    /// The event has a type that clients do not read as a message.
    is_other: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Line {
    #[default]
    Head,
    /// After `data:`, where one blank may follow.
    Blank,
    Data,
}

const MARK: &[u8] = b"\xef\xbb\xbf";
/// Longer than every prefix that identifies a line.
const HEAD_BYTES_MAX: usize = 16;

impl Reader {
    /// Reads answers to the request with this id.
    pub fn new(form: Form, id: Option<&str>) -> Reader {
        Reader {
            form,
            own: id.and_then(id::meaning).map(Cow::into_owned),
            scanner: Scanner::default(),
            answers: 0,
            pending: 0,
            first: Facts::default(),
            has_result: false,
            is_unclear: false,
            is_resumable: false,
            usage: UsageTokens::default(),
            mark: 0,
            line: Line::default(),
            head: Vec::new(),
            after_cr: false,
            is_other: false,
        }
    }

    /// Reads a chunk.
    pub fn feed(&mut self, chunk: &[u8]) {
        let mark = MARK.get(self.mark..).unwrap_or_default();
        let skipped = chunk.iter().zip(mark).take_while(|(byte, own)| byte == own).count();
        self.mark = if skipped == chunk.len() { self.mark.saturating_add(skipped) } else { MARK.len() };
        let chunk = chunk.get(skipped..).unwrap_or_default();
        match self.form {
            Form::Json => self.read(chunk),
            Form::Events => chunk.iter().for_each(|byte| self.feed_event(*byte)),
        }
    }

    /// Reads the data of a complete event.
    pub fn event(&mut self, data: &[u8]) {
        self.read(data);
        self.end_event();
    }

    /// How the call ended, as far as it is known now.
    pub fn verdict(&self) -> Verdict {
        let begun = self.scanner.facts();
        let has_begun = begun.has_result && begun.id().is_none_or(|id| self.is_own(id));
        if self.has_result || (has_begun && begun.verdict() == Verdict::Success) {
            return Verdict::Success;
        }
        let is_sent = match self.form {
            Form::Json => self.scanner.is_whole(),
            Form::Events => self.pending == 0,
        };
        match self.answers {
            _ if self.is_unclear || has_begun => Verdict::Unclear,
            0 => Verdict::Nothing,
            1 if is_sent => self.first.verdict(),
            1 if !self.first.has_result => Verdict::Nothing,
            _ => Verdict::Unclear,
        }
    }

    /// The cost of the call that the server reports.
    pub fn cost(&self) -> Option<u64> {
        match self.answers {
            0 => self
                .scanner
                .facts()
                .cost
                .filter(|_| self.scanner.facts().id().is_some_and(|id| self.is_own(id))),
            1 => self.first.cost,
            _ => None,
        }
    }

    /// True if an answer to the request has arrived, whatever it says.
    pub fn has_answer(&self) -> bool {
        self.answers > 0
    }

    /// The reported LLM tokens; of each kind the last report counts.
    pub fn usage(&self) -> UsageTokens {
        self.usage.then(self.scanner.facts().usage)
    }

    /// True if the events have ids, so that a client can ask for the events that it missed.
    pub fn is_resumable(&self) -> bool {
        self.is_resumable
    }

    fn is_own(&self, id: &str) -> bool {
        self.own.is_some() && id::meaning(id).as_deref() == self.own.as_deref()
    }

    /// True if the request's id is not a string.
    fn is_number(&self) -> bool {
        self.own.as_ref().is_some_and(|own| !own.starts_with('"'))
    }

    fn read(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.scanner.feed(*byte) {
                let message = self.scanner.message();
                self.usage = self.usage.then(message.usage);
                let verdict = message.verdict();
                match message.id().filter(|_| verdict != Verdict::Nothing) {
                    Some(id) if self.is_own(id) => {
                        self.answers = self.answers.saturating_add(1);
                        self.pending = self.pending.saturating_add(1);
                        self.has_result |= verdict == Verdict::Success;
                        self.first = message;
                    }
                    // The official clients read a string as the number in it, so they would accept this result as their own.
                    Some(id) => {
                        self.is_unclear |= message.has_result && id.starts_with('"') && self.is_number()
                    }
                    None => {}
                }
            }
        }
    }

    fn feed_event(&mut self, byte: u8) {
        let is_second_of_crlf = std::mem::replace(&mut self.after_cr, byte == b'\r') && byte == b'\n';
        match (byte, &self.line) {
            _ if is_second_of_crlf => {}
            (b'\r' | b'\n', _) => self.end_line(),
            (b' ', Line::Blank) => self.line = Line::Data,
            (byte, Line::Blank | Line::Data) => {
                self.line = Line::Data;
                self.read(&[byte]);
            }
            (byte, Line::Head) if self.head.len() < HEAD_BYTES_MAX => {
                self.head.push(byte);
                if self.head == b"data:" {
                    self.line = Line::Blank;
                }
            }
            _ => {}
        }
    }

    fn end_line(&mut self) {
        match std::mem::take(&mut self.head).as_slice() {
            b"" => self.end_event(),
            // Lines of data are joined by a line feed.
            b"data:" => self.read(b"\n"),
            b"id" => self.is_resumable = true,
            line if line.starts_with(b"id:") => self.is_resumable = true,
            b"event: message" | b"event:message" | b"event: " | b"event:" | b"event" => self.is_other = false,
            line if line.starts_with(b"event:") => self.is_other = true,
            _ => {}
        }
        self.line = Line::Head;
    }

    /// Clients read an event only once it has ended. They drop it if its type is another one or its data is not JSON.
    fn end_event(&mut self) {
        let begun = std::mem::take(&mut self.scanner);
        self.usage = self.usage.then(begun.facts().usage);
        self.is_unclear |= self.pending > 0 && (self.is_other || !begun.is_whole());
        self.is_unclear |= begun.facts().has_result && begun.facts().id().is_none_or(|id| self.is_own(id));
        self.pending = 0;
        self.is_other = false;
    }
}

#[cfg(test)]
mod tests;
