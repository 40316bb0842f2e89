//! Batches of filters: what the database does not take of one is left out of it, and the rest is delivered.

use crate::deliveries::{Deliver, Delivered};
use crate::store::Store;
use crate::transaction::{Error, Refusal};
use protocol::filter::ReportAnswer;
use tracing::error;

/// Writes a batch and, where the database does not take a row of it, all that it takes.
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
                    error!(report = ?part.report, "this part of a batch is lost: the database does not take it")
                }
            },
            Err(other) => return Err(other),
        }
    }
    Ok(done)
}
