//! The crate's only source of time and randomness.

use protocol::api_key::{Kind, mint};
use protocol::{InvalidId, Timestamp};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::time::{SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// The current time.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A new id: a prefix and a UUIDv7, so that later ids are greater.
pub fn new_id<Id>(prefix: &str, parse: fn(&str) -> Result<Id, InvalidId>) -> Result<Id, InvalidId> {
    parse(&new_name(prefix))
}

/// The same as text.
pub fn new_name(prefix: &str) -> String {
    format!("{prefix}{}", Uuid::now_v7().simple())
}

/// The operating system gives no randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRandomness;

/// A new secret of this kind, from a generator that the operating system seeds for it.
pub fn new_secret(kind: Kind) -> Result<String, NoRandomness> {
    let mut random = StdRng::try_from_os_rng().map_err(|_| NoRandomness)?;
    Ok(mint(kind, || random.random()))
}

/// 32 random bytes.
pub fn new_seed() -> Result<[u8; 32], NoRandomness> {
    let mut random = StdRng::try_from_os_rng().map_err(|_| NoRandomness)?;
    Ok(random.random())
}
