//! Enums as text columns, with diesel kept out of the crates that define the enums.

use std::fmt::Display;
use std::str::FromStr;

use crate::DbError;

/// Reads what a column holds.
pub(crate) fn parse<T: FromStr>(column: &'static str, value: &str) -> Result<T, DbError> {
    value.parse().map_err(|_| DbError::Unreadable { column, value: value.to_owned() })
}

/// Reads what a nullable column holds.
pub(crate) fn parse_opt<T: FromStr>(
    column: &'static str,
    value: Option<&str>,
) -> Result<Option<T>, DbError> {
    value.map(|value| parse(column, value)).transpose()
}

/// What an optional enum is in a column.
pub(crate) fn text_opt<T: Display>(value: Option<T>) -> Option<String> {
    value.map(|value| value.to_string())
}
