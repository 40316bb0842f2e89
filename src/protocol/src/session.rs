//! The secrets that bind session ids to their tenant and service.
//!
//! `policy::session` signs and verifies with them; the ledger decides when to create a new one.

use crate::Timestamp;
use crate::api_key::KeyHash;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One session secret. Only one secret signs at a time; all of them verify.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionSecret {
    secret: KeyHash,
    /// When the secret starts to sign, until a later one starts. Every filter has received the secret by this time.
    pub signs_from: Timestamp,
}

impl SessionSecret {
    /// Creates a secret from 32 unpredictable bytes.
    pub const fn new(secret: [u8; 32], signs_from: Timestamp) -> SessionSecret {
        SessionSecret { secret: KeyHash::from_bytes(secret), signs_from }
    }

    /// The 32 bytes.
    pub const fn bytes(&self) -> &[u8; 32] {
        self.secret.as_bytes()
    }
}

/// Omits the secret, so that no log shows it.
impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionSecret").field("signs_from", &self.signs_from).finish_non_exhaustive()
    }
}
