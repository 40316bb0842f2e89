//! Key records: what filters get to know about a key.

use crate::model::key::{Found, Key, Parent};
use protocol::Timestamp;
use protocol::key::{self, Grant, KeyRecord};

impl Found {
    /// The record for filters.
    pub fn record(self, now: Timestamp) -> KeyRecord {
        let life = self.life();
        let record = KeyRecord {
            key_id: self.key.id,
            tenant_id: self.key.tenant_id,
            tier: self.tier,
            state: life.state(now),
            scopes: self.key.scopes,
            services: self.key.services,
            tools: self.key.tools,
            resources: self.key.resources,
            limits: self.key.limits,
            concurrency: self.key.concurrency,
            agent_id: self.key.agent_id,
            source: self.key.source,
            has_budget: self.key.budget.is_some(),
            expires_at: life.ends_at,
            parent: None,
        };
        match self.parent {
            Some(Parent { key, .. }) => limit_to_parent(record, key),
            None => record,
        }
    }
}

/// Limits a child's record to what its parent may do now.
fn limit_to_parent(mut record: KeyRecord, key: Key) -> KeyRecord {
    record.scopes.retain(|scope| key.scopes.contains(scope));
    record.services = intersect(record.services, key.services);
    record.tools = intersect(record.tools, key.tools);
    record.resources = intersect(record.resources, key.resources);
    record.parent = Some(key::Parent {
        key_id: key.id,
        agent_id: key.agent_id,
        limits: key.limits,
        concurrency: key.concurrency,
    });
    record
}

/// The grants that both have, with the earlier expiry.
pub fn intersect(child: Option<Vec<Grant>>, parent: Option<Vec<Grant>>) -> Option<Vec<Grant>> {
    let (child, parent) = match (child, parent) {
        (None, one) | (one, None) => return one,
        (Some(child), Some(parent)) => (child, parent),
    };
    let shared = child.iter().flat_map(|own| {
        let of_parent = parent.iter().filter(|other| other.name == own.name);
        of_parent.map(|other| Grant {
            name: own.name.clone(),
            expires_at: [own.expires_at, other.expires_at].into_iter().flatten().min(),
        })
    });
    Some(shared.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(names: &[(&str, Option<u64>)]) -> Option<Vec<Grant>> {
        let grant = |(name, end): &(&str, Option<u64>)| Grant {
            name: (*name).to_owned(),
            expires_at: end.map(Timestamp::from_millis),
        };
        Some(names.iter().map(grant).collect())
    }

    #[test]
    fn a_child_key_has_the_grants_of_both_and_their_earlier_expiry() {
        for (child, parent, expected) in [
            (None, None, None),
            (None, grants(&[("a", Some(5))]), grants(&[("a", Some(5))])),
            (grants(&[("a", None)]), None, grants(&[("a", None)])),
            (grants(&[("a", None), ("b", None)]), grants(&[("a", Some(5))]), grants(&[("a", Some(5))])),
            (grants(&[("a", Some(3))]), grants(&[("a", Some(5))]), grants(&[("a", Some(3))])),
            (grants(&[("a", None)]), grants(&[]), grants(&[])),
        ] {
            assert_eq!(intersect(child.clone(), parent.clone()), expected, "{child:?} within {parent:?}");
        }
    }
}
