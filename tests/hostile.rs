//! Attacks by a hostile client. Each case ends in the right refusal, no part of it reaches the upstream, the gate stays
//! alive, and the next valid request is served.

#[path = "hostile/bodies.rs"]
mod bodies;
#[path = "hostile/heads.rs"]
mod heads;
#[path = "hostile/messages.rs"]
mod messages;
#[path = "hostile/paths.rs"]
mod paths;

use harness::{Agent, Gate};

/// A caller with a limit that no test reaches.
async fn caller(gate: &Gate) -> Agent {
    gate.agent("enterprise").await
}
