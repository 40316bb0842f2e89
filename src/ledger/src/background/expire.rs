//! Expires reservations and leases, rotates session secrets and deletes old answers, through the queue of all writes.

use crate::identity::sessions::Rotate;
use crate::moment::{self, NoRandomness};
use crate::money::leases::ExpireLeases;
use crate::money::reservations::{Expire, ForgetOld};
use crate::policies::document::InForce;
use crate::store::Store;
use protocol::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

/// How often due reservations expire.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);
/// How often old answers to `Idempotency-Key`s are deleted and session secrets are checked.
const FORGET_EVERY_MILLIS: u64 = 600_000;

/// The operation that rotates session secrets if it is time.
pub fn rotation(policy: &InForce) -> Result<Rotate, NoRandomness> {
    let key_stale_seconds = policy.policy.key_stale_seconds;
    Ok(Rotate { seed: moment::new_seed()?, key_stale_seconds, now: moment::now() })
}

/// Runs until the ledger stops.
pub async fn run(
    store: Arc<Store>,
    policy: watch::Receiver<Arc<InForce>>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut ticks = interval(EXPIRE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut forgot_at = Timestamp::from_millis(0);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        // The store logs a failure of the database; the next tick tries again.
        while let Ok((_, true)) = store.run(Expire { now: moment::now() }).await {}
        while let Ok((_, true)) = store.run(ExpireLeases { now: moment::now() }).await {}
        let now = moment::now();
        if now.millis_since(forgot_at) >= FORGET_EVERY_MILLIS && store.run(ForgetOld { now }).await.is_ok() {
            forgot_at = now;
            let rotate = rotation(&policy.borrow());
            match rotate {
                Ok(rotate) => drop(store.run(rotate).await),
                Err(NoRandomness) => {
                    warn!("the operating system gives no randomness for a session secret; trying again")
                }
            }
        }
    }
}
