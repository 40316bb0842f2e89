//! Grants, limits and times as they are written on the command line.

use protocol::admin::Patch;
use protocol::key::{Grant, Limit};
use protocol::{Credits, Timestamp};

/// `NAME`, or `NAME@TIME` with its own end.
pub fn grant(text: &str) -> Result<Grant, String> {
    let (name, expires_at) = match text.rsplit_once('@') {
        Some((name, end)) => (name, Some(time(end)?)),
        None => (text, None),
    };
    if name.is_empty() {
        return Err("a grant is a name, or NAME@TIME".into());
    }
    Ok(Grant { name: name.to_owned(), expires_at })
}

/// `PERMITS/SECONDS`, with or without an `s` at its end.
pub fn limit(text: &str) -> Result<Limit, String> {
    let read = || {
        let (permits, window) = text.split_once('/')?;
        let window_seconds = window.strip_suffix('s').unwrap_or(window).parse().ok()?;
        Some(Limit { permits: permits.parse().ok()?, window_seconds }).filter(Limit::is_in_bounds)
    };
    read().ok_or_else(|| {
        format!(
            "a limit is PERMITS/WINDOW such as 10/60s, at most {} in at most {}s",
            Limit::PERMITS_MAX,
            Limit::WINDOW_SECONDS_MAX
        )
    })
}

/// An amount of credits, or `none` for no bound.
pub fn budget(text: &str) -> Result<Patch<Credits>, String> {
    if text == "none" { Ok(Patch::Clear) } else { super::super::tenants::credits(text).map(Patch::Set) }
}

/// RFC 3339, or `never`.
pub fn end(text: &str) -> Result<Patch<Timestamp>, String> {
    if text == "never" { Ok(Patch::Clear) } else { time(text).map(Patch::Set) }
}

/// RFC 3339.
pub fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_may_carry_its_own_end() {
        assert_eq!(grant("project:42"), Ok(Grant { name: "project:42".into(), expires_at: None }));
        let ending = grant("project:42@2027-01-01T00:00:00Z").unwrap();
        assert_eq!((ending.name.as_str(), ending.expires_at.is_some()), ("project:42", true));
        assert!(grant("project:42@soon").is_err());
        assert!(grant("@2027-01-01T00:00:00Z").is_err());
    }

    #[test]
    fn a_limit_has_permits_and_a_window_within_bounds() {
        let ten = Ok(Limit { permits: 10, window_seconds: 60 });
        assert_eq!(limit("10/60s"), ten);
        assert_eq!(limit("10/60"), ten);
        for text in ["10", "0/60s", "10/0s", "10/90000s", "-1/60s", "x/60s"] {
            assert!(limit(text).is_err(), "{text}");
        }
    }
}
