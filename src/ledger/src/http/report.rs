//! Writes filters' batches. A row that the database refuses is left out; the rest of its batch is written.

use crate::deliveries::{Deliver, Delivered};
use crate::store::Store;
use crate::transaction::{Error, Refusal};
use protocol::filter::ReportAnswer;
use tracing::error;

/// Writes a batch. If the database refuses a row, it halves the batch until only such rows are left out.
pub async fn deliver(store: &Store, deliver: Deliver) -> Result<Delivered, Error> {
    let mut done = Delivered { answer: ReportAnswer { settled: 0, recorded: 0 }, refused: Vec::new() };
    let mut waiting = vec![deliver];
    while let Some(part) = waiting.pop() {
        match store.run(part.clone()).await {
            Ok(Delivered { answer, refused }) => {
                done.answer.settled = done.answer.settled.saturating_add(answer.settled);
                done.answer.recorded = done.answer.recorded.saturating_add(answer.recorded);
                done.refused.extend(refused);
            }
            Err(Error::Refused(Refusal::Unstorable)) => match part.halves() {
                // In their order.
                Some([first, then]) => waiting.extend([then, first]),
                None => {
                    error!(report = ?part.report, decisions = ?part.decisions, "this part of a batch is lost: the database refuses it")
                }
            },
            Err(other) => return Err(other),
        }
    }
    Ok(done)
}
