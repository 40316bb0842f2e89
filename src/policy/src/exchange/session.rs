//! The session of an exchange: requests get the server's id in place of the client's, responses the reverse.

use super::classify::Classified;
use super::refusal::Refusal;
use super::{Exchange, Fields, Now, ServiceKind};
use crate::credential::{self, Headers};
use crate::mcp;
use crate::session::{self, HEADER, RESUMES};

/// What a request says about its session.
#[derive(Debug, Clone)]
pub(super) enum Session {
    /// It names no session, or its service has none.
    None,
    /// It belongs to this session; the id is the server's own.
    Own(String),
    /// It names a session that this gate did not give to this tenant at this service, or one too old to verify.
    Unknown,
    /// Like `Unknown`, in a protocol version without sessions: MCP requires the id to be ignored.
    Ignored,
}

impl Session {
    /// The header that replaces the client's session id with the server's.
    pub(super) fn header_to_set(&self) -> Option<(&'static str, &str)> {
        if let Session::Own(id) = self { Some((HEADER, id)) } else { None }
    }

    /// The header to remove if the server could take its id for another tenant's session.
    pub(super) fn header_to_remove(&self) -> Option<&'static str> {
        matches!(self, Session::Ignored).then_some(HEADER)
    }
}

impl Exchange {
    /// Reads the session from the headers, once the key is known.
    pub(super) fn find_session(&self) -> Session {
        let Some((tenant, service)) = self.parties() else { return Session::None };
        let Some(id) = self.request.kept(HEADER) else { return Session::None };
        match session::verify(&self.policy.session_secrets, tenant, service, id) {
            Some(own) => Session::Own(own.to_owned()),
            None if self.request.kept("mcp-protocol-version").is_some_and(mcp::is_modern) => Session::Ignored,
            None => Session::Unknown,
        }
    }

    /// The session of the request, by the server's own id.
    pub(super) fn session(&self) -> Option<&[u8]> {
        if let Session::Own(id) = &self.session { Some(id.as_bytes()) } else { None }
    }

    /// The tenant and the service, if the service can have sessions.
    fn parties(&self) -> Option<(&str, &str)> {
        let service = self.rules().filter(|service| matches!(service.kind, ServiceKind::Mcp(_)))?;
        Some((self.key.as_ref()?.record.tenant_id.as_str(), &service.name))
    }

    /// The error in how the request names its session, if there is one.
    pub(super) fn session_fault(&self) -> Option<&'static str> {
        let request = &self.request;
        if request.kept.iter().filter(|(name, _)| *name == HEADER).count() > 1
            || request.has_session_lookalike
        {
            // Servers differ in which of the values they read.
            return Some(
                "`Mcp-Session-Id` was sent twice, or it or `Last-Event-ID` under another spelling; send each once",
            );
        }
        // Servers without sessions keep the events of all clients in one store, so an event id alone would give access to them.
        let is_unbound = request.method == b"GET" && matches!(self.session, Session::None | Session::Ignored);
        (is_unbound && request.kept(RESUMES).is_some())
            .then_some("`Last-Event-ID` resumes a stream only within its session; send `Mcp-Session-Id` too")
    }

    /// A well-formed request to a session that is not the key's is refused like one to a session that has ended.
    pub(super) fn within_session<'p>(&self, classified: Classified<'p>) -> Classified<'p> {
        let is_malformed_request = classified.refusal.as_ref().is_some_and(Refusal::is_malformed_request);
        match self.session {
            Session::Unknown if !is_malformed_request => {
                Classified { refusal: Some(Refusal::unknown_session()), ..classified }
            }
            _ => classified,
        }
    }

    /// Signs the session id that the server names, so that only its tenant can use it.
    pub(super) fn sign_session(&self, headers: &Headers<'_>, set: &mut Fields, now: Now) {
        let Some(id) = credential::all(headers, HEADER).next().filter(|_| self.is_forwarded()) else {
            return;
        };
        let Some((tenant, service)) = self.parties() else { return };
        let signed = session::sign(&self.policy.session_secrets, now.wall, tenant, service, id);
        set.push(HEADER, &signed.unwrap_or_default());
    }
}
