//! Follows one JSON message, byte by byte, to the few facts that settle a call, in constant memory.
//!
//! It only reads what servers send, so it may be lenient: what is no sound JSON gives some facts or none, and never
//! anything worse. Nothing is kept but the path to where it is and the text of names and short values.

use super::answer::Verdict;
use protocol::audit::UsageTokens;

/// How deep the facts lie: `result._meta.usage.input_tokens`.
const DEPTH_MAX: usize = 4;
/// An id of a request is at most this long; see [`super::Message`]. Escapes make six bytes of one.
const ID_BYTES_MAX: usize = 6 * 256;
/// Longer than any name and any other value that is told from others.
const TEXT_BYTES_MAX: usize = 24;

/// Reads one message.
#[derive(Debug, Default)]
pub struct Scanner {
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
    is_whole: bool,
    facts: Facts,
}

/// What a message says.
#[derive(Debug, Default, Clone)]
struct Facts {
    has_result: bool,
    has_error: bool,
    has_method: bool,
    is_error: bool,
    is_unfinished: bool,
    id: Vec<u8>,
    cost: Option<u64>,
    usage: UsageTokens,
}

#[derive(Debug, Default)]
struct Text {
    escaped: bool,
    is_name: bool,
    /// It may be one that is told from others.
    is_kept: bool,
    bytes: Vec<u8>,
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
    fn of(text: &[u8]) -> Name {
        match text {
            b"id" => Name::Id,
            b"result" => Name::Result,
            b"error" => Name::Error,
            b"method" => Name::Method,
            b"isError" => Name::IsError,
            b"resultType" => Name::ResultType,
            b"_meta" => Name::Meta,
            b"agentrelay/cost" => Name::Cost,
            b"message" => Name::Message,
            b"response" => Name::Response,
            b"usage" => Name::Usage,
            b"input_tokens" | b"prompt_tokens" | b"inputTokens" => Name::InputTokens,
            b"output_tokens" | b"completion_tokens" | b"outputTokens" => Name::OutputTokens,
            _ => Name::Other,
        }
    }
}

impl Scanner {
    /// Takes what arrived.
    pub fn feed(&mut self, chunk: &[u8]) {
        for byte in chunk {
            match &mut self.string {
                Some(text) => {
                    let ends = !text.escaped && *byte == b'"';
                    text.escaped = !text.escaped && *byte == b'\\';
                    if ends {
                        self.end_string();
                    } else if text.is_kept && text.bytes.len() <= ID_BYTES_MAX {
                        text.bytes.push(*byte);
                    }
                }
                None => self.structure(*byte),
            }
        }
    }

    /// The message has come to its end.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// How the call ended, by what was seen so far.
    pub fn verdict(&self) -> Verdict {
        let facts = &self.facts;
        // A server's own request or notification has a method; it is no answer.
        if facts.has_method {
            Verdict::Nothing
        } else if facts.has_error {
            Verdict::ProtocolError
        } else if !facts.has_result {
            Verdict::Nothing
        } else if facts.is_error {
            Verdict::ToolError
        } else if facts.is_unfinished {
            Verdict::Unfinished
        } else {
            Verdict::Success
        }
    }

    /// The JSON-RPC id, as it was written.
    pub fn id(&self) -> Option<&str> {
        std::str::from_utf8(&self.facts.id).ok().filter(|id| !id.is_empty())
    }

    /// What the server says the call cost, in `result._meta`.
    pub fn cost(&self) -> Option<u64> {
        self.facts.cost
    }

    /// The LLM tokens that the message reports.
    pub fn usage(&self) -> UsageTokens {
        self.facts.usage
    }

    fn structure(&mut self, byte: u8) {
        match byte {
            b'"' => {
                self.value_begins();
                let is_name = self.wants_name && self.depth <= DEPTH_MAX;
                let is_kept = is_name || matches!(self.path(), [Name::Id] | [Name::Result, Name::ResultType]);
                self.string = Some(Text { is_name, is_kept, ..Text::default() });
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
                self.is_whole |= self.depth == 0;
            }
            b',' => {
                self.end_word();
                self.wants_name = self.in_object();
            }
            b':' => self.wants_name = false,
            byte if byte.is_ascii_whitespace() => self.end_word(),
            byte => {
                self.value_begins();
                if self.word.len() <= ID_BYTES_MAX {
                    self.word.push(byte);
                }
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

    /// A value begins: if it is the answer's `result` or `error`, that is there now.
    fn value_begins(&mut self) {
        if self.wants_name {
            return;
        }
        match self.path() {
            [Name::Result] => self.facts.has_result = true,
            [Name::Error] => self.facts.has_error = true,
            [Name::Method] => self.facts.has_method = true,
            _ => {}
        }
    }

    fn end_string(&mut self) {
        let Some(text) = self.string.take() else { return };
        if text.is_name {
            let name = Name::of(text.bytes.get(..TEXT_BYTES_MAX).unwrap_or(&text.bytes));
            let index = self.depth.checked_sub(1);
            if let Some(place) = index.and_then(|index| self.path.get_mut(index)) {
                *place = name;
            }
            return;
        }
        match self.path() {
            [Name::Result, Name::ResultType] => {
                self.facts.is_unfinished = text.bytes == b"input_required";
            }
            [Name::Id] if text.bytes.len() <= ID_BYTES_MAX => {
                self.facts.id = [b"\"", text.bytes.as_slice(), b"\""].concat();
            }
            _ => {}
        }
    }

    fn end_word(&mut self) {
        if self.word.is_empty() {
            return;
        }
        let word = std::mem::take(&mut self.word);
        let number = || std::str::from_utf8(&word).ok().and_then(|digits| digits.parse::<u64>().ok());
        match self.path() {
            [Name::Result, Name::IsError] if word == b"true" => self.facts.is_error = true,
            [Name::Result, Name::Meta, Name::Cost] => self.facts.cost = number(),
            [above @ .., Name::Usage, name] if is_place_of_usage(above) => {
                let number = number();
                let place = match name {
                    Name::InputTokens => &mut self.facts.usage.input,
                    Name::OutputTokens => &mut self.facts.usage.output,
                    _ => return,
                };
                *place = number.or(*place);
            }
            [Name::Id] if word.len() <= ID_BYTES_MAX => self.facts.id = word,
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

    fn scanned(message: &str) -> Scanner {
        let mut scanner = Scanner::default();
        scanner.feed(message.as_bytes());
        scanner
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
            assert_eq!(scanned(message).usage(), expected, "{message}");
        }
    }

    #[test]
    fn what_looks_like_usage_elsewhere_is_none() {
        for message in [
            r#"{"result":{"content":[{"usage":{"input_tokens":7}}]}}"#,
            r#"{"result":{"usage":{"input_tokens":7}}}"#,
            r#"{"text":"\"usage\":{\"input_tokens\":7}"}"#,
            r#"[{"usage":{"input_tokens":7}}]"#,
            r#"{"usage":{"input_tokens":"7"}}"#,
            r#"{"usage":{"input_tokens":-7}}"#,
            r#"{"usage":{"input_tokens":{"input_tokens":7}}}"#,
            r#"{"usage":{"input_tokens":99999999999999999999}}"#,
            r#"{"usage":null}"#,
        ] {
            assert_eq!(scanned(message).usage(), UsageTokens::default(), "{message}");
        }
    }

    #[test]
    fn ids_and_costs_are_read_as_they_are_written() {
        let scanner = scanned(r#"{"id":"a\"\u0062","result":{"_meta":{"agentrelay/cost": 3}}}"#);
        assert_eq!((scanner.id(), scanner.cost()), (Some(r#""a\"\u0062""#), Some(3)));
        let scanner =
            scanned(r#"{"result":{"id":5,"_meta":{"agentrelay/cost":"3"},"content":[{"id":6}]},"id":-7}"#);
        assert_eq!((scanner.id(), scanner.cost()), (Some("-7"), None));
        assert_eq!(scanned(&format!(r#"{{"id":"{}"}}"#, "x".repeat(5000))).id(), None);
    }
}
