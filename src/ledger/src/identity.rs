//! Who may call: api keys and issued keys, agents, credentials to the ledger, session secrets.

pub mod agents;
pub mod credentials;
pub mod issued;
pub mod keys;
mod records;
pub mod sessions;
