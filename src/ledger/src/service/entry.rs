//! Creates credentials without one: the first credentials of a database, and another owner for an operator who can open the
//! database.
//!
//! A secret is written out before its hash is stored, so that a crash in between leaves no credential that nobody has.

use crate::identity::credentials::{Initialise, Recover};
use crate::model::credential::{CredentialKind, ServiceCredential};
use crate::moment;
use crate::service::{Error, lock_database};
use crate::store::database::Database;
use crate::store::sql::{Connection, Purpose};
use crate::store::{OpenError, connect, create, is_initialised, once};
use crate::transaction::Refusal;
use protocol::CredentialId;
use protocol::admin::{AdminKey, AdminKeyWithSecret, Role};
use protocol::api_key::KeyHash;
use protocol::text::unseen;
use std::fmt;
use std::io;
use std::thread;

/// The first credentials of a database. They are shown once and stored nowhere.
#[derive(Clone)]
pub struct Credentials {
    /// For `/v1`, `ara_...`.
    pub admin_key: String,
    /// For `/filter/v1`, `arf_...`.
    pub filter_key: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials { .. }")
    }
}

/// Creates the database's tables and its first admin and filter credential, which `deliver` writes out before they are
/// stored. Blocks for some milliseconds.
pub fn init(
    database: &Database,
    deliver: impl FnOnce(&Credentials) -> io::Result<()> + Send,
) -> Result<Credentials, Error> {
    let (admin_key, admin) = owner(CredentialKind::Admin, "first".to_owned())?;
    let (filter_key, filter) = owner(CredentialKind::Filter, "first".to_owned())?;
    let credentials = Credentials { admin_key, filter_key };
    on_own_thread(|| {
        let opened = |cause| Error::Database(database.clone(), cause);
        let again = || Error::AlreadyInitialised(database.clone());
        // Before migrating: a ledger of an older release may serve it.
        if has_credentials(database) {
            return Err(again());
        }
        let _lock = lock_database(database)?;
        let connection = create(database).map_err(opened)?;
        if is_initialised(&connection).map_err(opened)? {
            return Err(again());
        }
        deliver(&credentials).map_err(Error::Undelivered)?;
        let stored = once(&connection, Initialise { credentials: vec![admin, filter] });
        stored.map_err(|cause| Error::Unstored(database.clone(), cause))?.map_err(|refusal| match refusal {
            Refusal::AlreadyInitialised => again(),
            _ => Error::Write(database.clone()),
        })
    })?;
    Ok(credentials)
}

/// Creates another owner of an initialised database, for an operator who can open the database itself. `deliver` writes its
/// secret out before it is stored. No ledger may serve an embedded database meanwhile.
pub fn recover(
    database: &Database,
    name: String,
    reason: String,
    deliver: impl FnOnce(&AdminKeyWithSecret) -> io::Result<()> + Send,
) -> Result<AdminKey, Error> {
    for (field, text) in [("name", &name), ("reason", &reason)] {
        if text.trim().is_empty() || unseen(text).is_some() {
            return Err(Error::Unreadable(field));
        }
    }
    let (secret, credential) = owner(CredentialKind::Admin, name)?;
    let made = AdminKeyWithSecret { key: credential.clone().shown(), secret };
    on_own_thread(|| {
        let opened = |cause| Error::Database(database.clone(), cause);
        let _lock = lock_database(database)?;
        let connection: Connection = connect(database).map_err(opened)?;
        if !is_initialised(&connection).map_err(opened)? {
            return Err(opened(OpenError::NotInitialised));
        }
        deliver(&made).map_err(Error::Undelivered)?;
        let stored = once(&connection, Recover { credential, reason });
        let stored = stored.map_err(|cause| Error::Unstored(database.clone(), cause))?;
        stored.map_err(|_| Error::Write(database.clone()))
    })?;
    Ok(made.key)
}

/// Whether the database exists and has its first credentials. Opens it read-only.
fn has_credentials(database: &Database) -> bool {
    let opened = Connection::open(database, Purpose::Read);
    opened.is_ok_and(|connection| is_initialised(&connection).unwrap_or(false))
}

/// A new secret, and the row for it.
fn owner(kind: CredentialKind, name: String) -> Result<(String, ServiceCredential), Error> {
    let secret = moment::new_secret(kind.secret_kind()).map_err(|_| Error::NoRandomness)?;
    let prefix = match kind {
        CredentialKind::Admin => "adm_",
        CredentialKind::Filter => "flt_",
    };
    let id = moment::new_id(prefix, CredentialId::parse).map_err(|_| Error::NoRandomness)?;
    let hash = KeyHash::of(secret.as_bytes());
    let credential = ServiceCredential::new(hash, id, kind, name, Role::Owner, None, moment::now());
    Ok((secret, credential))
}

/// Runs blocking database calls on a new thread, because they must not block an async worker thread.
fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    let done = thread::scope(|scope| scope.spawn(work).join());
    done.unwrap_or_else(|_| Err(Error::Undelivered(io::Error::other("a thread ended early"))))
}
