//! Follows the policy file and the database until the ledger stops.

use crate::moment;
use crate::policies::document::read;
use crate::policies::in_force::Policies;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tracing::warn;

/// How often the file is read. A new text must be read twice, so that a half-written one is not used.
const POLL_EVERY: Duration = Duration::from_millis(400);

/// Polls both until the ledger stops.
pub async fn run(policies: Arc<Policies>, mut stopping: watch::Receiver<bool>) {
    let mut seen: Option<String> = None;
    let mut unreadable = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep(POLL_EVERY) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        match read(policies.path()).await {
            Ok(text) => {
                unreadable = false;
                policies.check_file(&mut seen, text, moment::now()).await;
            }
            Err(fault) => {
                if !unreadable {
                    let path = policies.path().display();
                    warn!(%path, %fault, "the policy file can't be read; the policy in force stays");
                }
                unreadable = true;
            }
        }
        policies.refresh().await;
    }
}
