//! Api keys, and whether a key may be used.

use protocol::api_key::KeyHash;
use protocol::key::{Concurrency, Grant, KeySource, KeyState, Limit};
use protocol::{AgentId, Credits, KeyId, TenantId, Timestamp};

/// A key as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub id: KeyId,
    pub tenant_id: TenantId,
    pub name: String,
    pub scopes: Vec<String>,
    /// The services it is restricted to.
    pub services: Option<Vec<Grant>>,
    /// The tools it is restricted to.
    pub tools: Option<Vec<Grant>>,
    /// The resources it is restricted to.
    pub resources: Option<Vec<Grant>>,
    /// Limits in addition to the tier's.
    pub limits: Vec<Limit>,
    /// Bounds on what it has in flight on one worker, in addition to the tier's.
    pub concurrency: Option<Concurrency>,
    pub expires_at: Option<Timestamp>,
    pub agent_id: Option<AgentId>,
    /// The most it may spend in a calendar month (UTC).
    pub budget: Option<Credits>,
    /// Its version, for ETags.
    pub version: u64,
    /// How it was created.
    pub source: KeySource,
    pub created_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
    /// The time of its newest reported decision.
    pub last_used_at: Option<Timestamp>,
    /// The key that requested it.
    pub parent: Option<ParentLink>,
}

impl Key {
    /// Whether it may be used, without regard to its parent.
    pub fn life(&self, tenant_suspended: bool) -> Life {
        Life {
            is_revoked: self.revoked_at.is_some(),
            is_suspended: tenant_suspended,
            ends_at: self.expires_at,
        }
    }
}

/// One of a key's secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// SHA-256 of the secret.
    pub hash: KeyHash,
    pub key_id: KeyId,
    pub created_at: Timestamp,
    /// When it expires, after a rotation.
    pub expires_at: Option<Timestamp>,
}

/// The parent of an issued key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentLink {
    /// The parent.
    pub key_id: KeyId,
    /// The hash of the parent's secret that requested the key.
    pub secret: KeyHash,
}

/// What decides whether a key may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// It was revoked or deleted.
    pub is_revoked: bool,
    pub is_suspended: bool,
    pub ends_at: Option<Timestamp>,
}

impl Life {
    /// Of a key that does not exist.
    pub const OVER: Life = Life { is_revoked: true, is_suspended: false, ends_at: None };

    /// Ends it with a secret, too.
    pub fn until(self, secret_expires_at: Option<Timestamp>) -> Life {
        Life { ends_at: [self.ends_at, secret_expires_at].into_iter().flatten().min(), ..self }
    }

    /// Ends it with its parent, too.
    pub fn within(self, parent: Life) -> Life {
        Life { is_revoked: self.is_revoked || parent.is_revoked, ..self.until(parent.ends_at) }
    }

    /// Whether the key may be used at this time. Revocation is final, so it comes first. The store's query for keys by state
    /// must use the same order.
    pub fn state(self, now: Timestamp) -> KeyState {
        if self.is_revoked {
            KeyState::Revoked
        } else if self.ends_at.is_some_and(|end| end <= now) {
            KeyState::Expired
        } else if self.is_suspended {
            KeyState::Suspended
        } else {
            KeyState::Active
        }
    }
}

/// A key with what its state depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub key: Key,
    pub tenant_suspended: bool,
    /// Its parent's state.
    pub parent: Option<Life>,
}

impl Listed {
    /// Whether it may be used.
    pub fn life(&self) -> Life {
        let own = self.key.life(self.tenant_suspended);
        self.parent.map_or(own, |parent| own.within(parent))
    }
}

/// The parent of a key that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    pub key: Key,
    /// When the secret that requested the child expires.
    pub secret_expires_at: Option<Timestamp>,
}

impl Parent {
    /// Whether it may be used.
    pub fn life(&self) -> Life {
        self.key.life(false).until(self.secret_expires_at)
    }
}

/// A key that was found by a secret's hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub key: Key,
    /// When this secret expires.
    pub secret_expires_at: Option<Timestamp>,
    /// The tenant's tier.
    pub tier: String,
    pub tenant_suspended: bool,
    /// Its parent, if it has one that still exists.
    pub parent: Option<Parent>,
}

impl Found {
    /// Whether it may be used with this secret.
    pub fn life(&self) -> Life {
        let own = self.key.life(self.tenant_suspended).until(self.secret_expires_at);
        match &self.key.parent {
            Some(_) => own.within(self.parent.as_ref().map_or(Life::OVER, Parent::life)),
            None => own,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revocation_comes_before_expiry_and_expiry_before_suspension() {
        let now = Timestamp::from_millis(10);
        let ends = |millis: u64| Some(Timestamp::from_millis(millis));
        for (is_revoked, ends_at, is_suspended, state) in [
            (false, None, false, KeyState::Active),
            (false, ends(11), false, KeyState::Active),
            (false, ends(10), false, KeyState::Expired),
            (false, ends(11), true, KeyState::Suspended),
            (false, ends(10), true, KeyState::Expired),
            (true, None, true, KeyState::Revoked),
            (true, ends(10), false, KeyState::Revoked),
        ] {
            let life = Life { is_revoked, is_suspended, ends_at };
            assert_eq!(life.state(now), state, "{life:?}");
        }
    }

    #[test]
    fn a_child_key_expires_no_later_than_its_parent_and_its_parents_secret() {
        let now = Timestamp::from_millis(10);
        let alive = Life { is_revoked: false, is_suspended: false, ends_at: None };
        let ended = Life { ends_at: Some(Timestamp::from_millis(10)), ..alive };
        let suspended = Life { is_suspended: true, ..alive };
        for (child, parent, state) in [
            (alive, alive, KeyState::Active),
            (alive, Life { ends_at: Some(Timestamp::from_millis(11)), ..alive }, KeyState::Active),
            (alive, ended, KeyState::Expired),
            (alive, alive.until(ended.ends_at), KeyState::Expired),
            (alive, Life::OVER, KeyState::Revoked),
            (ended, Life::OVER, KeyState::Revoked),
            (suspended, alive, KeyState::Suspended),
            (suspended, ended, KeyState::Expired),
            (ended, alive, KeyState::Expired),
        ] {
            assert_eq!(child.within(parent).state(now), state, "{child:?} within {parent:?}");
        }
    }
}
