//! Seals the audit trail. Rows are read and hashed outside the writer; only the finished checkpoint, one small row, goes
//! through its queue.

use crate::audit::chain::{self, BATCH_ROWS_MAX, Signer};
use crate::audit::export::row_line;
use crate::audit::seal::Seal;
use crate::store::Store;
use crate::{moment, transaction};
use protocol::Timestamp;
use protocol::audit::Digest;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

/// How often rows are sealed.
const SEAL_EVERY: Duration = Duration::from_secs(1);

/// Seals all rows that are not sealed yet.
pub async fn seal(store: &Store, signer: &Signer) -> Result<(), transaction::Error> {
    seal_at(store, signer, moment::now).await
}

/// The same with another clock.
pub(crate) async fn seal_at(
    store: &Store,
    signer: &Signer,
    now: fn() -> Timestamp,
) -> Result<(), transaction::Error> {
    loop {
        let head = store.checkpoint_head().await?;
        let waiting = store.audit_rows(head.last, BATCH_ROWS_MAX).await?;
        let leaves: Vec<Digest> = waiting.iter().map(|row| chain::leaf(row_line(row).as_bytes())).collect();
        let Some(checkpoint) = signer.seal(head, &leaves, now()) else { return Ok(()) };
        store.run(Seal { checkpoint }).await?;
        if waiting.len() < usize::try_from(BATCH_ROWS_MAX).unwrap_or(usize::MAX) {
            return Ok(());
        }
    }
}

/// Seals until the ledger stops, and then the remaining rows.
pub async fn run(store: Arc<Store>, signer: Arc<Signer>, mut stopping: watch::Receiver<bool>) {
    let mut ticks = interval(SEAL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        let is_stopping = tokio::select! {
            _ = ticks.tick() => false,
            _ = stopping.wait_for(|stopping| *stopping) => true,
        };
        match seal(store.as_ref(), &signer).await {
            Ok(()) => failing = false,
            Err(cause) if !failing => {
                warn!(?cause, "the audit trail can't be sealed now; trying again");
                failing = true;
            }
            Err(_) => {}
        }
        if is_stopping {
            return;
        }
    }
}
