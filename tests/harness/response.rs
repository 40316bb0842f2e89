//! Responses, and the checks that most tests make.

use serde_json::Value;
use std::fmt;

/// One response.
#[derive(Clone)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// Header names in lowercase, with duplicates, in order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body as far as it arrived.
    pub body: Vec<u8>,
    /// Trailers.
    pub trailers: Vec<(String, Vec<u8>)>,
    /// False if the connection broke before the body's end.
    pub is_complete: bool,
    /// Statuses of 1xx responses before this one.
    pub informational: Vec<u16>,
    /// The marker of the request, by which the upstream finds it.
    pub marker: String,
}

/// The older rate headers, which name the limit that refuses first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Permits of the window.
    pub limit: u64,
    /// Permits left.
    pub remaining: u64,
    /// Seconds until there is one more.
    pub reset_seconds: u64,
}

/// For failure messages.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_BYTES: usize = 1000;
        writeln!(f, "{} {}", self.status, if self.is_complete { "" } else { "(broken off)" })?;
        for (name, value) in self.headers.iter().chain(&self.trailers) {
            writeln!(f, "  {name}: {}", String::from_utf8_lossy(value))?;
        }
        let body = &self.body[..self.body.len().min(SHOWN_BYTES)];
        write!(f, "  {} ({} bytes)", String::from_utf8_lossy(body), self.body.len())
    }
}

impl Response {
    /// The value of a header that may occur at most once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(own, _)| own == name);
        let value = values.next().map(|(_, value)| std::str::from_utf8(value).expect("the header is text"));
        assert!(values.next().is_none(), "{name} is there more than once: {self:?}");
        value
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// A JSON-RPC answer's error code.
    pub fn code(&self) -> Option<i64> {
        self.json().pointer("/error/code").and_then(Value::as_i64)
    }

    /// The reason of the gate's refusal, in any form of refusal.
    pub fn reason(&self) -> Option<String> {
        let json = self.json();
        let problem = json.get("type").and_then(Value::as_str);
        let reason = json.pointer("/error/data/reason").and_then(Value::as_str);
        let of_problem = problem.and_then(|kind| kind.strip_prefix("urn:agentrelay:problem:"));
        reason.or(of_problem).map(str::to_owned)
    }

    /// Seconds of `Retry-After`.
    pub fn retry_after(&self) -> u64 {
        let value = self.header("retry-after").unwrap_or_else(|| panic!("no Retry-After: {self:?}"));
        value.parse().expect("Retry-After is in seconds")
    }

    /// The rate headers of both kinds, which must exist and be well formed.
    pub fn rate(&self) -> Rate {
        let number = |name: &str| {
            let value = self.header(name).unwrap_or_else(|| panic!("no {name}: {self:?}"));
            value.parse::<u64>().unwrap_or_else(|_| panic!("{name} is no number: {value}"))
        };
        let policies =
            items(self.header("ratelimit-policy").unwrap_or_else(|| panic!("no RateLimit-Policy: {self:?}")));
        let states = items(self.header("ratelimit").unwrap_or_else(|| panic!("no RateLimit: {self:?}")));
        let names =
            |items: &[(String, String)]| items.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&policies), names(&states), "each policy has its state: {self:?}");
        for (_, parameters) in &policies {
            assert!(parameters.contains("q=") && parameters.contains("w="), "a policy has q and w: {self:?}");
        }
        for (_, parameters) in &states {
            assert!(parameters.contains("r=") && parameters.contains("t="), "a state has r and t: {self:?}");
        }
        Rate {
            limit: number("x-ratelimit-limit"),
            remaining: number("x-ratelimit-remaining"),
            reset_seconds: number("x-ratelimit-reset"),
        }
    }

    /// Asserts a refusal: its status, its reason, and the rate headers that every response has.
    #[track_caller]
    pub fn assert_refused(&self, status: u16, reason: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.reason().as_deref(), Some(reason), "{}", self.text());
        self.rate();
        if matches!(status, 429 | 503) {
            assert!(self.retry_after() >= 1, "{self:?}");
        }
    }

    /// Asserts a successful tool result.
    #[track_caller]
    pub fn assert_allowed(&self) {
        assert_eq!(self.status, 200, "{self:?}");
        self.rate();
    }
}

/// The members of a structured field list: names and their parameters.
fn items(list: &str) -> Vec<(String, String)> {
    list.split(", ")
        .map(|item| {
            let (name, parameters) =
                item.split_once(';').unwrap_or_else(|| panic!("{list} has no parameters"));
            assert!(name.starts_with('"') && name.ends_with('"'), "{list}: a name is a string");
            (name.to_owned(), parameters.to_owned())
        })
        .collect()
}
