//! Parameters, columns and errors of both databases.

use super::Kind;
use rusqlite::ErrorCode;
use rusqlite::types::ValueRef;
use std::borrow::Cow;
use std::fmt;
use tokio_postgres::types::Type;

/// A parameter of a statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Param<'a> {
    /// NULL.
    Null,
    /// An integer.
    Integer(i64),
    /// Text.
    Text(Cow<'a, str>),
    /// Bytes.
    Bytes(&'a [u8]),
}

impl<'a> Param<'a> {
    /// Text that is not null.
    pub const fn text(text: &'a str) -> Param<'a> {
        Param::Text(Cow::Borrowed(text))
    }

    /// A number, at most `i64::MAX`. Credits and times are far below.
    pub fn number(number: u64) -> Param<'a> {
        Param::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// A type that can be a parameter.
pub trait ToParam {
    /// The kind of its column.
    const KIND: Kind;
    /// Its parameter.
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

/// A row of a result.
pub enum Row<'a> {
    /// A row of SQLite.
    Sqlite(&'a rusqlite::Row<'a>),
    /// A row of PostgreSQL.
    Postgres(&'a tokio_postgres::Row),
}

impl Row<'_> {
    /// Reads a column by its index, from 0.
    pub fn get<T: for<'c> FromColumn<'c>>(&self, column: usize) -> Result<T> {
        T::from_column(self.column(column)?).map_err(|why| Error::broken(column, why))
    }

    /// Borrows a column by its index.
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
        ValueRef::Real(_) => Err(Error::broken(column, InvalidColumn::kind())),
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
        _ => return Err(Error::broken(column, InvalidColumn::kind())),
    };
    Ok(value.unwrap_or(Param::Null))
}

/// A type that can be read from a column.
pub trait FromColumn<'c>: Sized {
    /// Reads the column.
    fn from_column(column: Param<'c>) -> std::result::Result<Self, InvalidColumn>;
}

/// A column has an invalid value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidColumn(String);

impl InvalidColumn {
    /// With a reason.
    pub fn because(why: impl fmt::Display) -> InvalidColumn {
        InvalidColumn(why.to_string())
    }

    /// The value has another type, or is out of range.
    pub fn kind() -> InvalidColumn {
        InvalidColumn::because("it is of another type, or out of range")
    }
}

impl<'c, T: FromColumn<'c>> FromColumn<'c> for Option<T> {
    fn from_column(column: Param<'c>) -> std::result::Result<Self, InvalidColumn> {
        if column == Param::Null { Ok(None) } else { T::from_column(column).map(Some) }
    }
}

impl FromColumn<'_> for String {
    fn from_column(column: Param<'_>) -> std::result::Result<Self, InvalidColumn> {
        if let Param::Text(text) = column { Ok(text.into_owned()) } else { Err(InvalidColumn::kind()) }
    }
}

impl FromColumn<'_> for i64 {
    fn from_column(column: Param<'_>) -> std::result::Result<Self, InvalidColumn> {
        if let Param::Integer(number) = column { Ok(number) } else { Err(InvalidColumn::kind()) }
    }
}

macro_rules! unsigned {
    ($($number:ty),*) => {$(
        impl FromColumn<'_> for $number {
            fn from_column(column: Param<'_>) -> std::result::Result<Self, InvalidColumn> {
                i64::from_column(column)?.try_into().map_err(|_| InvalidColumn::kind())
            }
        }
    )*};
}

unsigned!(u64, u32, u16);

impl FromColumn<'_> for bool {
    fn from_column(column: Param<'_>) -> std::result::Result<Self, InvalidColumn> {
        Ok(i64::from_column(column)? != 0)
    }
}

impl<const LENGTH: usize> FromColumn<'_> for [u8; LENGTH] {
    fn from_column(column: Param<'_>) -> std::result::Result<Self, InvalidColumn> {
        if let Param::Bytes(bytes) = column {
            bytes.try_into().map_err(|_| InvalidColumn::kind())
        } else {
            Err(InvalidColumn::kind())
        }
    }
}

impl FromColumn<'_> for Vec<u8> {
    fn from_column(column: Param<'_>) -> std::result::Result<Self, InvalidColumn> {
        if let Param::Bytes(bytes) = column { Ok(bytes.to_vec()) } else { Err(InvalidColumn::kind()) }
    }
}

/// The result of a database call.
pub type Result<T> = std::result::Result<T, Error>;

pub(super) const STANDBY: &str = "the server is a standby, or read-only; name the primary, or all servers: \
     postgres://USER@ONE:5432,OTHER:5432/NAME";
pub(super) const POOLED: &str = "the connection goes through a pooler that mixes sessions, such as PgBouncer with \
     pool_mode=transaction; use pool_mode=session with server_reset_query=DISCARD ALL, or PostgreSQL itself";

/// Why a database call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// SQLite returned an error.
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
    /// PostgreSQL returned an error, or did not answer.
    #[error("{}", describe(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// A row has an invalid value.
    #[error("{0}")]
    Row(String),
    /// TLS can't be set up as configured.
    #[error("{0}")]
    Tls(String),
    /// A ledger can't use this server or this way to reach it.
    #[error("{0}")]
    Unusable(&'static str),
}

impl Error {
    /// A column has an invalid value.
    pub fn broken(column: usize, why: impl fmt::Display) -> Error {
        Error::Row(format!("column {column}: {why}"))
    }

    /// The error may be temporary. A standby counts only if other hosts are configured, because only then one may take over.
    pub fn is_temporary(&self, hosts: usize) -> bool {
        match self {
            Error::Unusable(why) if *why == STANDBY => hosts > 1,
            Error::Unusable(why) => *why != POOLED,
            Error::Postgres(cause) => match cause.code() {
                // Connection exceptions, operator intervention, no room for a session.
                Some(code) => ["08", "57P", "53300"].iter().any(|class| code.code().starts_with(class)),
                // TLS reports a bad certificate as invalid data.
                None => std::error::Error::source(cause)
                    .and_then(|cause| cause.downcast_ref::<std::io::Error>())
                    .is_some_and(|cause| cause.kind() != std::io::ErrorKind::InvalidData),
            },
            Error::Sqlite(_) | Error::Row(_) | Error::Tls(_) => false,
        }
    }

    /// A row caused the error, not the database or the connection: a transaction without that row may succeed.
    pub fn is_of_a_row(&self) -> bool {
        match self {
            Error::Row(_) => true,
            _ => self.is_unstorable(),
        }
    }

    /// The database will never accept the row.
    pub fn is_unstorable(&self) -> bool {
        match self {
            Error::Sqlite(cause) => matches!(
                cause.sqlite_error_code(),
                Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
            ),
            // Data exceptions, constraints, refusals by triggers or view checks, exceeded limits.
            Error::Postgres(cause) => cause.code().is_some_and(|code| {
                ["22", "23", "44", "54", "P0"].iter().any(|class| code.code().starts_with(class))
            }),
            Error::Row(_) | Error::Unusable(_) | Error::Tls(_) => false,
        }
    }

    /// A statement timed out.
    pub fn is_too_long(&self) -> bool {
        match self {
            Error::Sqlite(cause) => {
                cause.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted)
            }
            Error::Postgres(cause) => cause.code().is_some_and(|code| code.code() == "57014"),
            Error::Row(_) | Error::Tls(_) | Error::Unusable(_) => false,
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
