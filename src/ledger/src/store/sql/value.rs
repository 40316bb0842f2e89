//! Parameters, columns and errors, whichever the database.

use super::Kind;
use rusqlite::ErrorCode;
use rusqlite::types::ValueRef;
use std::borrow::Cow;
use std::fmt;
use tokio_postgres::types::Type;

/// What goes into a statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Param<'a> {
    /// Nothing.
    Null,
    /// A whole number.
    Integer(i64),
    /// Text.
    Text(Cow<'a, str>),
    /// Bytes.
    Bytes(&'a [u8]),
}

impl<'a> Param<'a> {
    /// Text that is there.
    pub const fn text(text: &'a str) -> Param<'a> {
        Param::Text(Cow::Borrowed(text))
    }

    /// A number. Beyond what a database can hold is the most it can: credits and times end far below.
    pub fn number(number: u64) -> Param<'a> {
        Param::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// What can go into a statement.
pub trait ToParam {
    /// What its column holds.
    const KIND: Kind;
    /// As a parameter.
    fn to_param(&self) -> Param<'_>;
}

impl<T: ToParam + ?Sized> ToParam for &T {
    const KIND: Kind = T::KIND;

    fn to_param(&self) -> Param<'_> {
        (**self).to_param()
    }
}

impl<T: ToParam> ToParam for Option<T> {
    const KIND: Kind = T::KIND;

    fn to_param(&self) -> Param<'_> {
        self.as_ref().map_or(Param::Null, T::to_param)
    }
}

impl ToParam for str {
    const KIND: Kind = Kind::Text;

    fn to_param(&self) -> Param<'_> {
        Param::text(self)
    }
}

impl ToParam for String {
    const KIND: Kind = Kind::Text;

    fn to_param(&self) -> Param<'_> {
        Param::text(self)
    }
}

impl ToParam for i64 {
    const KIND: Kind = Kind::Integer;

    fn to_param(&self) -> Param<'_> {
        Param::Integer(*self)
    }
}

impl ToParam for u64 {
    const KIND: Kind = Kind::Integer;

    fn to_param(&self) -> Param<'_> {
        Param::number(*self)
    }
}

impl ToParam for u32 {
    const KIND: Kind = Kind::Integer;

    fn to_param(&self) -> Param<'_> {
        Param::Integer((*self).into())
    }
}

impl ToParam for u16 {
    const KIND: Kind = Kind::Integer;

    fn to_param(&self) -> Param<'_> {
        Param::Integer((*self).into())
    }
}

impl ToParam for bool {
    const KIND: Kind = Kind::Integer;

    fn to_param(&self) -> Param<'_> {
        Param::Integer((*self).into())
    }
}

impl<const LENGTH: usize> ToParam for [u8; LENGTH] {
    const KIND: Kind = Kind::Bytes;

    fn to_param(&self) -> Param<'_> {
        Param::Bytes(self)
    }
}

impl ToParam for [u8] {
    const KIND: Kind = Kind::Bytes;

    fn to_param(&self) -> Param<'_> {
        Param::Bytes(self)
    }
}

impl ToParam for Vec<u8> {
    const KIND: Kind = Kind::Bytes;

    fn to_param(&self) -> Param<'_> {
        Param::Bytes(self)
    }
}

/// One row that was found.
pub enum Row<'a> {
    /// SQLite's.
    Sqlite(&'a rusqlite::Row<'a>),
    /// PostgreSQL's.
    Postgres(&'a tokio_postgres::Row),
}

impl Row<'_> {
    /// A column by its place, from 0.
    pub fn get<T: for<'c> FromColumn<'c>>(&self, column: usize) -> Result<T> {
        T::from_column(self.column(column)?).map_err(|why| Error::broken(column, why))
    }

    /// A column without copying it.
    pub fn column(&self, column: usize) -> Result<Param<'_>> {
        match self {
            Row::Sqlite(row) => sqlite_column(row, column),
            Row::Postgres(row) => postgres_column(row, column),
        }
    }
}

fn sqlite_column<'r>(row: &'r rusqlite::Row<'r>, column: usize) -> Result<Param<'r>> {
    match row.get_ref(column)? {
        ValueRef::Null => Ok(Param::Null),
        ValueRef::Integer(number) => Ok(Param::Integer(number)),
        ValueRef::Text(text) => {
            std::str::from_utf8(text).map(Param::text).map_err(|why| Error::broken(column, why))
        }
        ValueRef::Blob(bytes) => Ok(Param::Bytes(bytes)),
        ValueRef::Real(_) => Err(Error::broken(column, Broken::kind())),
    }
}

fn postgres_column(row: &tokio_postgres::Row, column: usize) -> Result<Param<'_>> {
    let kind = row.columns().get(column).map(tokio_postgres::Column::type_);
    let value = match kind {
        Some(&Type::INT8) => row.try_get::<_, Option<i64>>(column)?.map(Param::Integer),
        Some(&Type::INT4) => row.try_get::<_, Option<i32>>(column)?.map(|n| Param::Integer(n.into())),
        Some(&Type::BOOL) => row.try_get::<_, Option<bool>>(column)?.map(|b| Param::Integer(b.into())),
        Some(&Type::TEXT | &Type::VARCHAR) => row.try_get::<_, Option<&str>>(column)?.map(Param::text),
        Some(&Type::BYTEA) => row.try_get::<_, Option<&[u8]>>(column)?.map(Param::Bytes),
        _ => return Err(Error::broken(column, Broken::kind())),
    };
    Ok(value.unwrap_or(Param::Null))
}

/// What can be made of a column.
pub trait FromColumn<'c>: Sized {
    /// Or why not.
    fn from_column(column: Param<'c>) -> std::result::Result<Self, Broken>;
}

/// A column holds what this program never wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(String);

impl Broken {
    /// With the reason.
    pub fn because(why: impl fmt::Display) -> Broken {
        Broken(why.to_string())
    }

    /// It is of another type, or out of range.
    pub fn kind() -> Broken {
        Broken::because("it is of another type, or out of range")
    }
}

impl<'c, T: FromColumn<'c>> FromColumn<'c> for Option<T> {
    fn from_column(column: Param<'c>) -> std::result::Result<Self, Broken> {
        if column == Param::Null { Ok(None) } else { T::from_column(column).map(Some) }
    }
}

impl FromColumn<'_> for String {
    fn from_column(column: Param<'_>) -> std::result::Result<Self, Broken> {
        if let Param::Text(text) = column { Ok(text.into_owned()) } else { Err(Broken::kind()) }
    }
}

impl FromColumn<'_> for i64 {
    fn from_column(column: Param<'_>) -> std::result::Result<Self, Broken> {
        if let Param::Integer(number) = column { Ok(number) } else { Err(Broken::kind()) }
    }
}

macro_rules! unsigned {
    ($($number:ty),*) => {$(
        impl FromColumn<'_> for $number {
            fn from_column(column: Param<'_>) -> std::result::Result<Self, Broken> {
                i64::from_column(column)?.try_into().map_err(|_| Broken::kind())
            }
        }
    )*};
}

unsigned!(u64, u32, u16);

impl FromColumn<'_> for bool {
    fn from_column(column: Param<'_>) -> std::result::Result<Self, Broken> {
        Ok(i64::from_column(column)? != 0)
    }
}

impl<const LENGTH: usize> FromColumn<'_> for [u8; LENGTH] {
    fn from_column(column: Param<'_>) -> std::result::Result<Self, Broken> {
        if let Param::Bytes(bytes) = column {
            bytes.try_into().map_err(|_| Broken::kind())
        } else {
            Err(Broken::kind())
        }
    }
}

impl FromColumn<'_> for Vec<u8> {
    fn from_column(column: Param<'_>) -> std::result::Result<Self, Broken> {
        if let Param::Bytes(bytes) = column { Ok(bytes.to_vec()) } else { Err(Broken::kind()) }
    }
}

/// A result of a database.
pub type Result<T> = std::result::Result<T, Error>;

pub(super) const STANDBY: &str = "the server is a standby, or read-only; name the primary, or all servers: \
     postgres://USER@ONE:5432,OTHER:5432/NAME";
pub(super) const POOLED: &str = "a pooler gives one connection's statements to another, such as PgBouncer with \
     pool_mode=transaction; use pool_mode=session with server_reset_query=DISCARD ALL, or PostgreSQL itself";

/// Why a database did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// SQLite returned an error.
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
    /// PostgreSQL returned an error, or did not answer.
    #[error("{}", describe(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// A row is not one of this program's.
    #[error("{0}")]
    Row(String),
    /// TLS can't be spoken as it was asked for.
    #[error("{0}")]
    Tls(String),
    /// The server, or how it is reached, is none that a ledger can rest on.
    #[error("{0}")]
    Unfit(&'static str),
}

impl Error {
    /// A column holds what this program never wrote.
    pub fn broken(column: usize, why: impl fmt::Display) -> Error {
        Error::Row(format!("column {column}: {why}"))
    }

    /// The way to the database, or its server, is of no use now, and may be later. A standby is one that may take over
    /// only where others are named beside it.
    pub fn may_pass(&self, hosts: usize) -> bool {
        match self {
            Error::Unfit(why) if *why == STANDBY => hosts > 1,
            Error::Unfit(why) => *why != POOLED,
            Error::Postgres(cause) => match cause.code() {
                // Connection exceptions, operator intervention, no room for a session.
                Some(code) => ["08", "57P", "53300"].iter().any(|class| code.code().starts_with(class)),
                // What TLS says of a certificate comes as invalid data.
                None => std::error::Error::source(cause)
                    .and_then(|cause| cause.downcast_ref::<std::io::Error>())
                    .is_some_and(|cause| cause.kind() != std::io::ErrorKind::InvalidData),
            },
            Error::Sqlite(_) | Error::Row(_) | Error::Tls(_) => false,
        }
    }

    /// The cause is what was to be written or was read, and not the database's state or the way to it: another
    /// transaction, without it, may do.
    pub fn is_of_a_row(&self) -> bool {
        match self {
            Error::Row(_) => true,
            _ => self.is_unstorable(),
        }
    }

    /// The database understood what was to be written, and will never take it.
    pub fn is_unstorable(&self) -> bool {
        match self {
            Error::Sqlite(cause) => matches!(
                cause.sqlite_error_code(),
                Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
            ),
            // Data exceptions, constraints, what a trigger or a view's check refuses, and what exceeds a limit.
            Error::Postgres(cause) => cause.code().is_some_and(|code| {
                ["22", "23", "44", "54", "P0"].iter().any(|class| code.code().starts_with(class))
            }),
            Error::Row(_) | Error::Unfit(_) | Error::Tls(_) => false,
        }
    }

    /// A statement was ended because its time was over.
    pub fn is_too_long(&self) -> bool {
        match self {
            Error::Sqlite(cause) => {
                cause.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted)
            }
            Error::Postgres(cause) => cause.code().is_some_and(|code| code.code() == "57014"),
            Error::Row(_) | Error::Tls(_) | Error::Unfit(_) => false,
        }
    }
}

/// The driver's own text is as short as "db error"; the server's message is in its source.
fn describe(cause: &tokio_postgres::Error) -> String {
    match (cause.as_db_error(), std::error::Error::source(cause)) {
        (Some(error), _) => format!("{} ({})", error.message(), error.code().code()),
        (None, Some(source)) => format!("{cause}: {source}"),
        (None, None) => cause.to_string(),
    }
}

impl From<serde_json::Error> for Error {
    fn from(cause: serde_json::Error) -> Error {
        Error::Row(cause.to_string())
    }
}
