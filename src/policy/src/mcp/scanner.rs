//! Follows JSON-RPC messages, byte by byte, to the few facts that settle a call, in constant memory.
//!
//! It only reads what servers send, so it may be lenient with what they say beside that. But a call that is taken to have
//! failed is paid back, so what could be read in two ways is [`Verdict::Unclear`]. Nothing is kept but the path to where it
//! is and the text of names and short values.

use crate::json;
use protocol::audit::UsageTokens;
use std::borrow::Cow;

/// How deep the facts lie: `result._meta.usage.input_tokens`.
const DEPTH_MAX: usize = 4;
/// An id of a request is at most this long; see [`super::Message`]. Escapes make six bytes of one.
const TEXT_BYTES_MAX: usize = 6 * 256;

/// Reads one message, or an array of them.
#[derive(Debug, Default)]
pub struct Scanner {
    /// Around the messages: in an array of them, behind the end of all, and something is there that is none.
    in_array: bool,
    is_closed: bool,
    is_broken: bool,
    depth: usize,
    /// The innermost container is an object, for the depths that matter.
    is_object: [bool; DEPTH_MAX],
    /// The name last read at each depth.
    path: [Name; DEPTH_MAX],
    /// The next string is a name.
    wants_name: bool,
    string: Option<Text>,
    /// A bare word being read: `true`, `null`, a number.
    word: Vec<u8>,
    facts: Facts,
}

/// What an answer says about the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verdict {
    /// A result, and no error in it. One that has begun counts: who leaves in its middle has had it.
    Success,
    /// The one answer is a JSON-RPC error, or a result that is marked `isError`.
    Failure,
    /// The server asks for more input: the call is not over.
    Unfinished,
    /// Answered in a way that could mean either, or more than once.
    Unclear,
    /// No answer to the call was seen.
    #[default]
    Nothing,
}

/// What a message says.
#[derive(Debug, Default, Clone)]
pub struct Facts {
    /// The JSON-RPC id, as it was written; empty where there is none.
    id: Vec<u8>,
    /// A result has begun.
    pub has_result: bool,
    has_error: bool,
    has_method: bool,
    is_error: bool,
    is_unfinished: bool,
    /// One of these is given twice, or as what it can't be.
    is_unclear: bool,
    /// Which of them were given.
    given: u16,
    /// What the server says the call cost, in `result._meta`.
    pub cost: Option<u64>,
    /// The LLM tokens that it reports.
    pub usage: UsageTokens,
}

impl Facts {
    /// The JSON-RPC id, as it was written.
    pub fn id(&self) -> Option<&str> {
        std::str::from_utf8(&self.id).ok().filter(|id| !id.is_empty())
    }

    /// How the call ended that this answers.
    pub fn verdict(&self) -> Verdict {
        let is_answer = self.has_result || self.has_error;
        if self.is_unclear || (self.has_method && is_answer) || (self.has_result && self.has_error) {
            Verdict::Unclear
        } else if self.has_method {
            // A server's own request or notification.
            Verdict::Nothing
        } else if !is_answer {
            Verdict::Unclear
        } else if self.has_error || self.is_error {
            Verdict::Failure
        } else if self.is_unfinished {
            Verdict::Unfinished
        } else {
            Verdict::Success
        }
    }

    fn give(&mut self, path: &[Name]) {
        let place: u16 = match path {
            [Name::Id] => 1,
            [Name::Result] => 2,
            [Name::Error] => 4,
            [Name::Method] => 8,
            [Name::Result, Name::IsError] => 16,
            [Name::Result, Name::ResultType] => 32,
            [Name::Result, Name::Meta] => 64,
            [Name::Result, Name::Meta, Name::Cost] => 128,
            _ => 0,
        };
        self.is_unclear |= self.given & place != 0;
        self.given |= place;
    }
}

#[derive(Debug, Default)]
struct Text {
    escaped: bool,
    is_name: bool,
    /// It may be one that is told from others.
    is_kept: bool,
    bytes: Vec<u8>,
}

impl Text {
    /// What it says, whatever is escaped in it.
    fn plain(&self) -> Option<Cow<'_, str>> {
        let text = std::str::from_utf8(&self.bytes).ok().filter(|text| text.len() <= TEXT_BYTES_MAX)?;
        if !text.contains('\\') {
            return Some(Cow::Borrowed(text));
        }
        serde_json::from_str(&format!("\"{text}\"")).ok().map(Cow::Owned)
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Name {
    #[default]
    Other,
    Id,
    Result,
    Error,
    Method,
    IsError,
    ResultType,
    Meta,
    Cost,
    Message,
    Response,
    Usage,
    InputTokens,
    OutputTokens,
}

impl Name {
    fn of(text: &str) -> Name {
        match text {
            "id" => Name::Id,
            "result" => Name::Result,
            "error" => Name::Error,
            "method" => Name::Method,
            "isError" => Name::IsError,
            "resultType" => Name::ResultType,
            "_meta" => Name::Meta,
            "agentrelay/cost" => Name::Cost,
            "message" => Name::Message,
            "response" => Name::Response,
            "usage" => Name::Usage,
            "input_tokens" | "prompt_tokens" | "inputTokens" => Name::InputTokens,
            "output_tokens" | "completion_tokens" | "outputTokens" => Name::OutputTokens,
            _ => Name::Other,
        }
    }
}

impl Scanner {
    /// Takes a byte. True if a message came to its end with it, whose facts are then [`Scanner::message`].
    pub fn feed(&mut self, byte: u8) -> bool {
        let Some(text) = &mut self.string else { return self.structure(byte) };
        let ends = !text.escaped && byte == b'"';
        text.escaped = !text.escaped && byte == b'\\';
        if ends {
            self.end_string();
        } else if text.is_kept && text.bytes.len() <= TEXT_BYTES_MAX {
            text.bytes.push(byte);
        }
        false
    }

    /// What was seen of the message that is being read.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The message that has just ended.
    pub fn message(&mut self) -> Facts {
        std::mem::take(&mut self.facts)
    }

    /// All has come, and nothing that is no message.
    pub fn is_whole(&self) -> bool {
        self.is_closed && !self.is_broken
    }

    fn structure(&mut self, byte: u8) -> bool {
        if self.depth == 0 {
            self.around(byte);
            return false;
        }
        match byte {
            b'"' => {
                self.value_begins(byte);
                let is_name = self.wants_name && self.depth <= DEPTH_MAX;
                let is_kept = is_name || matches!(self.path(), [Name::Id] | [Name::Result, Name::ResultType]);
                self.string = Some(Text { is_name, is_kept, ..Text::default() });
            }
            b'{' | b'[' => {
                self.value_begins(byte);
                self.depth = self.depth.saturating_add(1);
                self.enter(byte == b'{');
            }
            b'}' | b']' => {
                self.end_word();
                self.depth = self.depth.saturating_sub(1);
                self.wants_name = false;
                self.is_closed |= self.depth == 0 && !self.in_array;
                return self.depth == 0;
            }
            b',' => {
                self.end_word();
                self.wants_name = self.in_object();
            }
            b':' => self.wants_name = false,
            byte if byte.is_ascii_whitespace() => self.end_word(),
            byte if self.word.len() <= TEXT_BYTES_MAX => self.word.push(byte),
            _ => {}
        }
        false
    }

    /// Between messages, or where the first is to come.
    fn around(&mut self, byte: u8) {
        match byte {
            b'{' if !self.is_closed => {
                self.depth = 1;
                self.enter(true);
            }
            b'[' if !self.is_closed && !self.in_array => self.in_array = true,
            b']' if self.in_array => self.is_closed = true,
            b',' if self.in_array => {}
            byte if byte.is_ascii_whitespace() => {}
            byte => {
                self.is_broken = true;
                self.string = (byte == b'"').then(Text::default);
            }
        }
    }

    fn enter(&mut self, is_object: bool) {
        let Some(index) = self.depth.checked_sub(1) else { return };
        if let (Some(kind), Some(name)) = (self.is_object.get_mut(index), self.path.get_mut(index)) {
            *kind = is_object;
            *name = Name::Other;
        }
        self.wants_name = is_object && self.in_object();
    }

    fn in_object(&self) -> bool {
        let index = self.depth.checked_sub(1);
        index.and_then(|index| self.is_object.get(index)).copied().unwrap_or(false)
    }

    /// The names that lead to the value being read; empty below the depths that matter.
    fn path(&self) -> &[Name] {
        self.path.get(..self.depth).unwrap_or_default()
    }

    /// A value begins that is no bare word: if it is the answer's `result` or `error`, that is there now.
    fn value_begins(&mut self, byte: u8) {
        if self.wants_name {
            return;
        }
        match self.path() {
            [Name::Result] => self.facts.has_result = true,
            [Name::Error] if byte == b'{' => self.facts.has_error = true,
            [Name::Error] => self.facts.is_unclear = true,
            [Name::Method] => self.facts.has_method = true,
            _ => {}
        }
    }

    fn end_string(&mut self) {
        let Some(text) = self.string.take() else { return };
        if text.is_name {
            self.name(&text);
            return;
        }
        let is_short = text.bytes.len() <= TEXT_BYTES_MAX;
        match self.path() {
            [Name::Result, Name::ResultType] => {
                self.facts.is_unfinished = text.plain().as_deref() == Some("input_required");
            }
            [Name::Id] if is_short => self.facts.id = [b"\"", text.bytes.as_slice(), b"\""].concat(),
            _ => {}
        }
    }

    fn name(&mut self, text: &Text) {
        let place = self.depth.checked_sub(1).and_then(|index| self.path.get_mut(index));
        if let Some(place) = place {
            let name = text.plain().unwrap_or_default();
            *place = Name::of(&name);
            let is_other = *place == Name::Other;
            let path = self.path.get(..self.depth).unwrap_or_default();
            self.facts.give(path);
            let decide: &[&str] = match path {
                [_] => &["id", "result", "error", "method"],
                [Name::Result, _] => &["iserror", "resulttype"],
                _ => &[],
            };
            // A client that ignores case would take it for one that decides.
            self.facts.is_unclear |= is_other && !decide.is_empty() && decide.contains(&&*json::fold(name));
        }
    }

    fn end_word(&mut self) {
        let word = std::mem::take(&mut self.word);
        if word.is_empty() || word == b"null" {
            return;
        }
        // A list of other things than messages reports nothing.
        let is_of_many = self.in_array && self.depth == 2;
        let number = || std::str::from_utf8(&word).ok().and_then(|digits| digits.parse::<u64>().ok());
        match self.path() {
            [Name::Result] => self.facts.has_result = true,
            [Name::Error] => self.facts.is_unclear = true,
            [Name::Method] => self.facts.has_method = true,
            [Name::Result, Name::IsError] => self.facts.is_error = word == b"true",
            [Name::Result, Name::Meta, Name::Cost] => self.facts.cost = number(),
            [above @ .., Name::Usage, name] if is_place_of_usage(above) && !is_of_many => {
                let number = number();
                let place = match name {
                    Name::InputTokens => &mut self.facts.usage.input,
                    Name::OutputTokens => &mut self.facts.usage.output,
                    _ => return,
                };
                *place = number.or(*place);
            }
            [Name::Id] if word.len() <= TEXT_BYTES_MAX => self.facts.id = word,
            _ => {}
        }
    }
}

/// Where usage is reported: OpenAI's and Anthropic's messages, Anthropic's first event, OpenAI's last, and MCP results.
fn is_place_of_usage(above: &[Name]) -> bool {
    matches!(above, [] | [Name::Message] | [Name::Response] | [Name::Result, Name::Meta])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(message: &str) -> Facts {
        let mut scanner = Scanner::default();
        let ends = message.bytes().map(|byte| scanner.feed(byte)).filter(|ends| *ends).count();
        assert!(ends <= 1, "{message}");
        scanner.message()
    }

    #[test]
    fn usage_is_found_where_models_report_it() {
        for (message, input, output) in [
            (r#"{"object":"x","usage":{"prompt_tokens":7,"completion_tokens":9,"total_tokens":16}}"#, 7, 9),
            (r#"{"type":"message","usage":{"input_tokens":7,"output_tokens":9}}"#, 7, 9),
            (r#"{"type":"message_start","message":{"usage":{"input_tokens":7,"output_tokens":9}}}"#, 7, 9),
            (r#"{"type":"x","response":{"usage":{"output_tokens": 9 , "input_tokens":7}}}"#, 7, 9),
            (r#"{"result":{"content":[],"_meta":{"usage":{"inputTokens":7,"outputTokens":9}}}}"#, 7, 9),
        ] {
            let expected = UsageTokens { input: Some(input), output: Some(output) };
            assert_eq!(scanned(message).usage, expected, "{message}");
        }
    }

    #[test]
    fn what_looks_like_usage_elsewhere_is_none() {
        for message in [
            r#"{"result":{"content":[{"usage":{"input_tokens":7}}]}}"#,
            r#"{"result":{"usage":{"input_tokens":7}}}"#,
            r#"{"text":"\"usage\":{\"input_tokens\":7}"}"#,
            r#"[{"usage":{"input_tokens":7}}]"#,
            r#""usage":{"input_tokens":7}"#,
            r#"{"usage":{"input_tokens":"7"}}"#,
            r#"{"usage":{"input_tokens":-7}}"#,
            r#"{"usage":{"input_tokens":{"input_tokens":7}}}"#,
            r#"{"usage":{"input_tokens":99999999999999999999}}"#,
            r#"{"usage":null}"#,
        ] {
            assert_eq!(scanned(message).usage, UsageTokens::default(), "{message}");
        }
    }

    #[test]
    fn ids_and_costs_are_read_as_they_are_written() {
        let facts = scanned(r#"{"id":"a\"\u0062","result":{"_meta":{"agentrelay/cost": 3}}}"#);
        assert_eq!((facts.id(), facts.cost), (Some(r#""a\"\u0062""#), Some(3)));
        let facts =
            scanned(r#"{"result":{"id":5,"_meta":{"agentrelay/cost":"3"},"content":[{"id":6}]},"id":-7}"#);
        assert_eq!((facts.id(), facts.cost), (Some("-7"), None));
        assert_eq!(scanned(&format!(r#"{{"id":"{}"}}"#, "x".repeat(5000))).id(), None);
    }
}
