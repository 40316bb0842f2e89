//! The ids of requests in sessions that a server may still be working on, in shared data, so that all workers know them.
//!
//! Servers keep one map from request id to response stream for each session. If an id is used again before its first use
//! is answered, the answers may end on each other's streams, and an error then says nothing about the call on whose stream
//! it came. So an answer proves something only about a call that was alone with its id; see [`is_alone`].
//!
//! The number of values is fixed, and an owner has at most [`ENTRIES_MAX`] entries in one: more displace the oldest, and
//! until that would have been forgotten anyway no call of the owner is alone. An owner is a part of one tenant's sessions, so
//! nobody can do this to another tenant.
//!
//! Layout, little endian, entry after entry: owner u64, id u64, time of the last use u64, time until which an unanswered use
//! counts u64, uses in progress u16, and 1 if there was more than one use or 0.

use crate::value::{Corrupt, chunk};
use crate::window::Monotonic;
use sha2::{Digest, Sha256};

/// How long a server may work on a request whose client left.
pub const LEFT_MS: u64 = 15 * 60 * 1000;
/// How long a request can be in progress. It ends the entries of a worker that ended without removing them.
pub const OPEN_MS: u64 = 24 * 60 * 60 * 1000;
/// The most entries of one owner.
pub const ENTRIES_MAX: usize = 256;
const SLOTS: u64 = 4096;
/// A tenant's sessions are divided among this many owners.
const OWNERS_PER_TENANT: u8 = 16;
/// In place of an id: an entry was displaced.
const DISPLACED: u64 = 0;

/// The use of an id in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Whose entries it is among.
    pub owner: u64,
    /// Identifies the session and the id.
    pub id: u64,
}

/// A use that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Its id.
    pub id: u64,
    /// The gate saw an answer to it, so the server no longer works on it.
    pub is_answered: bool,
}

impl Use {
    /// The use of an id, by its meaning, in a session of a tenant.
    pub fn new(tenant: u64, session: &[u8], meaning: &str) -> Use {
        let part = session.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) % OWNERS_PER_TENANT;
        let mut hash = Sha256::new();
        for part in [&tenant.to_le_bytes(), session, b"\n", meaning.as_bytes()] {
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        Use {
            owner: tenant.wrapping_add(u64::from(part)),
            id: u64::from_le_bytes([a, b, c, d, e, f, g, h]).max(1),
        }
    }
}

/// The name of the value with an owner's entries. The first number in it is the version of the layout.
pub fn name(owner: u64) -> String {
    format!("agentrelay/ids/1/{}", owner % SLOTS)
}

/// The value after some uses have ended, and then others have begun.
pub fn change(
    value: &[u8],
    owner: u64,
    ended: &[Ended],
    begun: &[u64],
    now: Monotonic,
) -> Result<Vec<u8>, Corrupt> {
    let (mut own, others): (Vec<Entry>, Vec<Entry>) =
        read(value)?.into_iter().filter(|entry| entry.is_live(now)).partition(|entry| entry.owner == owner);
    for Ended { id, is_answered } in ended {
        if let Some(entry) = own.iter_mut().find(|entry| entry.id == *id) {
            entry.open = entry.open.saturating_sub(1);
            if !is_answered {
                entry.left(now);
            }
        } else if !is_answered {
            let mut entry = Entry::new(owner, *id, now);
            entry.left(now);
            push(&mut own, entry, now);
        }
        own.retain(|entry| entry.is_live(now));
    }
    for id in begun {
        if let Some(entry) = own.iter_mut().find(|entry| entry.id == *id) {
            entry.open = entry.open.saturating_add(1);
            entry.used_ms = now.0;
            entry.is_mingled = true;
        } else {
            push(&mut own, Entry { open: 1, ..Entry::new(owner, *id, now) }, now);
        }
    }
    let mut next = Vec::with_capacity(value.len().saturating_add(ENTRY_BYTES));
    others.iter().chain(&own).for_each(|entry| entry.write(&mut next));
    Ok(next)
}

/// True if no other request used the id while this one was in progress, nor one that may still have been unanswered then.
/// Asked before the use ends.
pub fn is_alone(value: &[u8], used: Use, now: Monotonic) -> bool {
    let Ok(entries) = read(value) else { return false };
    let mut own = entries.iter().filter(|entry| entry.owner == used.owner && entry.is_live(now));
    let is_known = own.clone().any(|entry| entry.id == used.id && entry.open == 1 && !entry.is_mingled);
    is_known && own.all(|entry| entry.id != DISPLACED)
}

const ENTRY_BYTES: usize = 35;

#[derive(Debug)]
struct Entry {
    owner: u64,
    id: u64,
    used_ms: u64,
    left_until_ms: u64,
    open: u16,
    is_mingled: bool,
}

impl Entry {
    fn new(owner: u64, id: u64, now: Monotonic) -> Entry {
        Entry { owner, id, used_ms: now.0, left_until_ms: 0, open: 0, is_mingled: false }
    }

    /// One of its uses ended without an answer.
    fn left(&mut self, now: Monotonic) {
        self.left_until_ms = self.left_until_ms.max(now.0.saturating_add(LEFT_MS));
        self.is_mingled = true;
    }

    fn is_live(&self, now: Monotonic) -> bool {
        self.left_until_ms > now.0 || (self.open > 0 && self.used_ms.saturating_add(OPEN_MS) > now.0)
    }

    fn write(&self, value: &mut Vec<u8>) {
        for number in [self.owner, self.id, self.used_ms, self.left_until_ms] {
            value.extend_from_slice(&number.to_le_bytes());
        }
        value.extend_from_slice(&self.open.to_le_bytes());
        value.push(u8::from(self.is_mingled));
    }
}

/// Adds an entry. If there are too many, it displaces the one that was left first, or else the one that was used first.
fn push(own: &mut Vec<Entry>, entry: Entry, now: Monotonic) {
    if own.len() >= ENTRIES_MAX {
        let displaceable = own.iter().enumerate().filter(|(_, entry)| entry.id != DISPLACED);
        let oldest = displaceable.min_by_key(|(_, entry)| (entry.open > 0, entry.used_ms));
        if let Some(place) = oldest.map(|(place, _)| place) {
            let oldest = own.swap_remove(place);
            let open_until_ms = if oldest.open > 0 { now.0.saturating_add(OPEN_MS) } else { 0 };
            let until_ms = oldest.left_until_ms.max(open_until_ms);
            match own.iter_mut().find(|entry| entry.id == DISPLACED) {
                Some(entry) => entry.left_until_ms = entry.left_until_ms.max(until_ms),
                None => {
                    own.push(Entry { left_until_ms: until_ms, ..Entry::new(entry.owner, DISPLACED, now) })
                }
            }
        }
    }
    own.push(entry);
}

fn read(mut value: &[u8]) -> Result<Vec<Entry>, Corrupt> {
    let mut entries = Vec::with_capacity(value.len() / ENTRY_BYTES);
    while !value.is_empty() {
        let mut number = || Ok(u64::from_le_bytes(chunk(&mut value)?));
        let (owner, id, used_ms, left_until_ms) = (number()?, number()?, number()?, number()?);
        let [low, high, mingled] = chunk(&mut value)?;
        let open = u16::from_le_bytes([low, high]);
        entries.push(Entry { owner, id, used_ms, left_until_ms, open, is_mingled: mingled != 0 });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests;
