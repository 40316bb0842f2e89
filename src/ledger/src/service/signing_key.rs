//! The key that signs the audit trail. It is in a file of its own, not in the database: who can write the database can't sign.

use crate::audit::chain::{self, Signer};
use crate::moment;
use crate::store::database::Database;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

/// Reads the signing key, or makes one where the file does not exist, readable by its owner alone.
pub fn signer(path: &Path) -> io::Result<Signer> {
    match read(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
        read => return read,
    }
    // Linked into place, so that of two ledgers that begin at once one makes the key and both read the same.
    let unfinished = path.with_added_extension(moment::fresh_name("new-"));
    let seed = moment::fresh_seed().map_err(|_| io::Error::other("there is no randomness"))?;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&unfinished)?;
    let made = writeln!(file, "{}", chain::hex(&seed)).and_then(|()| file.sync_all());
    let linked = made.and_then(|()| std::fs::hard_link(&unfinished, path));
    std::fs::remove_file(&unfinished)?;
    match linked {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => Err(cause),
        _ => read(path),
    }
}

/// The public keys that a database's trail is held to: those named, and that of the signing key where it is beside the
/// database. `None` if there is neither; nothing then says whose signatures are true.
pub fn trusted(
    database: &Database,
    named: impl IntoIterator<Item = String>,
) -> io::Result<Option<BTreeSet<String>>> {
    let mut trusted: BTreeSet<String> = named.into_iter().collect();
    match read(&database.audit_key()) {
        Ok(signer) => drop(trusted.insert(signer.public_key().to_owned())),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
        Err(cause) => return Err(cause),
    }
    Ok(Some(trusted).filter(|trusted| !trusted.is_empty()))
}

fn read(path: &Path) -> io::Result<Signer> {
    let text = std::fs::read_to_string(path)?;
    let seed = chain::unhex::<32>(text.trim());
    seed.map(|seed| Signer::from_seed(&seed)).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "it is no signing key: 64 hexadecimal digits")
    })
}
