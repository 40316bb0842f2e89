//! The parts of a request's headers that decisions need, and the header names that could mislead a server.

use super::refusal::Refusal;
use crate::credential::{Carrier, Credentials, Headers};
use crate::session;

/// The method, target and headers of a request that decide anything.
#[derive(Debug, Clone, Default)]
pub(super) struct Request {
    pub(super) method: Vec<u8>,
    pub(super) target: Vec<u8>,
    pub(super) host: Vec<u8>,
    pub(super) is_upgrade: bool,
    pub(super) ends_with_headers: bool,
    /// A header name is a lookalike of one of the session headers.
    pub(super) has_session_lookalike: bool,
    /// The headers that are needed to classify a body.
    pub(super) kept: Vec<(&'static str, Vec<u8>)>,
}

/// What a header is used for.
#[derive(Clone, Copy)]
enum Use {
    Method,
    Target,
    Host,
    Upgrade,
    Credential(Carrier),
    Kept,
    /// Envoy itself interprets these. The gate only removes names that some servers read as one of them.
    Framing,
    /// Some servers let a client cut off the beginning of the path with these.
    Override,
}

static USED: [(&str, Use); 18] = [
    (":method", Use::Method),
    (":path", Use::Target),
    (":authority", Use::Host),
    ("authorization", Use::Credential(Carrier::Authorization)),
    ("x-api-key", Use::Credential(Carrier::ApiKeyHeader)),
    ("content-type", Use::Kept),
    ("content-encoding", Use::Kept),
    ("mcp-protocol-version", Use::Kept),
    ("mcp-method", Use::Kept),
    ("mcp-name", Use::Kept),
    (session::HEADER, Use::Kept),
    (session::RESUMES, Use::Kept),
    ("upgrade", Use::Upgrade),
    ("content-length", Use::Framing),
    ("transfer-encoding", Use::Framing),
    // These hold the part of the path in front of the application, which gunicorn and WSGI middleware cut off.
    ("x-script-name", Use::Override),
    ("script-name", Use::Override),
    ("path-info", Use::Override),
];

/// With these, some servers let a client replace the host that the gate decided on.
pub(super) const HOST_OVERRIDES: [&str; 5] =
    ["forwarded", "x-forwarded-host", "x-forwarded-server", "x-original-host", "x-host"];

/// The use of a header with this name, or with a name that some servers read as the same.
fn use_of(name: &[u8]) -> Option<(&'static str, Use)> {
    USED.iter().copied().find(|(own, _)| own.len() == name.len() && is_lookalike(name, own))
}

/// True if some servers read a name, or its beginning, as the other. Servers that turn headers into variables (CGI, WSGI,
/// PHP) write every character other than a letter or digit as `_`.
fn is_lookalike(name: &[u8], own: &str) -> bool {
    let is_same = |(byte, own): (&u8, u8)| {
        byte.to_ascii_lowercase() == own || (own == b'-' && !byte.is_ascii_alphanumeric())
    };
    name.iter().zip(own.bytes()).all(is_same)
}

/// True for headers that must not go upstream: those that only the gate may set, those with which a client could replace
/// what the gate decided on, and those that a server could confuse with a header that the gate checked.
pub fn is_reserved_header(name: &[u8]) -> bool {
    // All reserved names have several words.
    if name.iter().all(u8::is_ascii_alphanumeric) {
        return false;
    }
    is_gate_header(name)
        || is_override(name)
        || (is_host_override(name) && !HOST_OVERRIDES.iter().any(|own| own.as_bytes() == name))
        || use_of(name).is_some_and(|(own, used)| matches!(used, Use::Override) || name != own.as_bytes())
}

/// Like [`is_reserved_header`], for trailers. These may hold nothing that decides, because some servers read them as headers.
pub fn is_reserved_trailer(name: &[u8]) -> bool {
    is_gate_header(name) || is_override(name) || is_host_override(name) || use_of(name).is_some()
}

fn is_host_override(name: &[u8]) -> bool {
    HOST_OVERRIDES.iter().any(|own| own.len() == name.len() && is_lookalike(name, own))
}

/// With these, some servers let a client replace the method or path that the gate decided on. Each word of such a name says
/// what is replaced or qualifies it, as in `x-http-method-override` and `x-original-url`.
fn is_override(name: &[u8]) -> bool {
    const PARTS: [&str; 4] = ["method", "path", "uri", "url"];
    const QUALIFIERS: [&str; 10] = [
        "forwarded",
        "http",
        "original",
        "override",
        "real",
        "replaced",
        "request",
        "rewrite",
        "unencoded",
        "waws",
    ];
    let mut words = name
        .split(|byte| !byte.is_ascii_alphanumeric())
        .skip_while(|word| matches!(*word, b"" | b"x" | b"X"));
    let (mut has_part, mut has_qualifier) = (false, false);
    let is_known = words.all(|word| {
        let is_among = |names: &[&str]| names.iter().any(|own| word.eq_ignore_ascii_case(own.as_bytes()));
        let (is_part, is_qualifier) = (is_among(&PARTS), is_among(&QUALIFIERS));
        has_part |= is_part;
        has_qualifier |= is_qualifier;
        is_part || is_qualifier
    });
    is_known && has_part && has_qualifier
}

fn is_gate_header(name: &[u8]) -> bool {
    const PREFIX: &str = "x-agentrelay-";
    name.len() >= PREFIX.len() && is_lookalike(name, PREFIX)
}

impl Request {
    /// Reads each header once. `ends` means that no body follows.
    pub(super) fn read<'h>(headers: &Headers<'h>, ends: bool) -> (Request, Credentials<'h>) {
        let mut request = Request { ends_with_headers: ends, ..Request::default() };
        let mut credentials = Credentials::default();
        for (name, value) in headers {
            let Some((own, used)) = use_of(name) else { continue };
            let is_exact = *name == own.as_bytes();
            match used {
                // A lookalike of a credential header counts as an additional one.
                Use::Credential(_) if !is_exact => credentials.add_lookalike(),
                _ if !is_exact => {
                    request.has_session_lookalike |= matches!(own, session::HEADER | session::RESUMES)
                }
                Use::Method => request.method = value.to_vec(),
                Use::Target => request.target = value.to_vec(),
                Use::Host => request.host = value.to_vec(),
                Use::Upgrade => request.is_upgrade = true,
                Use::Credential(carrier) => credentials.add(carrier, value),
                Use::Kept => request.kept.push((own, value.to_vec())),
                Use::Framing | Use::Override => {}
            }
        }
        request.is_upgrade |= request.method == b"CONNECT";
        (request, credentials)
    }

    /// The target without its query.
    pub(super) fn path(&self) -> &[u8] {
        self.target.split(|byte| *byte == b'?').next().unwrap_or_default()
    }

    /// The first value of a header in `kept`.
    pub(super) fn kept(&self, name: &str) -> Option<&[u8]> {
        self.kept.iter().find(|(own, _)| *own == name).map(|(_, value)| value.as_slice())
    }

    /// Refuses a message that a server could decode to other characters, or not read as JSON.
    pub(super) fn encoding_fault(&self) -> Option<Refusal> {
        let mut types = self.all_kept("content-type");
        let mut codings = self.all_kept("content-encoding");
        let detail = if !types.next().is_some_and(is_plain_json) || types.next().is_some() {
            "send exactly one `content-type`: `application/json` or `application/json; charset=utf-8`"
        } else if codings.next().is_some_and(|coding| coding != b"identity") || codings.next().is_some() {
            "send the body without content-encoding"
        } else {
            return None;
        };
        Some(Refusal::invalid_request(detail))
    }

    fn all_kept(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.kept.iter().filter(move |(own, _)| *own == name).map(|(_, value)| value.as_slice())
    }
}

/// True if every server reads the media type as JSON: alone or with `; charset=utf-8`, in any case.
fn is_plain_json(value: &[u8]) -> bool {
    const JSON: &str = "application/json";
    let value = String::from_utf8_lossy(value).to_ascii_lowercase();
    match value.split_once(';') {
        None => value == JSON,
        Some((kind, parameter)) => kind == JSON && parameter.trim_start_matches(' ') == "charset=utf-8",
    }
}
