//! Credentials to the ledger itself: administrators' (`ara_`) and filters' (`arf_`).

use protocol::admin::{AdminKey, FilterKey, Role};
use protocol::api_key::{KeyHash, Kind};
use protocol::{CredentialId, TenantId, Timestamp};

/// Who a credential of the ledger belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCredential {
    /// SHA-256 of the secret by which it was found.
    pub hash: KeyHash,
    /// Its id, `adm_...` or `flt_...`: the actor in the audit trail.
    pub id: CredentialId,
    /// Which kind it opens.
    pub kind: CredentialKind,
    pub name: String,
    /// What an administrator may do; without meaning for a filter.
    pub role: Role,
    /// The one tenant that an administrator is held to.
    pub tenant_id: Option<TenantId>,
    pub created_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
    /// When the secret ends by which it was found: a newer one took its place.
    pub secret_expires_at: Option<Timestamp>,
}

impl ServiceCredential {
    /// One that is usable from now on.
    pub fn new(
        hash: KeyHash,
        id: CredentialId,
        kind: CredentialKind,
        name: String,
        role: Role,
        tenant_id: Option<TenantId>,
        now: Timestamp,
    ) -> ServiceCredential {
        ServiceCredential {
            hash,
            id,
            kind,
            name,
            role,
            tenant_id,
            created_at: now,
            revoked_at: None,
            secret_expires_at: None,
        }
    }

    /// May its bearer come in.
    pub fn is_usable(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.secret_expires_at.is_none_or(|end| now < end)
    }

    /// A filter's as administrators see it.
    pub fn shown_of_filter(self) -> FilterKey {
        let ServiceCredential { id, name, created_at, revoked_at, .. } = self;
        FilterKey { id, name, created_at, revoked_at }
    }

    /// An administrator's as administrators see it.
    pub fn shown(self) -> AdminKey {
        AdminKey {
            id: self.id,
            name: self.name,
            role: self.role,
            tenant_id: self.tenant_id,
            created_at: self.created_at,
            revoked_at: self.revoked_at,
        }
    }

    /// May it do everything, everywhere.
    pub fn is_owner_of_all(&self) -> bool {
        self.kind == CredentialKind::Admin
            && self.role == Role::Owner
            && self.tenant_id.is_none()
            && self.revoked_at.is_none()
    }
}

/// A part of the API with credentials of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialKind {
    /// `/v1`.
    Admin,
    /// `/filter/v1`.
    Filter,
}

impl CredentialKind {
    /// Both.
    pub const ALL: [CredentialKind; 2] = [CredentialKind::Admin, CredentialKind::Filter];

    /// Its name at rest.
    pub const fn as_str(self) -> &'static str {
        match self {
            CredentialKind::Admin => "admin",
            CredentialKind::Filter => "filter",
        }
    }

    /// The shape of its credentials.
    pub const fn secret_kind(self) -> Kind {
        match self {
            CredentialKind::Admin => Kind::Admin,
            CredentialKind::Filter => Kind::Filter,
        }
    }
}
