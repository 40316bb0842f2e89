//! How tenants are packed into one value of shared data: little-endian numbers, one held after the other.

use super::{Lease, TenantLeases};
use crate::value::{Corrupt, chunk};
use protocol::LeaseId;

/// Unpacks all tenants of a value.
pub(super) fn read(value: &[u8]) -> Result<Vec<TenantLeases>, Corrupt> {
    let mut rest = value;
    let mut tenants = Vec::with_capacity(1);
    while !rest.is_empty() {
        tenants.push(held(&mut rest)?);
    }
    Ok(tenants)
}

/// Packs the tenants into a value.
pub(super) fn write(tenants: &[TenantLeases]) -> Vec<u8> {
    let leases = tenants.iter().fold(0, |sum: usize, held| sum.saturating_add(held.leases.len()));
    let mut value =
        Vec::with_capacity(tenants.len().saturating_mul(73).saturating_add(leases.saturating_mul(80)));
    for held in tenants {
        value.extend_from_slice(&held.tenant.to_le_bytes());
        value.extend_from_slice(&held.asked.map_or(0, LeaseId::bits).to_le_bytes());
        let numbers = [
            held.asked_until_ms,
            held.no_ask_before_ms,
            held.second,
            held.spent_this_second,
            held.spent_last_second,
            held.last_spent_ms,
        ];
        numbers.iter().for_each(|number| value.extend_from_slice(&number.to_le_bytes()));
        value.push(u8::try_from(held.leases.len()).unwrap_or(u8::MAX));
        for lease in held.leases.iter().take(usize::from(u8::MAX)) {
            value.extend_from_slice(&lease.id.bits().to_le_bytes());
            let numbers = [
                lease.granted,
                lease.spent,
                lease.reported,
                lease.revision,
                lease.acknowledged_revision,
                lease.sent_ms,
                lease.deadline_ms,
                lease.closed_ms,
            ];
            numbers.iter().for_each(|number| value.extend_from_slice(&number.to_le_bytes()));
        }
    }
    value
}

fn held(rest: &mut &[u8]) -> Result<TenantLeases, Corrupt> {
    let mut held = TenantLeases {
        tenant: number(rest)?,
        // No lease has the id zero.
        asked: Some(id(rest)?).filter(|asked| asked.bits() != 0),
        asked_until_ms: number(rest)?,
        no_ask_before_ms: number(rest)?,
        second: number(rest)?,
        spent_this_second: number(rest)?,
        spent_last_second: number(rest)?,
        last_spent_ms: number(rest)?,
        leases: Vec::new(),
    };
    let [count] = chunk(rest)?;
    held.leases.reserve(usize::from(count).saturating_add(1));
    for _ in 0..count {
        held.leases.push(Lease {
            id: id(rest)?,
            granted: number(rest)?,
            spent: number(rest)?,
            reported: number(rest)?,
            revision: number(rest)?,
            acknowledged_revision: number(rest)?,
            sent_ms: number(rest)?,
            deadline_ms: number(rest)?,
            closed_ms: number(rest)?,
        });
    }
    Ok(held)
}

fn number(rest: &mut &[u8]) -> Result<u64, Corrupt> {
    chunk(rest).map(u64::from_le_bytes)
}

fn id(rest: &mut &[u8]) -> Result<LeaseId, Corrupt> {
    chunk(rest).map(u128::from_le_bytes).map(LeaseId::from_bits)
}
