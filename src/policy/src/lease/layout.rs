//! How purses are packed into one value of shared data: little-endian numbers, one purse after the other.

use super::{Lease, Purse};
use crate::value::{Corrupt, chunk};
use protocol::LeaseId;

/// Unpacks all purses of a value.
pub(super) fn read(value: &[u8]) -> Result<Vec<Purse>, Corrupt> {
    let mut rest = value;
    let mut purses = Vec::with_capacity(1);
    while !rest.is_empty() {
        purses.push(purse(&mut rest)?);
    }
    Ok(purses)
}

/// Packs the purses into a value.
pub(super) fn write(purses: &[Purse]) -> Vec<u8> {
    let leases = purses.iter().fold(0, |sum: usize, purse| sum.saturating_add(purse.leases.len()));
    let mut value =
        Vec::with_capacity(purses.len().saturating_mul(73).saturating_add(leases.saturating_mul(80)));
    for purse in purses {
        value.extend_from_slice(&purse.tenant.to_le_bytes());
        value.extend_from_slice(&purse.asked.map_or(0, LeaseId::bits).to_le_bytes());
        let numbers = [
            purse.asked_until_ms,
            purse.dry_until_ms,
            purse.second,
            purse.this,
            purse.last,
            purse.last_spent_ms,
        ];
        numbers.iter().for_each(|number| value.extend_from_slice(&number.to_le_bytes()));
        value.push(u8::try_from(purse.leases.len()).unwrap_or(u8::MAX));
        for lease in purse.leases.iter().take(usize::from(u8::MAX)) {
            value.extend_from_slice(&lease.id.bits().to_le_bytes());
            let numbers = [
                lease.granted,
                lease.spent,
                lease.told,
                lease.revision,
                lease.known,
                lease.sent_ms,
                lease.deadline_ms,
                lease.closed_ms,
            ];
            numbers.iter().for_each(|number| value.extend_from_slice(&number.to_le_bytes()));
        }
    }
    value
}

fn purse(rest: &mut &[u8]) -> Result<Purse, Corrupt> {
    let mut purse = Purse {
        tenant: number(rest)?,
        // No lease has the id zero.
        asked: Some(id(rest)?).filter(|asked| asked.bits() != 0),
        asked_until_ms: number(rest)?,
        dry_until_ms: number(rest)?,
        second: number(rest)?,
        this: number(rest)?,
        last: number(rest)?,
        last_spent_ms: number(rest)?,
        leases: Vec::new(),
    };
    let [count] = chunk(rest)?;
    purse.leases.reserve(usize::from(count).saturating_add(1));
    for _ in 0..count {
        purse.leases.push(Lease {
            id: id(rest)?,
            granted: number(rest)?,
            spent: number(rest)?,
            told: number(rest)?,
            revision: number(rest)?,
            known: number(rest)?,
            sent_ms: number(rest)?,
            deadline_ms: number(rest)?,
            closed_ms: number(rest)?,
        });
    }
    Ok(purse)
}

fn number(rest: &mut &[u8]) -> Result<u64, Corrupt> {
    chunk(rest).map(u64::from_le_bytes)
}

fn id(rest: &mut &[u8]) -> Result<LeaseId, Corrupt> {
    chunk(rest).map(u128::from_le_bytes).map(LeaseId::from_bits)
}
