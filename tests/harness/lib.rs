//! The harness of the integration tests: a running gate, an upstream that records what reached it, and clients that can
//! send what no library would send.
//!
//! Reading order: [`gate::Gate`] starts every test, [`http1::Request`] is what it sends, [`upstream::Upstream`] is what
//! it checks afterwards. Nothing here asserts a promise of the product beyond "still alive"; promises are in the test
//! files, one file for each kind.

pub mod agent;
pub mod clock;
pub mod files;
pub mod forwarder;
pub mod gate;
pub mod http1;
pub mod http2;
pub mod ledger;
pub mod mcp;
pub mod node;
pub mod policy;
pub mod python;
pub mod reaper;
pub mod relay;
pub mod response;
mod rust_server;
pub mod scripted;
pub mod sdks;
pub mod servers;
pub mod stats;
pub mod tls_ledger;
pub mod upstream;

pub use agent::{Agent, NewKey};
pub use clock::{eventually, run, wait};
pub use gate::{Gate, GateOptions};
pub use http1::Request;
pub use response::Response;
