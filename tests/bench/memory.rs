//! The memory that the filter uses: once, and for each worker.

use crate::cases::{Kind, request};
use crate::gate::{Filters, Gate, Site};
use crate::load::Load;
use crate::pause;
use crate::relay::Relay;
use serde::Serialize;
use std::rc::Rc;
use std::time::Duration;

const MANY: u32 = 5;

/// Measurements in MiB.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Memory {
    /// Envoy without a filter, one worker.
    pub bare: f64,
    /// The same with the filter.
    pub with_filter: f64,
    /// What the filter adds for each further worker.
    pub further_worker: f64,
    /// Envoy with the filter as a dynamic module, one worker.
    pub with_module: f64,
}

impl Memory {
    /// Measured on new Envoys that have served some requests on every worker.
    pub async fn measure(site: &Site, relay: &Relay, key: &str) -> anyhow::Result<Memory> {
        let bare = resident(site, "rss-bare", Filters::Bare, 1, key).await?;
        let bare_many = resident(site, "rss-bare-many", Filters::Bare, MANY, key).await?;
        let with_filter = resident(site, "rss-filter", relay.filters(), 1, key).await?;
        let with_module = resident(site, "rss-module", relay.module(), 1, key).await?;
        let many = resident(site, "rss-filter-many", relay.filters(), MANY, key).await?;
        let further_worker = ((many - with_filter) - (bare_many - bare)) / f64::from(MANY - 1);
        Ok(Memory { bare, with_filter, further_worker, with_module })
    }

    /// What the first worker uses, including the main thread's copy of the filter.
    pub fn first_worker(&self) -> f64 {
        self.with_filter - self.bare
    }
}

async fn resident(site: &Site, name: &str, filters: Filters, workers: u32, key: &str) -> anyhow::Result<f64> {
    let gate = Gate::start(site, name, filters, workers).await?;
    let requests = Rc::new(vec![request(Kind::Get, key, "")]);
    let load = Load { gate: gate.address, requests, status: Some(200) };
    // With so many connections every worker gets some, and each has as much to do as the only worker of another Envoy.
    // V8 frees the memory of the compiler a little later.
    for _ in 0..4 {
        load.run(64, 2000 * usize::try_from(workers)?).await?;
        pause(Duration::from_millis(500)).await;
    }
    Ok(gate.rss_kib()? as f64 / 1024.0)
}
