//! Times that callers send.

use chrono::{DateTime, NaiveDateTime, Utc};

use crate::error::ApiError;

/// Reads a query parameter that is a time; without a zone it is UTC.
pub(crate) fn parse(name: &str, text: Option<&str>) -> Result<Option<DateTime<Utc>>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    // A plus that was not encoded arrives as a space.
    let zoned = |text: &str| DateTime::parse_from_rfc3339(text).map(|time| time.to_utc()).ok();
    let bare = || {
        let forms = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];
        forms.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
    };
    let time = zoned(text)
        .or_else(|| zoned(&text.replace(' ', "+")))
        .or_else(|| bare().map(|time| time.and_utc()));
    let wrong = || {
        ApiError::BadRequest(format!(
            "Invalid input for query parameters {name}: '{text}' is not a time like 2026-01-31T12:00:00Z."
        ))
    };
    time.map(Some).ok_or_else(wrong)
}
