//! Parses amounts, grants, limits and times of the command line.

use protocol::admin::Patch;
use protocol::key::{Concurrency, Grant, Limit};
use protocol::{AgentId, Credits, InvalidId, KeyId, TenantId, Timestamp};

/// `NAME`, or `NAME@TIME` with an expiry. A name that ends like `@TIME` is written `NAME@never`.
pub fn grant(text: &str) -> Result<Grant, String> {
    let (name, expires_at) = match text.rsplit_once('@').map(|(name, behind)| (name, behind, end(behind))) {
        Some((name, _, Ok(end))) => (name, end.apply(None)),
        // What is meant as a time would otherwise count as a part of the name, without expiry.
        Some((_, behind, Err(fault))) if begins_as_a_date(behind) => return Err(fault),
        _ => (text, None),
    };
    if name.is_empty() {
        return Err("a grant is a name, or NAME@TIME".into());
    }
    Ok(Grant { name: name.to_owned(), expires_at })
}

/// Formats a grant as [`grant`] parses it.
pub fn as_text(given: &Grant) -> String {
    let Grant { name, expires_at } = given;
    match expires_at {
        Some(end) => format!("{name}@{end}"),
        None if grant(name).as_ref() == Ok(given) => name.clone(),
        None => format!("{name}@never"),
    }
}

fn begins_as_a_date(text: &str) -> bool {
    let year = text.split_once('-').map(|(year, _)| year);
    year.is_some_and(|year| year.len() == 4 && year.bytes().all(|byte| byte.is_ascii_digit()))
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

/// An amount of credits.
pub fn credits(text: &str) -> Result<Credits, String> {
    let amount = text.parse::<u64>().map_err(|_| "credits are an integer, 0 or more".to_owned())?;
    Credits::try_from(amount).map_err(str::to_owned)
}

/// An amount of credits, or `none` for no bound.
pub fn budget(text: &str) -> Result<Patch<Credits>, String> {
    if text == "none" { Ok(Patch::Clear) } else { credits(text).map(Patch::Set) }
}

/// `REQUESTS/STREAMS`.
pub fn concurrency(text: &str) -> Result<Concurrency, String> {
    text.split_once('/')
        .and_then(|(requests, streams)| {
            Some(Concurrency { requests: requests.parse().ok()?, streams: streams.parse().ok()? })
        })
        .filter(Concurrency::is_in_bounds)
        .ok_or_else(|| {
            format!("write it as REQUESTS/STREAMS, such as 20/2, from 1/0 to {0}/{0}", Concurrency::MAX)
        })
}

/// `REQUESTS/STREAMS`, or `none`.
pub fn other_concurrency(text: &str) -> Result<Patch<Concurrency>, String> {
    if text == "none" { Ok(Patch::Clear) } else { concurrency(text).map(Patch::Set) }
}

/// A tenant's id.
pub fn tenant(text: &str) -> Result<TenantId, String> {
    id(text, "tenant", "ten_", TenantId::parse)
}

/// A key's id.
pub fn key(text: &str) -> Result<KeyId, String> {
    id(text, "key", "key_", KeyId::parse)
}

/// An agent's id.
pub fn of_agent(text: &str) -> Result<AgentId, String> {
    id(text, "agent", "agt_", AgentId::parse)
}

/// Names and ids of other kinds are refused here, where it is known which kind is meant.
fn id<T>(text: &str, kind: &str, prefix: &str, parse: fn(&str) -> Result<T, InvalidId>) -> Result<T, String> {
    let parsed = parse(text).ok().filter(|_| text.starts_with(prefix));
    parsed.ok_or_else(|| {
        format!("the id of {kind}s begins with {prefix}; `agentrelay {kind}s list` shows them")
    })
}

/// An agent's id, or `none`.
pub fn agent(text: &str) -> Result<Patch<AgentId>, String> {
    if text == "none" { Ok(Patch::Clear) } else { of_agent(text).map(Patch::Set) }
}

/// A time or date, or `never`.
pub fn end(text: &str) -> Result<Patch<Timestamp>, String> {
    if text == "never" { Ok(Patch::Clear) } else { time(text).map(Patch::Set) }
}

/// RFC 3339, or a date, which is its first moment in UTC.
pub fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::read(text).map_err(|invalid| invalid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_may_have_its_own_expiry() {
        assert_eq!(grant("project:42"), Ok(Grant { name: "project:42".into(), expires_at: None }));
        let ending = grant("project:42@2027-01-01T00:00:00Z").unwrap();
        assert_eq!((ending.name.as_str(), ending.expires_at.is_some()), ("project:42", true));
        assert!(grant("@2027-01-01T00:00:00Z").is_err());
    }

    #[test]
    fn a_granted_name_may_hold_an_at_sign() {
        let named = |name: &str| Ok(Grant { name: name.into(), expires_at: None });
        assert_eq!(grant("user:bob@example.com"), named("user:bob@example.com"));
        assert_eq!(grant("project:42@soon"), named("project:42@soon"));
        let ending = grant("user:bob@example.com@2027-01-01T00:00:00Z").unwrap();
        assert_eq!((ending.name.as_str(), ending.expires_at.is_some()), ("user:bob@example.com", true));
        assert_eq!(grant("build@2027-01-01T00:00:00Z@never"), named("build@2027-01-01T00:00:00Z"));
        for name in ["bob@example.com", "a,b", "a@never", "a@2027", "a@2027-01", "a@2027-01-01T00:00:00Z"] {
            let given = named(name).unwrap();
            assert_eq!(grant(&as_text(&given)), Ok(given), "{name}");
        }
        let by_date = grant("project:42@2027-01-01").unwrap();
        assert_eq!(by_date.expires_at, Timestamp::parse("2027-01-01T00:00:00Z").ok());
        for mistaken in ["project:42@2027-02-30", "project:42@2027-13-01T00:00:00Z"] {
            assert!(grant(mistaken).is_err(), "{mistaken}");
        }
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
