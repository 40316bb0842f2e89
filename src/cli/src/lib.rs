//! Parts of the `agentrelay` binary. The integration tests use [`stack`] too, so that `agentrelay up` and the tests run the
//! same processes with the same configuration.

pub mod signals;
pub mod stack;
