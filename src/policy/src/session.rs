//! Session ids that are of use to their own tenant at their own service, and to nobody else.
//!
//! A server's id goes to the client with a mark behind it: an HMAC over tenant, service and id. Nothing is stored, so a
//! session goes on through every Envoy that has the secrets. Who may have them, and for how long, is the ledger's to say.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use protocol::Timestamp;
use protocol::session::SessionSecret;
use sha2::Sha256;

/// The header that names a session.
pub const HEADER: &str = "mcp-session-id";
/// The header that asks for what a stream has said since.
pub const RESUMES: &str = "last-event-id";
/// No base64url has it, so that the last one is the gate's own whatever the server's id looks like.
const SEPARATOR: char = '.';
/// Of the 32 bytes of the HMAC; RFC 2104 section 5 advises half of them at least.
const MARK_BYTES: usize = 16;

/// What the client gets in the place of the server's id. `None` for an id that no client could send back (MCP allows
/// what is visible in ASCII), and where there is no secret.
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
    // One that is yet to sign is not known to every Envoy.
    let signs = secrets.iter().rfind(|secret| secret.signs_from <= now).or(secrets.first())?;
    let mark = mac(signs, tenant, service, id)?.finalize().into_bytes();
    Some(format!("{id}{SEPARATOR}{}", URL_SAFE_NO_PAD.encode(mark.get(..MARK_BYTES)?)))
}

/// The server's id in what a client sent, if this gate gave it to this tenant at this service. Takes as long for a wrong
/// mark as for another.
pub fn verify<'i>(secrets: &[SessionSecret], tenant: &str, service: &str, id: &'i [u8]) -> Option<&'i str> {
    let (id, mark) = std::str::from_utf8(id).ok()?.rsplit_once(SEPARATOR)?;
    // This decoder takes one form of each mark, so no other text stands for the same session.
    let mark = URL_SAFE_NO_PAD.decode(mark).ok().filter(|mark| mark.len() == MARK_BYTES)?;
    let is_own =
        |secret| mac(secret, tenant, service, id).is_some_and(|mac| mac.verify_truncated_left(&mark).is_ok());
    secrets.iter().rev().any(is_own).then_some(id)
}

/// Each part with its length before it, so that nothing can be shifted from one into the next.
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
