//! Reads JSON-RPC messages byte by byte, in constant memory, and finds the few facts that settle a call.
//!
//! It only reads what servers send, so it may be lenient with everything else in a message. But a failed call is refunded,
//! so what can be read in two ways is [`Verdict::Unclear`]. It keeps only its place in the message, and the text of names
//! and short values.

use crate::json;
use protocol::audit::UsageTokens;
use std::borrow::Cow;

/// The depth of the deepest fact, `result._meta.usage.input_tokens`.
const DEPTH_MAX: usize = 4;
/// The longest id of a request, see [`super::Message`], with each byte written as a six-byte escape.
const TEXT_BYTES_MAX: usize = 6 * 256;

/// Reads one message or an array of them.
#[derive(Debug, Default)]
pub struct Scanner {
    /// The state outside of messages: in an array of them, after the end of everything, and whether other text was found.
    in_array: bool,
    is_closed: bool,
    is_broken: bool,
    depth: usize,
    /// For each depth that matters: whether the container is an object.
    is_object: [bool; DEPTH_MAX],
    /// The last name at each depth.
    path: [Name; DEPTH_MAX],
    /// The next string is a name.
    wants_name: bool,
    string: Option<Text>,
    /// The literal being read: `true`, `false`, `null` or a number.
    word: Vec<u8>,
    facts: Facts,
}

/// What an answer says about the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verdict {
    /// A result without an error. A result that has begun counts, even if the client leaves before its end.
    Success,
    /// The only answer is a JSON-RPC error, or a result marked `isError`.
    Failure,
    /// The server asks for more input: the call is not over.
    Unfinished,
    /// The answer can be read as success or failure, or there is more than one answer.
    Unclear,
    /// The call was not answered.
    #[default]
    Nothing,
}

/// The facts of one message.
#[derive(Debug, Default, Clone)]
pub struct Facts {
    /// The JSON-RPC id as written; empty if there is none.
    id: Vec<u8>,
    /// A result has begun.
    pub has_result: bool,
    has_error: bool,
    has_method: bool,
    is_error: bool,
    is_unfinished: bool,
    /// One of these facts is given twice, or with a value of the wrong type.
    is_unclear: bool,
    /// The facts that were given, one bit each.
    given: u16,
    /// The cost of the call that the server reports in `result._meta`.
    pub cost: Option<u64>,
    /// The LLM tokens that the server reports.
    pub usage: UsageTokens,
}

impl Facts {
    /// The JSON-RPC id as written.
    pub fn id(&self) -> Option<&str> {
        std::str::from_utf8(&self.id).ok().filter(|id| !id.is_empty())
    }

    /// How the call that this message answers ended.
    pub fn verdict(&self) -> Verdict {
        let is_answer = self.has_result || self.has_error;
        if self.is_unclear || (self.has_method && is_answer) || (self.has_result && self.has_error) {
            Verdict::Unclear
        } else if self.has_method {
            // A request or notification from the server.
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

    fn mark_given(&mut self, path: &[Name]) {
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
    /// The text may be needed, so it is kept.
    is_kept: bool,
    bytes: Vec<u8>,
}

impl Text {
    /// The text with its escapes decoded.
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
    /// Reads a byte. Returns true if it ends a message, whose facts are then in [`Scanner::message`].
    pub fn feed(&mut self, byte: u8) -> bool {
        let Some(text) = &mut self.string else { return self.feed_structure(byte) };
        let ends = !text.escaped && byte == b'"';
        text.escaped = !text.escaped && byte == b'\\';
        if ends {
            self.end_string();
        } else if text.is_kept && text.bytes.len() <= TEXT_BYTES_MAX {
            text.bytes.push(byte);
        }
        false
    }

    /// The facts found so far in the message being read.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The facts of the message that has just ended.
    pub fn message(&mut self) -> Facts {
        std::mem::take(&mut self.facts)
    }

    /// True if everything has arrived and all of it was messages.
    pub fn is_whole(&self) -> bool {
        self.is_closed && !self.is_broken
    }

    fn feed_structure(&mut self, byte: u8) -> bool {
        if self.depth == 0 {
            self.outside_message(byte);
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

    /// Reads a byte between messages or before the first.
    fn outside_message(&mut self, byte: u8) {
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

    /// A value that is not a literal begins. If it is the answer's `result` or `error`, the answer has one now.
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
            self.facts.mark_given(path);
            let decide: &[&str] = match path {
                [_] => &["id", "result", "error", "method"],
                [Name::Result, _] => &["iserror", "resulttype"],
                _ => &[],
            };
            // A client that ignores case would read it as one of these names.
            self.facts.is_unclear |= is_other && !decide.is_empty() && decide.contains(&&*json::fold(name));
        }
    }

    fn end_word(&mut self) {
        let word = std::mem::take(&mut self.word);
        if word.is_empty() || word == b"null" {
            return;
        }
        // Usage counts only in a message. Here the array holds something else.
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

/// Where usage is reported: in OpenAI's and Anthropic's messages, Anthropic's first event, OpenAI's last, and MCP results.
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
    fn usage_in_other_places_is_ignored() {
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
