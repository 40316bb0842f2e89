//! The address of a database, as users write it.

mod primary;
mod tls;

pub(crate) use primary::Primary;
pub use tls::{Protection, Tls};

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use tokio_postgres::config::TargetSessionAttrs;

/// Where the rows are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// `sqlite:PATH`: one file of an embedded database.
    Sqlite(PathBuf),
    /// `postgres://USER:PASSWORD@HOST/NAME`: a PostgreSQL server, or several of which one takes writes (`HOST,HOST`).
    /// `?sslmode=` and `&sslrootcert=` are as libpq's.
    Postgres(Server),
}

impl Database {
    /// The default path of the key that signs the audit trail.
    pub(crate) fn audit_key(&self) -> PathBuf {
        match self {
            Database::Sqlite(path) => path.with_added_extension("audit-key"),
            Database::Postgres(_) => PathBuf::from("agentrelay.audit-key"),
        }
    }
}

/// A PostgreSQL server and how to connect to it. Displayed without its password.
#[derive(Clone)]
pub struct Server {
    url: String,
    access: Box<Access>,
    shown: String,
}

/// What the driver and TLS need to connect.
#[derive(Clone)]
struct Access {
    /// One for each host.
    hosts: Vec<tokio_postgres::Config>,
    tls: Tls,
    /// Shared by all connections of this process to this URL.
    primary: Arc<Primary>,
}

impl PartialEq for Server {
    fn eq(&self, other: &Server) -> bool {
        self.url == other.url
    }
}

impl Eq for Server {}

impl Server {
    /// The driver's configuration for each host, in order.
    pub(crate) fn hosts(&self) -> &[tokio_postgres::Config] {
        &self.access.hosts
    }

    /// The primary, as far as this process knows.
    pub(crate) fn primary(&self) -> &Arc<Primary> {
        &self.access.primary
    }

    /// How the connection is protected.
    pub(crate) fn tls(&self) -> &Tls {
        &self.access.tls
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// The text is not the address of a database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDatabase {
    /// It is an invalid PostgreSQL URL; the text says why.
    #[error("{0}; write postgres://USER:PASSWORD@HOST:PORT/NAME, such as postgres://ledger@db/ledger")]
    Postgres(String),
    /// The path is missing.
    #[error("the path is missing; write sqlite:PATH, such as sqlite:ledger.db")]
    NoPath,
    /// It has an unknown scheme.
    #[error("write sqlite:PATH, such as sqlite:ledger.db, or postgres://USER:PASSWORD@HOST:PORT/NAME")]
    Unknown,
}

impl FromStr for Database {
    type Err = InvalidDatabase;

    fn from_str(text: &str) -> Result<Database, InvalidDatabase> {
        match text.split_once(':') {
            Some(("sqlite", "")) => Err(InvalidDatabase::NoPath),
            Some(("sqlite", path)) => Ok(Database::Sqlite(PathBuf::from(path))),
            Some(("postgres" | "postgresql", _)) => {
                let (plain, tls) = tls::split(text)?;
                let config: tokio_postgres::Config =
                    plain.parse().map_err(|error: tokio_postgres::Error| {
                        let why = std::error::Error::source(&error)
                            .map_or_else(|| error.to_string(), ToString::to_string);
                        InvalidDatabase::Postgres(why)
                    })?;
                if config.get_target_session_attrs() == TargetSessionAttrs::ReadOnly {
                    let why = "target_session_attrs=read-only: the ledger writes; leave it out";
                    return Err(InvalidDatabase::Postgres(why.to_owned()));
                }
                let (url, shown) = (text.to_owned(), without_secrets(text));
                let access = Access { hosts: primary::hosts(&config)?, tls, primary: Arc::default() };
                Ok(Database::Postgres(Server { url, access: Box::new(access), shown }))
            }
            _ => Err(InvalidDatabase::Unknown),
        }
    }
}

/// The URL without its password, which may also be one of its parameters.
fn without_secrets(url: &str) -> String {
    let url = url.split_once('?').map_or(url, |(url, _)| url);
    let Some((scheme, rest)) = url.split_once("://") else { return "postgres:".to_owned() };
    // A password may contain an unescaped @, a host can't.
    match rest.rsplit_once('@') {
        Some((user, host)) => {
            let user = user.split_once(':').map_or(user, |(user, _)| user);
            format!("{scheme}://{user}@{host}")
        }
        None => url.to_owned(),
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Database::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Database::Postgres(server) => f.write_str(&server.shown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_read_and_written_in_the_same_form_and_other_forms_say_what_to_write() {
        for text in ["sqlite:/var/lib/agentrelay/ledger.db", "postgres://ledger@db/ledger"] {
            assert_eq!(text.parse::<Database>().unwrap().to_string(), text);
        }
        assert_eq!("sqlite:".parse::<Database>(), Err(InvalidDatabase::NoPath));
        assert_eq!("ledger.db".parse::<Database>(), Err(InvalidDatabase::Unknown));
        let refused = "postgres://db:port/ledger".parse::<Database>().unwrap_err();
        assert!(refused.to_string().contains("postgres://USER"), "{refused}");
    }

    #[test]
    fn a_password_is_never_shown() {
        for text in [
            "postgres://ledger:hunter2@db:5432/ledger?sslmode=disable",
            "postgres://ledger:hunter2@odd@db/ledger",
            "postgresql://ledger@db/ledger?password=hunter2",
        ] {
            let database: Database = text.parse().unwrap();
            let shown = format!("{database} {database:?}");
            assert!(shown.contains("db") && !shown.contains("hunter2"), "{shown}");
        }
    }
}
