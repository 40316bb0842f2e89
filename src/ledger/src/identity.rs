//! Who may ask: api keys and keys that keys asked for, agents, credentials to the ledger, secrets of sessions.

pub mod agents;
pub mod credentials;
pub mod issued;
pub mod keys;
mod records;
pub mod sessions;
