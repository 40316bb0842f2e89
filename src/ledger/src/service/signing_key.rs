//! The key that signs the audit trail. It is in its own file, so that write access to the database is not enough to sign.

use crate::audit::chain::{self, Signer};
use crate::moment;
use crate::store::database::Database;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

/// Reads the signing key. If the file does not exist, creates it, readable by its owner alone.
pub fn signer(path: &Path) -> io::Result<Signer> {
    match read(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
        read => return read,
    }
    // Linked into place, so that two ledgers that start at once use the same key.
    let unfinished = path.with_added_extension(moment::new_name("new-"));
    let seed = moment::new_seed().map_err(|_| io::Error::other("there is no randomness"))?;
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

/// The public keys to trust for a database's trail: those named, and that of the signing key file next to the database.
/// `None` if there are none; then any signature is accepted.
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
        io::Error::new(io::ErrorKind::InvalidData, "it is not a signing key, which is 64 hexadecimal digits")
    })
}
