//! What a hostile client must not manage. Each case ends in the right refusal, nothing of it reaches the upstream, the
//! gate stays alive, and the next valid request is served.

#[path = "hostile/bodies.rs"]
mod bodies;
#[path = "hostile/heads.rs"]
mod heads;
#[path = "hostile/messages.rs"]
mod messages;
#[path = "hostile/paths.rs"]
mod paths;

use harness::{Agent, Gate};

/// A caller whose limit is far away.
async fn caller(gate: &Gate) -> Agent {
    gate.agent("enterprise").await
}
