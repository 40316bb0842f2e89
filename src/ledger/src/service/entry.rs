//! The ways in that need no credential: the first credentials of a database, and another owner for who has the database.
//!
//! A secret is given out before its hash is stored: whatever ends in between leaves nothing that nobody can open.

use crate::identity::credentials::{Initialise, Recover};
use crate::model::credential::{CredentialKind, ServiceCredential};
use crate::moment;
use crate::service::{Error, keep_others_away};
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

/// The first credentials of a database. They are given out this once and stored nowhere.
#[derive(Clone)]
pub struct Credentials {
    /// Opens `/v1`, `ara_...`.
    pub admin_key: String,
    /// Opens `/filter/v1`, `arf_...`.
    pub filter_key: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials { .. }")
    }
}

/// Makes the database's tables and its first admin and filter credential, which `deliver` gives out before they are
/// stored. Blocks for some milliseconds.
pub fn init(
    database: &Database,
    deliver: impl FnOnce(&Credentials) -> io::Result<()> + Send,
) -> Result<Credentials, Error> {
    let (admin_key, admin) = owner(CredentialKind::Admin, "first".to_owned())?;
    let (filter_key, filter) = owner(CredentialKind::Filter, "first".to_owned())?;
    let credentials = Credentials { admin_key, filter_key };
    aside(|| {
        let opened = |cause| Error::Database(database.clone(), cause);
        let again = || Error::AlreadyInitialised(database.clone());
        // Before it is brought up to date: a ledger of an older release may serve it.
        if peek(database) {
            return Err(again());
        }
        let _lock = keep_others_away(database)?;
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

/// Makes another owner of a database that was initialised before, for who can open the database itself. `deliver` gives
/// its secret out before it is stored. No ledger may serve an embedded database meanwhile.
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
    aside(|| {
        let opened = |cause| Error::Database(database.clone(), cause);
        let _lock = keep_others_away(database)?;
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

/// Whether there is a database that has had its first credentials, as far as can be seen without touching it.
fn peek(database: &Database) -> bool {
    let opened = Connection::open(database, Purpose::Read);
    opened.is_ok_and(|connection| is_initialised(&connection).unwrap_or(false))
}

/// A secret, and what is stored of it.
fn owner(kind: CredentialKind, name: String) -> Result<(String, ServiceCredential), Error> {
    let secret = moment::fresh_secret(kind.secret_kind()).map_err(|_| Error::NoRandomness)?;
    let prefix = match kind {
        CredentialKind::Admin => "adm_",
        CredentialKind::Filter => "flt_",
    };
    let id = moment::fresh_id(prefix, CredentialId::parse).map_err(|_| Error::NoRandomness)?;
    let hash = KeyHash::of(secret.as_bytes());
    let credential = ServiceCredential::new(hash, id, kind, name, Role::Owner, None, moment::now());
    Ok((secret, credential))
}

/// On a thread of its own, because a database's client may not block where other tasks wait.
fn aside<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    let done = thread::scope(|scope| scope.spawn(work).join());
    done.unwrap_or_else(|_| Err(Error::Undelivered(io::Error::other("a thread ended early"))))
}
