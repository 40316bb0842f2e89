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

impl Filter {
    pub(super) fn canonical(&self) -> Result<Filter, Error> {
        let canonical = |file: &Path| fs::canonicalize(file).map_err(Error::file(file));
        Ok(match self {
            Filter::Wasm(file) => Filter::Wasm(canonical(file)?),
            Filter::Native(file) => Filter::Native(canonical(file)?),
        })
    }
}
