//! Seals the audit trail while the ledger runs. Rows are read and hashed beside the writer; only the finished checkpoint goes
//! through its queue, as one small row.

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

/// How soon a row is sealed.
const SEAL_EVERY: Duration = Duration::from_secs(1);

/// Seals all that waits.
pub async fn seal(store: &Store, signer: &Signer) -> Result<(), transaction::Error> {
    seal_at(store, signer, moment::now).await
}

/// The same by another clock.
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

/// Seals until the ledger stops, and then what is left.
pub async fn run(store: Arc<Store>, signer: Arc<Signer>, mut stopping: watch::Receiver<bool>) {
    let mut beat = interval(SEAL_EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        let stops = tokio::select! {
            _ = beat.tick() => false,
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
        if stops {
            return;
        }
    }
}
