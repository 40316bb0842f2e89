//! The session of an exchange: the client's id for the server's on the way up, the other way on the way back.

use super::classify::Classified;
use super::refusal::Refusal;
use super::{Exchange, Fields, Now, ServiceKind};
use crate::credential::{self, Headers};
use crate::mcp;
use crate::session::{self, HEADER, RESUMES};

/// What a request says of a session.
#[derive(Debug, Clone)]
pub(super) enum Session {
    /// Nothing, or its service has none.
    None,
    /// It is in this one, by the server's own id.
    Own(String),
    /// It is in one that this gate did not give to its tenant at its service, or so long ago that nobody knows.
    Unknown,
    /// The same, in a protocol version that has no sessions: MCP wants the id to be ignored.
    Ignored,
}

impl Session {
    /// What the server gets in the place of the client's id.
    pub(super) fn header_to_set(&self) -> Option<(&'static str, &str)> {
        if let Session::Own(id) = self { Some((HEADER, id)) } else { None }
    }

    /// An id that the server may take for another's does not reach it.
    pub(super) fn header_to_remove(&self) -> Option<&'static str> {
        matches!(self, Session::Ignored).then_some(HEADER)
    }
}

impl Exchange {
    /// Reads the session from the head, once the key is known.
    pub(super) fn find_session(&self) -> Session {
        let Some((tenant, service)) = self.parties() else { return Session::None };
        let Some(id) = self.request.kept(HEADER) else { return Session::None };
        match session::verify(&self.policy.session_secrets, tenant, service, id) {
            Some(own) => Session::Own(own.to_owned()),
            None if self.request.kept("mcp-protocol-version").is_some_and(mcp::is_modern) => Session::Ignored,
            None => Session::Unknown,
        }
    }

    /// The session that the request is in, by the server's own id.
    pub(super) fn session(&self) -> Option<&[u8]> {
        if let Session::Own(id) = &self.session { Some(id.as_bytes()) } else { None }
    }

    /// Tenant and service of what may have sessions.
    fn parties(&self) -> Option<(&str, &str)> {
        let service = self.rules().filter(|service| matches!(service.kind, ServiceKind::Mcp(_)))?;
        Some((self.key.as_ref()?.record.tenant_id.as_str(), &service.name))
    }

    /// What is wrong with how the request names its session.
    pub(super) fn session_fault(&self) -> Option<&'static str> {
        let request = &self.request;
        if request.kept.iter().filter(|(name, _)| *name == HEADER).count() > 1 || request.has_respelt {
            // One server reads the one, and another the other.
            return Some("`Mcp-Session-Id` is given twice, or this or `Last-Event-ID` in another spelling");
        }
        // Servers without sessions keep the events of all their clients in one store, where an id is all that one needs.
        let is_unbound = request.method == b"GET" && matches!(self.session, Session::None | Session::Ignored);
        (is_unbound && request.kept(RESUMES).is_some())
            .then_some("a stream is resumed by `Last-Event-ID` within its session; send `Mcp-Session-Id` too")
    }

    /// What is right in itself, and sent to a session that is not the key's, is refused as to one that is gone.
    pub(super) fn within_session<'p>(&self, classified: Classified<'p>) -> Classified<'p> {
        let is_of_form = classified.refusal.as_ref().is_some_and(Refusal::is_of_form);
        match self.session {
            Session::Unknown if !is_of_form => {
                Classified { refusal: Some(Refusal::unknown_session()), ..classified }
            }
            _ => classified,
        }
    }

    /// The id of a session that the server names, as only its tenant can use it.
    pub(super) fn sign_session(&self, headers: &Headers<'_>, set: &mut Fields, now: Now) {
        let Some(id) = credential::all(headers, HEADER).next().filter(|_| self.is_forwarded()) else {
            return;
        };
        let Some((tenant, service)) = self.parties() else { return };
        let signed = session::sign(&self.policy.session_secrets, now.wall, tenant, service, id);
        set.push(HEADER, &signed.unwrap_or_default());
    }
}
