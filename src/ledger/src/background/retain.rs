//! Removes rows of the audit trail that are older than the retention period.

use crate::audit::retention::{Begin, Held, Pass, Remove};
use crate::metrics::Metrics;
use crate::model::checkpoint::OldBatches;
use crate::model::event::{Event, Kind, LEDGER};
use crate::store::{CheckpointFilter, Store};
use crate::{moment, transaction};
use protocol::Timestamp;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

/// How often old rows are removed.
const REMOVE_EVERY: Duration = Duration::from_secs(600);
/// Rows that one transaction removes, about: all other writes wait for it.
const REMOVE_ROWS_MAX: u64 = 4096;

/// Runs until the ledger stops.
pub async fn run(
    store: Arc<Store>,
    (days, confirmed): (Option<u32>, Option<Timestamp>),
    metrics: Arc<Metrics>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut ticks = interval(REMOVE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    loop {
        let passed = async {
            ticks.tick().await;
            let database = store.clock().await?;
            let ran_millis = u64::try_from(last.elapsed().as_millis()).unwrap_or(u64::MAX);
            last = Instant::now();
            pass(store.as_ref(), Pass { days, now: moment::now(), database, ran_millis, confirmed }).await
        };
        let passed = tokio::select! {
            passed = passed => passed,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        match passed {
            Ok(Ok(rows)) => {
                metrics.retained(rows, false);
                if rows > 0 {
                    info!(rows, days, "old rows of the audit trail are removed");
                }
            }
            Ok(Err(held)) => {
                metrics.retained(0, true);
                error!(
                    clock = %moment::now(),
                    why = %held,
                    "old rows of the audit trail are kept, because the clock is in doubt; correct the clock, or if it is \
                     correct, start `agentrelay serve` with --audit-retention-confirm and today's date"
                );
            }
            Err(cause) => {
                warn!(?cause, "old rows of the audit trail can't be removed now; trying again in 10 minutes");
            }
        }
    }
}

/// Removes the rows of days that are no longer retained. Returns how many.
pub(crate) async fn pass(store: &Store, pass: Pass) -> Result<Result<u64, Held>, transaction::Error> {
    let before = pass.before();
    let filter = CheckpointFilter { kept_only: true, ..CheckpointFilter::default() };
    let oldest = store.checkpoints(filter).await?;
    let removes = oldest.first().is_some_and(|oldest| before.is_some_and(|before| oldest.sealed_at < before));
    if let Err(held) = store.run(Begin { pass, removes }).await? {
        return Ok(Err(held));
    }
    let (Some(before), mut after, mut rows) = (before, None, 0u64) else { return Ok(Ok(0)) };
    while let Some(removed) = remove_some(store, before, after, pass.now).await? {
        after = Some(removed.last);
        rows = rows.saturating_add(removed.rows());
    }
    Ok(Ok(rows))
}

/// Removes the rows of the oldest batches that still have rows, if they were sealed before `before`. `after` is the last
/// batch that the previous call removed.
pub(crate) async fn remove_some(
    store: &Store,
    before: Timestamp,
    after: Option<u64>,
    now: Timestamp,
) -> Result<Option<OldBatches>, transaction::Error> {
    let filter =
        CheckpointFilter { kept_only: true, after: after.unwrap_or_default(), ..CheckpointFilter::default() };
    let kept = store.checkpoints(filter).await?;
    let Some(oldest) = kept.first() else { return Ok(None) };
    // Stops at the first retained batch, so that a prefix of the trail is removed even if a later batch has an older time.
    let old = kept.iter().take_while(|checkpoint| {
        checkpoint.sealed_at < before && checkpoint.first.saturating_sub(oldest.first) < REMOVE_ROWS_MAX
    });
    let Some(newest) = old.last() else { return Ok(None) };
    let batches = OldBatches {
        first: oldest.number,
        last: newest.number,
        first_row: oldest.first,
        last_row: newest.last,
    };
    let detail = json!({
        "sealed_before": before, "first": batches.first_row, "last": batches.last_row, "rows": batches.rows(),
    });
    let event = Event::new(Kind::AuditRemoved, now, LEDGER, &detail);
    store.run(Remove { batches, event }).await?;
    Ok(Some(batches))
}
