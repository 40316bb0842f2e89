//! `/v1`: what administrators ask. Bodies and answers are `protocol::admin`'s.

mod admin_keys;
mod agents;
mod audit;
mod decisions;
mod filter_keys;
mod keys;
mod leases;
mod policy;
mod reports;
mod reservations;
mod tenants;

use super::api::Endpoint;
use super::problem::Refused;
use protocol::Timestamp;
use protocol::admin::Page;

/// Every endpoint. Each subject has its own table, beside its handlers.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    let tables = [
        tenants::endpoints(),
        keys::endpoints(),
        agents::endpoints(),
        admin_keys::endpoints(),
        filter_keys::endpoints(),
        leases::endpoints(),
        reservations::endpoints(),
        reports::endpoints(),
        audit::endpoints(),
        decisions::endpoints(),
        policy::endpoints(),
    ];
    tables.into_iter().flatten().collect()
}

/// Items on a page unless asked otherwise, and at most.
const LIMIT: u32 = 100;
const LIMIT_MAX: u32 = 1000;

fn limit(asked: Option<u32>) -> Result<u32, Refused> {
    match asked.unwrap_or(LIMIT) {
        limit @ 1..=LIMIT_MAX => Ok(limit),
        _ => Err(Refused::invalid(format!("limit: must be 1 to {LIMIT_MAX}"))),
    }
}

/// A period includes `from` and excludes `to`. One that ends before it begins is refused.
fn ordered(from: Option<Timestamp>, to: Option<Timestamp>) -> Result<(), Refused> {
    match (from, to) {
        (Some(from), Some(to)) if to < from => {
            Err(Refused::invalid(format!("to: {to} is before from, {from}; say the earlier time first")))
        }
        _ => Ok(()),
    }
}

/// A page of at most `limit` items. Callers fetch one item more than that; if it is there, another page follows.
fn page<T>(mut items: Vec<T>, limit: u32, cursor: impl Fn(&T) -> String) -> Page<T> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = items.len() > limit;
    items.truncate(limit);
    let next_cursor = items.last().filter(|_| more).map(cursor);
    Page { items, next_cursor }
}
