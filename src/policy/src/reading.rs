//! Prompts and resources: what is read from an MCP service without calling a tool.
//!
//! A policy that names none leaves them to whoever holds the scope of the risk `read_only`. One that names some hides
//! all others.

use crate::ordered;
use crate::rules::ScopeRule;

/// A prompt or resource, by the name that the client gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readable {
    /// A prompt by name.
    Prompt(String),
    /// A resource by URI.
    Resource(String),
}

/// Something in a list that a server gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed<'l> {
    /// A tool by name.
    Tool(&'l str),
    /// A prompt by name.
    Prompt(&'l str),
    /// A resource by URI.
    Resource(&'l str),
    /// A template of resources by its URI template.
    Template(&'l str),
}

impl<'l> Listed<'l> {
    /// What names it.
    pub fn name(self) -> &'l str {
        match self {
            Listed::Tool(name) | Listed::Prompt(name) | Listed::Resource(name) | Listed::Template(name) => {
                name
            }
        }
    }
}

/// What each name, or beginning of a name, needs. The longest comes first.
#[derive(Debug, Default)]
pub struct Names(Vec<(Pattern, ScopeRule)>);

#[derive(Debug, PartialEq, Eq)]
enum Pattern {
    Exactly(String),
    Beginning(String),
}

impl Names {
    /// Names as the policy writes them; one that ends in `*` stands for all that begin so.
    pub fn new(names: impl IntoIterator<Item = (String, ScopeRule)>) -> Names {
        let pattern = |name: String| match name.strip_suffix('*') {
            Some(beginning) => Pattern::Beginning(beginning.to_owned()),
            None => Pattern::Exactly(name),
        };
        let rank = |pattern: &Pattern| match pattern {
            Pattern::Exactly(_) => (0, 0),
            Pattern::Beginning(beginning) => (1, usize::MAX.saturating_sub(beginning.len())),
        };
        let mut ranked = Vec::new();
        for (name, rule) in names {
            ordered::insert(&mut ranked, (pattern(name), rule), |a, b| rank(&a.0).cmp(&rank(&b.0)));
        }
        Names(ranked)
    }

    /// What this name needs; `None` if the policy does not name it.
    pub fn rule(&self, name: &str) -> Option<&ScopeRule> {
        let is_named = |pattern: &Pattern| match pattern {
            Pattern::Exactly(own) => own == name,
            Pattern::Beginning(beginning) => {
                name.strip_prefix(beginning.as_str()).is_some_and(|rest| !leads_elsewhere(rest))
            }
        };
        self.0.iter().find(|(pattern, _)| is_named(pattern)).map(|(_, rule)| rule)
    }
}

/// A server that resolves dot segments would read something else than what begins so.
fn leads_elsewhere(rest: &str) -> bool {
    let lower = rest.to_ascii_lowercase();
    rest.split(['/', '\\']).any(|segment| segment == "..")
        || ["%2e", "%2f", "%5c"].iter().any(|escaped| lower.contains(escaped))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_name_decides_and_dots_lead_nowhere() {
        let rule = |scope: &str| ScopeRule { scopes: vec![scope.to_owned()], shadow: false };
        let names = ["docs://*", "docs://private/*", "docs://private/one"];
        let names = Names::new(names.map(|name| (name.to_owned(), rule(name))));
        for (name, expected) in [
            ("docs://a", Some("docs://*")),
            ("docs://a..b/c", Some("docs://*")),
            ("docs://private/two", Some("docs://private/*")),
            ("docs://private/one", Some("docs://private/one")),
            ("docs://{id}", Some("docs://*")),
            ("Docs://a", None),
            ("docs:/a", None),
            ("docs://a/../private/one", None),
            ("docs://a/%2E./b", None),
            ("docs://a\\..\\b", None),
            ("", None),
        ] {
            assert_eq!(names.rule(name).map(|rule| rule.scopes[0].as_str()), expected, "{name}");
        }
    }
}
