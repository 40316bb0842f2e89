//! Checks a ledger's rows, also in use, against the laws of money and audit.

use crate::service::backup::{self, Trusted};
use crate::store::database::Database;
use crate::store::sql::{Connection, Purpose};
use crate::store::{OpenError, laws, schema};

/// The faults of the rows; empty if there are none. Reads every row. Blocks. `trusted` are the keys that may have signed
/// the audit trail, see [`crate::service::signing_key::trusted`].
pub fn check(database: &Database, trusted: Trusted<'_>) -> Result<Vec<String>, OpenError> {
    let connection = Connection::open(database, Purpose::Read)?;
    match schema::version(&connection)? {
        schema::Version::Current => {}
        schema::Version::Newer => return Err(OpenError::TooNew),
        schema::Version::Older => return Err(OpenError::TooOld),
        schema::Version::Empty => return Err(OpenError::NotInitialised),
    }
    // One snapshot: rows may be written, sealed or removed meanwhile.
    let broken = connection.long_snapshot(|snapshot| {
        let mut broken = laws::broken_in_transaction(snapshot)?;
        match backup::check_audit(snapshot, trusted) {
            Ok(()) => {}
            Err(backup::BackupError::Open(OpenError::Failed(cause))) => return Err(cause),
            Err(fault) => broken.push(fault.to_string()),
        }
        Ok(broken)
    })?;
    Ok(broken)
}
