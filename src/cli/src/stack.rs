//! The local stack: a ledger and Envoys with the filter, as child processes of this one.
//!
//! Owns finding, configuring, starting, watching and stopping them. Every process has its own group and its own log
//! file in the state directory, takes port 0 unless told otherwise, and is gone when its value is dropped. Decides
//! nothing about requests; `envoy/envoy.yaml` is the configuration, and [`bootstrap`] changes only addresses in it.

pub mod bootstrap;

mod binary;
mod credentials;
mod envoy;
mod error;
mod ledger;
mod local;
mod process;
mod upstream;

use std::time::Duration;

pub use binary::EnvoyBinary;
pub use credentials::{Credentials, write_private};
pub use envoy::{Edit, Envoy, EnvoyOptions};
pub use error::Error;
pub use ledger::{Ledger, LedgerOptions};
pub use local::{Pids, Ready, Stack, StackOptions};
pub use upstream::Upstream;

/// For looking whether a part is ready, past any proxy of the environment.
fn http_client() -> Result<reqwest::Client, Error> {
    client::http()
        .no_proxy()
        .timeout(Duration::from_secs(2))
        .build()
        .map_err(|error| Error::Setup(format!("no HTTP client can be made: {error}")))
}
