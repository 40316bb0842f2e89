//! Bounds of what administrators send. Each refusal names the field; `/openapi.json` has the same bounds.

use crate::http::problem::Refused;
use protocol::Timestamp;
use protocol::admin::{CreateKey, UpdateKey};
use protocol::key::{Concurrency, Grant, Limit};
use protocol::text::unseen;
use serde_json::{Value, json};

const NAME_CHARS_MAX: usize = 200;
const REASON_CHARS_MAX: usize = 500;
const SCOPES_MAX: usize = 64;
const GRANTS_MAX: usize = 256;
const LIMITS_MAX: usize = 16;
/// The longest grace of a rotation: 30 days.
const GRACE_SECONDS_MAX: u32 = 2_592_000;

/// The bounds of [`text`] as a pattern: no control character, and at least one character that is not white space. `text`
/// refuses other invisible characters too, depending on their neighbours, which a pattern can't say.
const TEXT: &str = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$";
/// The same without white space.
const WORD: &str = r"^[^\s\x00-\x1f\x7f-\x9f]+$";

/// The bounds of a body's field by its name, as keywords of JSON Schema. Other bounds are in the field's type.
pub(in crate::http) fn bounds(field: &str) -> Option<Value> {
    Some(match field {
        "name" => json!({"minLength": 1, "maxLength": NAME_CHARS_MAX, "pattern": TEXT}),
        "reason" => json!({"minLength": 1, "maxLength": REASON_CHARS_MAX, "pattern": TEXT}),
        "scopes" => json!({
            "maxItems": SCOPES_MAX,
            "items": {"type": "string", "maxLength": NAME_CHARS_MAX, "pattern": WORD},
        }),
        "services" | "tools" | "resources" => json!({"maxItems": GRANTS_MAX}),
        "limits" => json!({"maxItems": LIMITS_MAX}),
        "grace_seconds" => json!({"maximum": GRACE_SECONDS_MAX}),
        "amount" => json!({"minimum": 1}),
        _ => return None,
    })
}

fn text(field: &str, text: &str, chars_max: usize) -> Result<(), Refused> {
    if text.trim().is_empty() || text.chars().count() > chars_max {
        return Err(Refused::invalid(format!("{field}: must be 1 to {chars_max} characters")));
    }
    match unseen(text) {
        None => Ok(()),
        Some(letter) => Err(Refused::invalid(format!(
            "{field}: must not hold {}, a control character or one that is not seen or changes the direction of others; write it \
             without",
            letter.escape_unicode()
        ))),
    }
}

pub(super) fn name(name: &str) -> Result<(), Refused> {
    text("name", name, NAME_CHARS_MAX)
}

pub(super) fn reason(reason: &str) -> Result<(), Refused> {
    text("reason", reason, REASON_CHARS_MAX)
}

pub(super) fn grace(seconds: u32) -> Result<(), Refused> {
    if seconds <= GRACE_SECONDS_MAX {
        return Ok(());
    }
    Err(Refused::invalid(format!("grace_seconds: must be at most {GRACE_SECONDS_MAX}, which is 30 days")))
}

pub(super) fn key(key: &CreateKey, now: Timestamp) -> Result<(), Refused> {
    name(&key.name)?;
    scopes(&key.scopes)?;
    grants("services", key.services.as_deref())?;
    grants("tools", key.tools.as_deref())?;
    grants("resources", key.resources.as_deref())?;
    limits(key.limits.as_deref().unwrap_or_default())?;
    concurrency(key.concurrency.as_ref())?;
    end(key.expires_at, now)
}

pub(super) fn update(update: &UpdateKey, now: Timestamp) -> Result<(), Refused> {
    reason(&update.reason)?;
    update.name.as_deref().map_or(Ok(()), name)?;
    update.scopes.as_deref().map_or(Ok(()), scopes)?;
    grants("services", update.services.set().map(Vec::as_slice))?;
    grants("tools", update.tools.set().map(Vec::as_slice))?;
    grants("resources", update.resources.set().map(Vec::as_slice))?;
    limits(update.limits.as_deref().unwrap_or_default())?;
    concurrency(update.concurrency.set())?;
    end(update.expires_at.set().copied(), now)
}

fn scopes(scopes: &[String]) -> Result<(), Refused> {
    count("scopes", scopes.len(), SCOPES_MAX)?;
    for (place, scope) in scopes.iter().enumerate() {
        text(&format!("scopes[{place}]"), scope, NAME_CHARS_MAX)?;
        if scope.contains(char::is_whitespace) {
            // Scopes travel in headers and in WWW-Authenticate as a list with spaces between.
            return Err(Refused::invalid(format!("scopes[{place}]: must not hold white space")));
        }
    }
    Ok(())
}

fn concurrency(concurrency: Option<&Concurrency>) -> Result<(), Refused> {
    if concurrency.is_none_or(Concurrency::is_in_bounds) {
        return Ok(());
    }
    Err(Refused::invalid(format!(
        "concurrency: requests must be 1 to {most}, streams at most {most}",
        most = Concurrency::MAX
    )))
}

fn limits(limits: &[Limit]) -> Result<(), Refused> {
    count("limits", limits.len(), LIMITS_MAX)?;
    for (place, limit) in limits.iter().enumerate() {
        if !limit.is_in_bounds() {
            return Err(Refused::invalid(format!(
                "limits[{place}]: permits must be 1 to {}, window_seconds 1 to {}",
                Limit::PERMITS_MAX,
                Limit::WINDOW_SECONDS_MAX
            )));
        }
        let mut before = limits.iter().take(place);
        if before.any(|other| other.window_seconds == limit.window_seconds) {
            return Err(Refused::invalid(format!(
                "limits[{place}]: has the same window as another one; keep the stricter"
            )));
        }
    }
    Ok(())
}

fn end(expires_at: Option<Timestamp>, now: Timestamp) -> Result<(), Refused> {
    if expires_at.is_some_and(|end| end <= now) {
        return Err(Refused::invalid(format!("expires_at: must be in the future; it is {now} now")));
    }
    Ok(())
}

fn count(field: &str, count: usize, max: usize) -> Result<(), Refused> {
    if count <= max {
        Ok(())
    } else {
        Err(Refused::invalid(format!("{field}: must be at most {max} of them")))
    }
}

fn grants(field: &str, grants: Option<&[Grant]>) -> Result<(), Refused> {
    let grants = grants.unwrap_or_default();
    count(field, grants.len(), GRANTS_MAX)?;
    grants
        .iter()
        .enumerate()
        .try_for_each(|(place, grant)| text(&format!("{field}[{place}].name"), &grant.name, NAME_CHARS_MAX))
}
