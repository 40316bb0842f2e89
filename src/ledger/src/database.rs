//! Which database, as users write it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where the rows are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// `sqlite:PATH`: one file of an embedded database.
    Sqlite(PathBuf),
}

/// The text names no database that this release can open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidDatabase {
    /// It names PostgreSQL.
    Postgres,
    /// It has no path.
    NoPath,
    /// It is something else.
    Unknown,
}

impl fmt::Display for InvalidDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InvalidDatabase::Postgres => {
                "PostgreSQL comes with a later release; until then write sqlite:PATH, such as sqlite:ledger.db"
            }
            InvalidDatabase::NoPath => "the path is missing; write sqlite:PATH, such as sqlite:ledger.db",
            InvalidDatabase::Unknown => "write sqlite:PATH, such as sqlite:ledger.db",
        })
    }
}

impl std::error::Error for InvalidDatabase {}

impl FromStr for Database {
    type Err = InvalidDatabase;

    fn from_str(text: &str) -> Result<Database, InvalidDatabase> {
        match text.split_once(':') {
            Some(("sqlite", "")) => Err(InvalidDatabase::NoPath),
            Some(("sqlite", path)) => Ok(Database::Sqlite(PathBuf::from(path))),
            Some(("postgres" | "postgresql", _)) => Err(InvalidDatabase::Postgres),
            _ => Err(InvalidDatabase::Unknown),
        }
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Database::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_read_and_written_in_the_same_form_and_other_forms_say_what_to_write() {
        let database: Database = "sqlite:/var/lib/agentrelay/ledger.db".parse().unwrap();
        assert_eq!(database.to_string(), "sqlite:/var/lib/agentrelay/ledger.db");
        assert_eq!("postgres://db/ledger".parse::<Database>(), Err(InvalidDatabase::Postgres));
        assert_eq!("sqlite:".parse::<Database>(), Err(InvalidDatabase::NoPath));
        assert_eq!("ledger.db".parse::<Database>(), Err(InvalidDatabase::Unknown));
    }
}
