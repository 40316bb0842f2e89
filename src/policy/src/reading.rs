//! Prompts and resources: what clients read from an MCP service without a tool call.
//!
//! If a policy names none, any key with the scope of the risk `read_only` may read all of them. If it names some, all others
//! are hidden.

use crate::json;
use crate::ordered;
use crate::scope::ScopeRule;

/// A prompt or resource, with the name that the client uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readable {
    /// A prompt by name.
    Prompt(String),
    /// A resource by URI.
    Resource(String),
}

/// An item of a list from a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed<'l> {
    /// A tool by name.
    Tool(&'l str),
    /// A prompt by name.
    Prompt(&'l str),
    /// A resource by URI.
    Resource(&'l str),
    /// A resource template by its URI template.
    Template(&'l str),
}

impl<'l> Listed<'l> {
    /// The name or URI.
    pub fn name(self) -> &'l str {
        match self {
            Listed::Tool(name) | Listed::Prompt(name) | Listed::Resource(name) | Listed::Template(name) => {
                name
            }
        }
    }
}

/// The scopes for each name or prefix of names; the longest come first.
#[derive(Debug, Default)]
pub struct Names(Vec<Named>);

#[derive(Debug)]
struct Named {
    pattern: Pattern,
    /// The same pattern as the most lenient server reads it; see [`lenient`].
    lenient: Pattern,
    rule: ScopeRule,
}

#[derive(Debug, PartialEq, Eq)]
enum Pattern {
    Exactly(String),
    Beginning(String),
}

impl Names {
    /// The names as the policy writes them. A name that ends in `*` covers all names with that prefix.
    pub fn new(names: impl IntoIterator<Item = (String, ScopeRule)>) -> Names {
        let rank = |named: &Named| match &named.pattern {
            Pattern::Exactly(_) => (0, 0),
            Pattern::Beginning(beginning) => (1, usize::MAX.saturating_sub(beginning.len())),
        };
        let mut ranked = Vec::new();
        for (name, rule) in names {
            let (pattern, lenient) = match name.strip_suffix('*') {
                Some(own) => (Pattern::Beginning(own.to_owned()), Pattern::Beginning(lenient(own))),
                None => {
                    let lenient = lenient(&name).trim_end_matches('/').to_owned();
                    (Pattern::Exactly(name), Pattern::Exactly(lenient))
                }
            };
            ordered::insert(&mut ranked, Named { pattern, lenient, rule }, |a, b| rank(a).cmp(&rank(b)));
        }
        Names(ranked)
    }

    /// The scopes for the prompt of this name; `None` if the policy does not name it.
    pub fn prompt(&self, name: &str) -> Option<&ScopeRule> {
        Some(&self.0.iter().find(|named| named.pattern.covers(name))?.rule)
    }

    /// The scopes for the resource of this URI. `None` if the policy does not name it, or if some servers resolve the URI to one
    /// for which the policy has another rule.
    pub fn resource(&self, uri: &str) -> Option<&ScopeRule> {
        let own = self.0.iter().find(|named| named.pattern.covers(uri))?;
        let Pattern::Beginning(beginning) = &own.pattern else { return Some(&own.rule) };
        let is_own = |uri: &str| {
            let without_slash = uri.trim_end_matches('/');
            let covers = |named: &&Named| named.lenient.covers(uri) || named.lenient.covers(without_slash);
            let read = self.0.iter().find(covers);
            read.is_some_and(|read| read.lenient == own.lenient)
        };
        let whole = lenient(uri);
        // Without query and fragment, unless the policy itself uses these in names of resources.
        let path = match uri.split_once(['?', '#']) {
            Some((path, _)) if !beginning.contains(['?', '#']) => lenient(path),
            _ => whole.clone(),
        };
        let leads_up = whole.split('/').any(|segment| segment == "..");
        (!leads_up && is_own(&whole) && is_own(&path)).then_some(&own.rule)
    }
}

impl Pattern {
    fn covers(&self, name: &str) -> bool {
        match self {
            Pattern::Exactly(own) => own == name,
            Pattern::Beginning(beginning) => name.starts_with(beginning.as_str()),
        }
    }
}

/// True for characters that some parsers of URIs and paths remove: blanks, control characters and invisible characters.
pub(crate) fn is_blank(letter: char) -> bool {
    letter.is_whitespace()
        || letter.is_control()
        || matches!(letter, '\u{AD}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}')
}

/// True if some parsers would remove characters from the URI and so read another one.
pub(crate) fn has_blanks(uri: &str) -> bool {
    uri.chars().any(is_blank)
}

/// A URI or its prefix as the most lenient server resolves it: in lower case, without escapes and blanks, with each run of
/// slashes or backslashes as one slash, and without user and default port, which do not change the host.
fn lenient(uri: &str) -> String {
    // Escapes can be escaped again. No server decodes more rounds than this.
    const ROUNDS: usize = 4;
    let mut text = uri.to_owned();
    for _ in 0..ROUNDS {
        let Some(shorter) = unescaped(&text) else { break };
        text = shorter;
    }
    text.retain(|letter| !is_blank(letter));
    let text = json::fold(text.into());
    let (scheme, rest) = match text.split_once(':') {
        Some((scheme, rest)) if !scheme.contains(['/', '\\']) => (scheme, rest),
        _ => return text.into_owned(),
    };
    let mut read = format!("{scheme}:");
    let mut segments = rest.split(['/', '\\']).filter(|segment| !matches!(*segment, "" | "."));
    if let Some(authority) = segments.next() {
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let usual = match scheme {
            "http" | "ws" => ":80",
            "https" | "wss" => ":443",
            _ => ":",
        };
        read.push('/');
        read.push_str(host.strip_suffix(usual).unwrap_or(host));
    }
    segments.for_each(|segment| read.extend(["/", segment]));
    if rest.ends_with(['/', '\\']) {
        read.push('/');
    }
    read
}

/// The text with its percent escapes decoded. `None` if it has none.
fn unescaped(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    let mut is_changed = false;
    for part in parts {
        match part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                is_changed = true;
                bytes.push(byte);
                bytes.extend_from_slice(part.get(2..).unwrap_or_default().as_bytes());
            }
            None => bytes.extend([b"%", part.as_bytes()].concat()),
        }
    }
    is_changed.then(|| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Names {
        let rule = |scope: &str| ScopeRule { scopes: vec![scope.to_owned()], shadow: false };
        Names::new(names.iter().map(|name| ((*name).to_owned(), rule(name))))
    }

    #[test]
    fn the_most_specific_name_decides_and_dot_segments_are_refused() {
        let names =
            names(&["docs://*", "docs://private/*", "docs://private/one", "docs://README", "docs://q?x=*"]);
        for (name, expected) in [
            ("docs://a", Some("docs://*")),
            ("docs://A b", Some("docs://*")),
            ("docs://a..b/c", Some("docs://*")),
            ("docs://a%2Fb?x=1#y", Some("docs://*")),
            ("docs://README", Some("docs://README")),
            ("docs://q?x=1", Some("docs://q?x=*")),
            ("docs://private/two", Some("docs://private/*")),
            ("docs://private/one", Some("docs://private/one")),
            ("docs://{id}", Some("docs://*")),
            ("Docs://a", None),
            ("docs:/a", None),
            ("docs://a/../private/one", None),
            ("docs://a/%2E./b", None),
            ("docs://a\\..\\b", None),
            ("docs://a/%252e%252e/b", None),
            ("", None),
        ] {
            assert_eq!(names.resource(name).map(|rule| rule.scopes[0].as_str()), expected, "{name}");
        }
    }

    #[test]
    fn a_uri_that_a_server_resolves_to_a_more_specific_name_is_refused() {
        let named = names(&["docs://*", "docs://private/one", "https://*", "https://h/private/*"]);
        for uri in [
            "docs://pri\tvate/one",
            "docs://private/one ",
            "docs://\u{a0}private/one",
            "docs://pri\u{200b}vate/one",
            "docs://pri%09vate/one",
            "docs://PRIVATE/one",
            "docs://private/%6fne",
            "docs://private/%256fne",
            "docs://private%2Fone",
            "docs://private//one",
            "docs:///private/one",
            "docs://private/./one",
            "docs://private\\one",
            "docs://private/one/",
            "docs://private/one?x",
            "docs://private/one#x",
            "docs://user:password@private/one",
            "docs://private:/one",
            "docs://\u{ff50}rivate/one",
            "https://H/private/x",
            "https://h:443/private/x",
            "https://h\\private/x",
        ] {
            assert_eq!(named.resource(uri), None, "{uri}");
        }
        let all = names(&["*", "https://h/private/*"]);
        for uri in ["https:h/private/x", "https:/h/private/x", "HTTPS://h/private/x", "https:\\\\h/private/x"]
        {
            assert_eq!(all.resource(uri), None, "{uri}");
        }
        assert!(all.resource("https://h/public/x").is_some());
    }

    #[test]
    fn prompts_are_names_and_no_uris() {
        let names = names(&["team/*", "a/../b"]);
        for name in ["team/A b", "team/..", "a/../b"] {
            assert!(names.prompt(name).is_some(), "{name}");
        }
    }

    #[test]
    fn nested_escapes_take_bounded_work() {
        let uri = format!("docs://%{}", "25".repeat(500_000));
        assert!(names(&["docs://*"]).resource(&uri).is_some());
    }
}
