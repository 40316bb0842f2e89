//! Maps types to rows: a type's columns are listed once, and reads, writes and upserts follow from the list.
//!
//! A new column is a field of the type, its name in the list beside the table, and a migration.

use super::sql::{Connection, Error, FromColumn, Insert, Kind, Param, Result, Row, ToParam};
use std::borrow::Cow;
use std::marker::PhantomData;

/// One column.
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// An upsert updates it.
    pub(super) changes: bool,
}

/// A row, or a part of one. Implemented by [`columns`].
pub(super) trait Columns: Sized {
    /// Its columns in their order.
    fn columns() -> Vec<Column>;
    /// Reads the next columns.
    fn read(cursor: &mut Cursor<'_, '_>) -> Result<Self>;
    /// Writes the next columns.
    fn write<'v>(&'v self, values: &mut Vec<Param<'v>>);
}

/// Reads a row from the first column to the last. A column with an invalid value is an error, not a default.
pub(super) struct Cursor<'c, 'r> {
    row: &'c Row<'r>,
    next: usize,
}

impl<'c, 'r> Cursor<'c, 'r> {
    pub(super) fn new(row: &'c Row<'r>) -> Self {
        Cursor { row, next: 0 }
    }

    /// The next column.
    pub(super) fn value<T: for<'v> FromColumn<'v>>(&mut self) -> Result<T> {
        let column = self.next;
        self.next = column.saturating_add(1);
        self.row.get(column)
    }

    /// The next columns.
    pub(super) fn part<T: Columns>(&mut self) -> Result<T> {
        T::read(self)
    }

    /// The columns contradict each other.
    pub(super) fn broken(&self, why: &str) -> Error {
        Error::broken(self.next.saturating_sub(1), why)
    }
}

/// A table with rows of one type.
pub(super) struct Table<R> {
    name: &'static str,
    /// The primary key; empty for a table to which rows are only added.
    key: &'static [&'static str],
    row: PhantomData<fn() -> R>,
}

impl<R: Columns> Table<R> {
    pub(super) const fn new(name: &'static str, key: &'static [&'static str]) -> Table<R> {
        Table { name, key, row: PhantomData }
    }

    /// `SELECT` of its columns, followed by `more`.
    pub(super) fn select(&self, more: &str) -> String {
        format!("SELECT {} FROM {} {more}", self.columns(), self.name)
    }

    /// Its columns, qualified.
    pub(super) fn columns(&self) -> String {
        let names: Vec<String> =
            R::columns().iter().map(|column| format!("{}.{}", self.name, column.name)).collect();
        names.join(", ")
    }

    /// Every row of a [`Table::select`].
    pub(super) fn all(&self, connection: &Connection, more: &str, params: &[Param<'_>]) -> Result<Vec<R>> {
        connection.all(&self.select(more), params, read)
    }

    /// Its first row.
    pub(super) fn first(
        &self,
        connection: &Connection,
        more: &str,
        params: &[Param<'_>],
    ) -> Result<Option<R>> {
        connection.first(&self.select(more), params, read)
    }

    /// Every row whose `column` is one of `texts`, see [`Connection::each`].
    pub(super) fn each<'t>(
        &self,
        connection: &Connection,
        column: &str,
        texts: impl Iterator<Item = impl Into<Cow<'t, str>>>,
    ) -> Result<Vec<R>> {
        connection.each(&self.select(&format!("WHERE {column}")), texts, read)
    }

    /// Inserts rows. Of an existing row the changing columns are updated.
    pub(super) fn put<'v, W: Written<'v>>(
        &self,
        connection: &Connection,
        rows: impl Iterator<Item = W>,
    ) -> Result<()> {
        let columns = R::columns();
        let changing: Vec<String> = columns
            .iter()
            .filter(|column| column.changes)
            .map(|Column { name, .. }| format!("{name} = excluded.{name}"))
            .collect();
        let conflict = match (self.key, changing.as_slice()) {
            ([], _) => String::new(),
            (key, []) => format!("ON CONFLICT ({}) DO NOTHING", key.join(", ")),
            (key, changing) => {
                format!("ON CONFLICT ({}) DO UPDATE SET {}", key.join(", "), changing.join(", "))
            }
        };
        self.put_or(connection, &conflict, rows)
    }

    /// The same, with an `ON CONFLICT` clause.
    pub(super) fn put_or<'v, W: Written<'v>>(
        &self,
        connection: &Connection,
        conflict: &str,
        rows: impl Iterator<Item = W>,
    ) -> Result<()> {
        let columns: Vec<(&str, Kind)> =
            R::columns().iter().map(|column| (column.name, column.kind)).collect();
        let insert = Insert { table: self.name, columns: &columns, conflict };
        let width = columns.len();
        connection.insert(
            &insert,
            rows.map(|row| {
                let mut values = Vec::with_capacity(width);
                row.values(&mut values);
                values
            }),
        )
    }
}

/// Reads a row.
pub(super) fn read<R: Columns>(row: &Row<'_>) -> Result<R> {
    R::read(&mut Cursor::new(row))
}

/// What can be written as a row: a value, or a key and a value.
pub(super) trait Written<'v> {
    fn values(self, values: &mut Vec<Param<'v>>);
}

impl<'v, R: Columns> Written<'v> for &'v R {
    fn values(self, values: &mut Vec<Param<'v>>) {
        self.write(values);
    }
}

impl<'v, K: Columns, R: Columns> Written<'v> for (&'v K, &'v R) {
    fn values(self, values: &mut Vec<Param<'v>>) {
        self.0.write(values);
        self.1.write(values);
    }
}

impl<K: Columns, R: Columns> Columns for (K, R) {
    fn columns() -> Vec<Column> {
        K::columns().into_iter().chain(R::columns()).collect()
    }

    fn read(cursor: &mut Cursor<'_, '_>) -> Result<Self> {
        Ok((cursor.part()?, cursor.part()?))
    }

    fn write<'v>(&'v self, values: &mut Vec<Param<'v>>) {
        self.0.write(values);
        self.1.write(values);
    }
}

/// The kind of column that a field needs.
pub(super) const fn kind<R, T: ToParam>(_: fn(&R) -> &T) -> Kind {
    T::KIND
}

/// The columns of a type: `fixed` ones are written once, `changing` ones are updated, `nested` fields have several columns.
/// `as` sets a column's name if it differs from the field's.
macro_rules! columns {
    ($row:ident {
        fixed: $($fixed:ident $(as $fixed_name:ident)?),* ;
        changing: $($changing:ident $(as $changing_name:ident)?),* ;
        $(nested: $($nested:ident),+ ;)?
    }) => {
        impl $crate::store::row::Columns for $row {
            fn columns() -> Vec<$crate::store::row::Column> {
                use $crate::store::row::{Column, columns, kind};
                #[allow(unused_mut)]
                let mut columns = vec![
                    $(Column {
                        name: columns!(@name $fixed $($fixed_name)?),
                        kind: kind(|row: &$row| &row.$fixed),
                        changes: false,
                    },)*
                    $(Column {
                        name: columns!(@name $changing $($changing_name)?),
                        kind: kind(|row: &$row| &row.$changing),
                        changes: true,
                    },)*
                ];
                $($(columns.extend($crate::store::row::columns_of(|row: &$row| &row.$nested));)+)?
                columns
            }

            fn read(cursor: &mut $crate::store::row::Cursor<'_, '_>) -> $crate::store::sql::Result<Self> {
                Ok($row {
                    $($fixed: cursor.value()?,)*
                    $($changing: cursor.value()?,)*
                    $($($nested: cursor.part()?,)+)?
                })
            }

            fn write<'v>(&'v self, values: &mut Vec<$crate::store::sql::Param<'v>>) {
                use $crate::store::sql::ToParam;
                values.extend([
                    $(self.$fixed.to_param(),)*
                    $(self.$changing.to_param(),)*
                ]);
                $($(self.$nested.write(values);)+)?
            }
        }
    };
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $name:ident) => { stringify!($name) };
}
pub(super) use columns;

/// The columns of a nested field.
pub(super) fn columns_of<R, T: Columns>(_: fn(&R) -> &T) -> Vec<Column> {
    T::columns()
}

/// The conditions of a query, with their parameters.
pub(super) struct Conditions<'q> {
    text: String,
    params: Vec<Param<'q>>,
}

impl<'q> Conditions<'q> {
    /// A condition such as `id > ?`.
    pub(super) fn new(text: &str, param: Param<'q>) -> Conditions<'q> {
        Conditions { text: text.to_owned(), params: vec![param] }
    }

    /// Adds a condition.
    pub(super) fn and(mut self, text: &str, params: impl IntoIterator<Item = Param<'q>>) -> Conditions<'q> {
        self.text.push_str(" AND ");
        self.text.push_str(text);
        self.params.extend(params);
        self
    }

    /// Adds a condition if its value is set.
    pub(super) fn and_if<T: ToParam>(self, text: &str, asked: &'q Option<T>) -> Conditions<'q> {
        match asked {
            Some(asked) => self.and(text, [asked.to_param()]),
            None => self,
        }
    }

    /// Adds a condition that names its value twice, if the value is set.
    pub(super) fn and_each<T: ToParam>(self, text: &str, asked: &'q Option<T>) -> Conditions<'q> {
        match asked {
            Some(asked) => self.and(text, [asked.to_param(), asked.to_param()]),
            None => self,
        }
    }

    /// The `WHERE` clause, followed by `more`, which ends with `LIMIT ?`.
    pub(super) fn page(mut self, more: &str, limit: u32) -> (String, Vec<Param<'q>>) {
        self.params.push(Param::Integer(limit.into()));
        (format!("WHERE {} {more}", self.text), self.params)
    }
}
