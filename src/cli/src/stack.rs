//! The local stack: a ledger and Envoys with the filter, as child processes of this one.
//!
//! Finds, configures, starts, watches and stops them. Every process has its own process group, its own log file in the
//! state directory and by default a free port, and is killed when its value is dropped. The configuration is
//! `envoy/envoy.yaml`, in which [`bootstrap`] changes only addresses.

pub mod bootstrap;

mod binary;
mod credentials;
mod envoy;
mod error;
mod filter;
mod ledger;
mod local;
mod process;
mod upstream;

use std::time::Duration;

pub use binary::EnvoyBinary;
pub use credentials::{Credentials, write_private};
pub use envoy::{Edit, Envoy, EnvoyOptions};
pub use error::Error;
pub use filter::Filter;
pub use ledger::{Ledger, LedgerOptions};
pub use local::{Answering, Pids, Ready, Stack, StackOptions};
pub use upstream::{Route, Upstream, Upstreams};

/// An HTTP client for readiness checks, without the environment's proxies.
fn http_client() -> Result<reqwest::Client, Error> {
    client::http()
        .no_proxy()
        .timeout(Duration::from_secs(2))
        .build()
        .map_err(|error| Error::Setup(format!("can't create an HTTP client: {error}")))
}
