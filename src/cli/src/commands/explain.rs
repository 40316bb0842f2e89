//! `agentrelay explain`: why a request was allowed or refused.

use super::connection::Connection;
use crate::output;
use clap::Args;
use client::Error;
use protocol::EventId;
use protocol::admin::Explanation;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long to wait for a decision that its Envoy has not told yet, and how often to look.
const WAIT: Duration = Duration::from_secs(4);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Explain why a request was allowed or refused, and what would change it
#[derive(Args)]
#[command(after_help = "Examples:
  agentrelay explain 0192f0c0-0000-7000-8000-000000000000      # x-request-id of the answer
  agentrelay explain 0192f0c0-0000-7000-8000-000000000000 --json")]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    /// The request_id of a refusal, x-request-id of any answer, or request_id of the access log
    #[arg(value_name = "ID", value_parser = EventId::parse)]
    request_id: EventId,
}

impl Arguments {
    pub async fn run(self) -> anyhow::Result<()> {
        let ledger = self.connection.open()?;
        let begun = Instant::now();
        let explanation: Explanation = loop {
            match ledger.explain(&self.request_id).await {
                Err(Error::NotFound(_)) if begun.elapsed() < WAIT => sleep(LOOK_EVERY).await,
                answer => break answer?,
            }
        };
        if self.connection.json {
            return output::json(&explanation);
        }
        Ok(explanation.sentences.iter().try_for_each(|sentence| output::shown(sentence))?)
    }
}
