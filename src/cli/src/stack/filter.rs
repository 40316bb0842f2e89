//! Which filter Envoy runs, and how.

use super::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// The filter, and with it how Envoy runs it.
#[derive(Debug, Clone)]
pub enum Filter {
    /// `agentrelay.wasm`, in a VM.
    Wasm(PathBuf),
    /// `libagentrelay.so`, as a dynamic module.
    Native(PathBuf),
}

/// Where Envoy looks for dynamic modules.
const MODULES: &str = "ENVOY_DYNAMIC_MODULES_SEARCH_PATH";

impl Filter {
    /// What of Envoy's environment leads to the filter, beside its configuration.
    pub fn environment(&self) -> Option<(&'static str, &Path)> {
        match self {
            Filter::Wasm(_) => None,
            Filter::Native(module) => Some((MODULES, module.parent().unwrap_or(Path::new("/")))),
        }
    }

    /// How many policies an Envoy with so many workers loads: a wasm filter has a VM for the main thread too.
    pub fn policies(&self, workers: u32) -> u32 {
        match self {
            Filter::Wasm(_) => workers.saturating_add(1),
            Filter::Native(_) => workers,
        }
    }

    pub(super) fn canonical(&self) -> Result<Filter, Error> {
        let canonical = |file: &Path| fs::canonicalize(file).map_err(Error::file(file));
        Ok(match self {
            Filter::Wasm(file) => Filter::Wasm(canonical(file)?),
            Filter::Native(file) => Filter::Native(canonical(file)?),
        })
    }
}
