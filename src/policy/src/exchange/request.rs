//! What is kept of a request's head. The rest stays with Envoy.

use crate::credential::{Carrier, Headers, Sent};

/// The head of a request, as far as it decides anything.
#[derive(Debug, Clone, Default)]
pub(super) struct Request {
    pub(super) method: Vec<u8>,
    pub(super) target: Vec<u8>,
    pub(super) host: Vec<u8>,
    pub(super) is_upgrade: bool,
    pub(super) ends_with_headers: bool,
    /// The headers that it has by which some servers let a client replace the method or path that was decided upon.
    pub(super) overrides: Vec<&'static str>,
    /// The headers that classifying a body needs.
    pub(super) kept: Vec<(&'static str, Vec<u8>)>,
}

/// What a header is looked at for.
#[derive(Clone, Copy)]
enum Use {
    Method,
    Target,
    Host,
    Upgrade,
    Credential(Carrier),
    Override,
    Kept,
}

const USED: [(&str, Use); 18] = [
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
    ("mcp-session-id", Use::Kept),
    ("last-event-id", Use::Kept),
    ("upgrade", Use::Upgrade),
    ("x-http-method-override", Use::Override),
    ("x-http-method", Use::Override),
    ("x-method-override", Use::Override),
    ("x-original-url", Use::Override),
    ("x-rewrite-url", Use::Override),
];

impl Request {
    /// Looks at each header once. `ends` says that nothing follows them.
    pub(super) fn read<'h>(headers: &Headers<'h>, ends: bool) -> (Request, Sent<'h>) {
        let mut request = Request { ends_with_headers: ends, ..Request::default() };
        let mut credentials = Sent::default();
        for (name, value) in headers {
            let used = USED.iter().find(|(own, _)| own.len() == name.len() && own.as_bytes() == *name);
            let Some((name, used)) = used else { continue };
            match used {
                Use::Method => request.method = value.to_vec(),
                Use::Target => request.target = value.to_vec(),
                Use::Host => request.host = value.to_vec(),
                Use::Upgrade => request.is_upgrade = true,
                Use::Credential(carrier) => credentials.add(*carrier, value),
                Use::Override => request.overrides.push(name),
                Use::Kept => request.kept.push((name, value.to_vec())),
            }
        }
        request.is_upgrade |= request.method == b"CONNECT";
        (request, credentials)
    }

    /// The target without its query.
    pub(super) fn path(&self) -> &[u8] {
        self.target.split(|byte| *byte == b'?').next().unwrap_or_default()
    }

    /// The first value of a header that is kept.
    pub(super) fn kept(&self, name: &str) -> Option<&[u8]> {
        self.kept.iter().find(|(own, _)| *own == name).map(|(_, value)| value.as_slice())
    }
}
