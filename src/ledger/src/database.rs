//! Which database, as users write it.

mod tls;

pub use tls::{Protection, Tls};

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// Where the rows are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// `sqlite:PATH`: one file of an embedded database.
    Sqlite(PathBuf),
    /// `postgres://USER:PASSWORD@HOST,HOST/NAME`: a PostgreSQL server and its standbys, of which the one that takes writes is
    /// used. `?sslmode=` and `&sslrootcert=` are as libpq's.
    Postgres(Server),
}

impl Database {
    /// Where the key that signs the audit trail is, unless the ledger is told another place.
    pub(crate) fn audit_key(&self) -> PathBuf {
        match self {
            Database::Sqlite(path) => path.with_added_extension("audit-key"),
            Database::Postgres(_) => PathBuf::from("agentrelay.audit-key"),
        }
    }
}

/// A PostgreSQL server and how to enter it. Shown without its password.
#[derive(Clone)]
pub struct Server {
    url: String,
    way: Arc<Way>,
    shown: String,
}

/// The way in, as the driver and TLS need it.
struct Way {
    /// One for each host that the URL names.
    hosts: Vec<Config>,
    /// Which of them answered last, and is asked first.
    answered: AtomicUsize,
    tls: Tls,
}

impl PartialEq for Server {
    fn eq(&self, other: &Server) -> bool {
        self.url == other.url
    }
}

impl Eq for Server {}

impl Server {
    /// How to connect to each of its hosts, the one that answered last first.
    pub(crate) fn configs(&self) -> Vec<Config> {
        let first = self.way.answered.load(Ordering::Relaxed);
        self.way.hosts.iter().cycle().skip(first).take(self.way.hosts.len()).cloned().collect()
    }

    /// This host takes writes.
    pub(crate) fn answered(&self, host: &Config) {
        if let Some(place) = self.way.hosts.iter().position(|own| own == host) {
            self.way.answered.store(place, Ordering::Relaxed);
        }
    }

    /// How the connection is protected.
    pub(crate) fn tls(&self) -> &Tls {
        &self.way.tls
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// The text names no database that this release can open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidDatabase {
    /// It names PostgreSQL, but not as that reads it. The text is what is wrong.
    Postgres(String),
    /// It has no path.
    NoPath,
    /// It is something else.
    Unknown,
}

impl fmt::Display for InvalidDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidDatabase::Postgres(why) => {
                write!(
                    f,
                    "{why}; write postgres://USER:PASSWORD@HOST:PORT/NAME, such as postgres://ledger@db/ledger"
                )
            }
            InvalidDatabase::NoPath => {
                f.write_str("the path is missing; write sqlite:PATH, such as sqlite:ledger.db")
            }
            InvalidDatabase::Unknown => f.write_str(
                "write sqlite:PATH, such as sqlite:ledger.db, or postgres://USER:PASSWORD@HOST:PORT/NAME",
            ),
        }
    }
}

impl std::error::Error for InvalidDatabase {}

impl FromStr for Database {
    type Err = InvalidDatabase;

    fn from_str(text: &str) -> Result<Database, InvalidDatabase> {
        match text.split_once(':') {
            Some(("sqlite", "")) => Err(InvalidDatabase::NoPath),
            Some(("sqlite", path)) => Ok(Database::Sqlite(PathBuf::from(path))),
            Some(("postgres" | "postgresql", _)) => {
                let (plain, tls) = tls::split(text)?;
                let config: Config = plain.parse().map_err(|error: tokio_postgres::Error| {
                    let why = std::error::Error::source(&error)
                        .map_or_else(|| error.to_string(), ToString::to_string);
                    InvalidDatabase::Postgres(why)
                })?;
                let (url, shown) = (text.to_owned(), without_secrets(text));
                let way = Way { hosts: one_for_each_host(&config), answered: AtomicUsize::new(0), tls };
                Ok(Database::Postgres(Server { url, way: Arc::new(way), shown }))
            }
            _ => Err(InvalidDatabase::Unknown),
        }
    }
}

/// The driver asks hosts one after the other, and stays with one that hangs.
fn one_for_each_host(config: &Config) -> Vec<Config> {
    let single = |place: usize, host: &Host| {
        let mut own = Config::new();
        own.ssl_mode(config.get_ssl_mode()).channel_binding(config.get_channel_binding());
        match host {
            Host::Tcp(name) => own.host(name),
            #[cfg(unix)]
            Host::Unix(path) => own.host_path(path),
        };
        if let Some(address) = config.get_hostaddrs().get(place) {
            own.hostaddr(*address);
        }
        // One port is for all hosts.
        if let Some(port) = config.get_ports().get(place).or(config.get_ports().first()) {
            own.port(*port);
        }
        if let Some(user) = config.get_user() {
            own.user(user);
        }
        if let Some(password) = config.get_password() {
            own.password(password);
        }
        if let Some(name) = config.get_dbname() {
            own.dbname(name);
        }
        if let Some(options) = config.get_options() {
            own.options(options);
        }
        own
    };
    config.get_hosts().iter().enumerate().map(|(place, host)| single(place, host)).collect()
}

/// The URL without its password, which may also be one of its parameters.
fn without_secrets(url: &str) -> String {
    let url = url.split_once('?').map_or(url, |(url, _)| url);
    let Some((scheme, rest)) = url.split_once("://") else { return "postgres:".to_owned() };
    // A password may hold an @ that was not escaped; the host never does.
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
