//! What the `agentrelay` binary is made of. [`stack`] is also what the integration tests start, so that `agentrelay up`
//! and the tests run the same processes from the same configuration.

pub mod signals;
pub mod stack;
