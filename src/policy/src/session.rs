//! Session ids that only their own tenant can use, and only at their own service.
//!
//! The client gets the server's id followed by a mark: an HMAC over tenant, service and id. Nothing is stored, so a session
//! continues through every Envoy that has the secrets. The ledger decides who gets the secrets, and for how long.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use protocol::Timestamp;
use protocol::session::SessionSecret;
use sha2::Sha256;

/// The header that names a session.
pub const HEADER: &str = "mcp-session-id";
/// The header that asks for the events of a stream since a given event.
pub const RESUMES: &str = "last-event-id";
/// This character is not in base64url, so the last one always separates the mark, whatever the server's id contains.
const SEPARATOR: char = '.';
/// The HMAC has 32 bytes; RFC 2104 section 5 advises to keep at least half of them.
const MARK_BYTES: usize = 16;

/// The id that the client gets instead of the server's. `None` if no client could send the server's id back (MCP allows
/// visible ASCII), or if there is no secret.
pub fn sign(
    secrets: &[SessionSecret],
    now: Timestamp,
    tenant: &str,
    service: &str,
    id: &[u8],
) -> Option<String> {
    if id.is_empty() || !id.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    let id = std::str::from_utf8(id).ok()?;
    // Not all Envoys have a secret before its `signs_from`.
    let signs = secrets.iter().rfind(|secret| secret.signs_from <= now).or(secrets.first())?;
    let mark = mac(signs, tenant, service, id)?.finalize().into_bytes();
    Some(format!("{id}{SEPARATOR}{}", URL_SAFE_NO_PAD.encode(mark.get(..MARK_BYTES)?)))
}

/// The server's id within the id that a client sent, if this gate gave it to this tenant at this service. The comparison
/// takes constant time, so it does not reveal how much of a wrong mark is right.
pub fn verify<'i>(secrets: &[SessionSecret], tenant: &str, service: &str, id: &'i [u8]) -> Option<&'i str> {
    let (id, mark) = std::str::from_utf8(id).ok()?.rsplit_once(SEPARATOR)?;
    // This decoder accepts only one form of each mark, so each session has only one valid id.
    let mark = URL_SAFE_NO_PAD.decode(mark).ok().filter(|mark| mark.len() == MARK_BYTES)?;
    let is_own =
        |secret| mac(secret, tenant, service, id).is_some_and(|mac| mac.verify_truncated_left(&mark).is_ok());
    secrets.iter().rev().any(is_own).then_some(id)
}

/// The length is written before each part, so that no part can run over into the next.
fn mac(secret: &SessionSecret, tenant: &str, service: &str, id: &str) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.bytes()).ok()?;
    for part in ["agentrelay session", tenant, service, id] {
        mac.update(&u64::try_from(part.len()).ok()?.to_be_bytes());
        mac.update(part.as_bytes());
    }
    Some(mac)
}

#[cfg(test)]
mod tests;
