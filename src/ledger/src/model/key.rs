//! Api keys, and whether one may be used.

use protocol::api_key::KeyHash;
use protocol::key::{Concurrency, Grant, KeySource, KeyState, Limit};
use protocol::{AgentId, Credits, KeyId, TenantId, Timestamp};

/// A key at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub id: KeyId,
    /// Who pays.
    pub tenant_id: TenantId,
    pub name: String,
    pub scopes: Vec<String>,
    /// Services it is held to.
    pub services: Option<Vec<Grant>>,
    /// Tools it is held to.
    pub tools: Option<Vec<Grant>>,
    /// Resources it is held to.
    pub resources: Option<Vec<Grant>>,
    /// Limits beside the tier's.
    pub limits: Vec<Limit>,
    /// What it may have under way on one worker, beside the tier's.
    pub concurrency: Option<Concurrency>,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// The agent it belongs to.
    pub agent_id: Option<AgentId>,
    /// The most that it may spend in a calendar month.
    pub budget: Option<Credits>,
    /// Counts its changes, for ETags.
    pub version: u64,
    /// How it came to be.
    pub source: KeySource,
    pub created_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
    /// When it last made a decision that was reported.
    pub last_used_at: Option<Timestamp>,
    /// The key that asked for it.
    pub parent: Option<ParentLink>,
}

impl Key {
    /// What decides whether it may be used, as far as the key itself says.
    pub fn life(&self, tenant_suspended: bool) -> Life {
        Life {
            is_revoked: self.revoked_at.is_some(),
            is_suspended: tenant_suspended,
            ends_at: self.expires_at,
        }
    }
}

/// One of a key's secrets, by its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// SHA-256 of it.
    pub hash: KeyHash,
    pub key_id: KeyId,
    pub created_at: Timestamp,
    /// When it stops working, once it was rotated away.
    pub expires_at: Option<Timestamp>,
}

/// How a key hangs on the one that asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentLink {
    /// The key that asked.
    pub key_id: KeyId,
    /// The secret with which it asked.
    pub secret: KeyHash,
}

/// What decides whether a key may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// It was revoked, or is no more.
    pub is_revoked: bool,
    /// Its tenant is suspended.
    pub is_suspended: bool,
    /// When it ends.
    pub ends_at: Option<Timestamp>,
}

impl Life {
    /// Of a key that can't be found.
    pub const OVER: Life = Life { is_revoked: true, is_suspended: false, ends_at: None };

    /// It also ends with a secret.
    pub fn until(self, secret_expires_at: Option<Timestamp>) -> Life {
        Life { ends_at: [self.ends_at, secret_expires_at].into_iter().flatten().min(), ..self }
    }

    /// It also ends with the key that asked for it.
    pub fn within(self, parent: Life) -> Life {
        Life { is_revoked: self.is_revoked || parent.is_revoked, ..self.until(parent.ends_at) }
    }

    /// May the key be used at this moment. Revocation is final, so it comes first. The store selects keys by the same
    /// order of questions.
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

/// A key as lists need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub key: Key,
    /// Its tenant is suspended.
    pub tenant_suspended: bool,
    /// How long its parent lives, if it has one.
    pub parent: Option<Life>,
}

impl Listed {
    /// What decides whether it may be used.
    pub fn life(&self) -> Life {
        let own = self.key.life(self.tenant_suspended);
        self.parent.map_or(own, |parent| own.within(parent))
    }
}

/// A parent as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    pub key: Key,
    /// When the secret with which it asked ends.
    pub secret_expires_at: Option<Timestamp>,
}

impl Parent {
    /// How long it lives.
    pub fn life(&self) -> Life {
        self.key.life(false).until(self.secret_expires_at)
    }
}

/// What was found under a hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub key: Key,
    /// When this one of its secrets ends.
    pub secret_expires_at: Option<Timestamp>,
    /// The tenant's tier.
    pub tier: String,
    /// The tenant is suspended.
    pub tenant_suspended: bool,
    /// Its parent, if it has one that is still there.
    pub parent: Option<Parent>,
}

impl Found {
    /// What decides whether it may be used with the secret by which it was found.
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
    fn a_child_outlives_neither_its_parent_nor_its_parents_secret() {
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
