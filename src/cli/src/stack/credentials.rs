//! The two credentials of a new ledger, kept in the state directory for the next run.

use super::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

const ADMIN_KEY: &str = "admin-key";
const FILTER_KEY: &str = "filter-key";
/// Access for the owner only.
const PRIVATE: u32 = 0o600;

/// Credentials to a ledger. No `Debug`, so that they are never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// For administrators, `ara_...`.
    pub admin_key: String,
    /// For filters, `arf_...`.
    pub filter_key: String,
}

impl Credentials {
    /// The credentials of an earlier run in `state_dir`, or new ones of a database that `program init` creates.
    pub fn open(program: &Path, database: &str, state_dir: &Path) -> Result<Credentials, Error> {
        if let Some(credentials) = Credentials::read(state_dir)? {
            return Ok(credentials);
        }
        let spawned = |source| Error::Spawn { name: "agentrelay init".into(), source };
        let output = Command::new(program)
            .args(["init", "--database", database, "--state"])
            .arg(state_dir)
            .stdin(Stdio::null())
            .output()
            .map_err(spawned)?;
        if !output.status.success() {
            // Only stderr is shown: stdout may have the keys.
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::Setup(format!("the ledger's database could not be created: {said}")));
        }
        Credentials::read(state_dir)?
            .ok_or_else(|| Error::Setup(format!("`agentrelay init` left no keys in {}", state_dir.display())))
    }

    /// Reads the credentials that [`Credentials::write`] wrote to `state_dir`.
    pub fn read(state_dir: &Path) -> Result<Option<Credentials>, Error> {
        let admin_key = read_if_there(&state_dir.join(ADMIN_KEY))?;
        let filter_key = read_if_there(&state_dir.join(FILTER_KEY))?;
        Ok(admin_key.zip(filter_key).map(|(admin_key, filter_key)| Credentials { admin_key, filter_key }))
    }

    /// Removes what [`Credentials::write`] wrote, after the ledger failed to store it.
    pub fn remove(state_dir: &Path) -> Result<(), Error> {
        remove_if_there(&state_dir.join(ADMIN_KEY))?;
        remove_if_there(&state_dir.join(FILTER_KEY))
    }

    /// Writes them to `state_dir`, readable by its owner alone.
    pub fn write(&self, state_dir: &Path) -> Result<(), Error> {
        write_private(&state_dir.join(ADMIN_KEY), &format!("{}\n", self.admin_key))?;
        write_private(&state_dir.join(FILTER_KEY), &format!("{}\n", self.filter_key))
    }
}

fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file(path)(error)),
        _ => Ok(()),
    }
}

/// Writes a file with a secret atomically.
pub fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let unfinished = path.with_added_extension("new");
    let write = || {
        let mut file: File =
            OpenOptions::new().write(true).create(true).truncate(true).mode(PRIVATE).open(&unfinished)?;
        // The mode above applies to a new file only.
        file.set_permissions(fs::Permissions::from_mode(PRIVATE))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, path)
    };
    write().map_err(Error::file(path))
}

fn read_if_there(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file(path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_files_are_reused_and_readable_only_by_their_owner() {
        let state = tempfile::tempdir().unwrap();
        assert!(Credentials::read(state.path()).unwrap().is_none());
        let kept = Credentials { admin_key: "ara_1".into(), filter_key: "arf_1".into() };
        kept.write(state.path()).unwrap();
        assert!(Credentials::read(state.path()).unwrap() == Some(kept));
        let mode = fs::metadata(state.path().join(ADMIN_KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, PRIVATE);
    }
}
