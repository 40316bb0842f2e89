//! The secrets by which session ids are bound to their tenant and service.
//!
//! What is done with them is `policy::session`'s, when there is a new one is the ledger's.

use crate::Timestamp;
use crate::api_key::KeyHash;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One of them. All that there are verify; one signs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionSecret {
    secret: KeyHash,
    /// It signs from then on, until a later one does. By then every filter has it.
    pub signs_from: Timestamp,
}

impl SessionSecret {
    /// From 32 bytes that nobody can guess.
    pub const fn new(secret: [u8; 32], signs_from: Timestamp) -> SessionSecret {
        SessionSecret { secret: KeyHash::from_bytes(secret), signs_from }
    }

    /// The 32 bytes.
    pub const fn bytes(&self) -> &[u8; 32] {
        self.secret.as_bytes()
    }
}

/// Without the secret.
impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionSecret").field("signs_from", &self.signs_from).finish_non_exhaustive()
    }
}
