//! Credentials to the ledger itself: administrators' (`ara_`) and filters' (`arf_`).

use protocol::admin::{AdminKey, FilterKey, Role};
use protocol::api_key::{KeyHash, Kind};
use protocol::{CredentialId, TenantId, Timestamp};

/// One secret of a credential, with the credential's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCredential {
    /// SHA-256 of the secret.
    pub hash: KeyHash,
    /// Its id, `adm_...` or `flt_...`: the actor in the audit trail.
    pub id: CredentialId,
    pub kind: CredentialKind,
    pub name: String,
    /// What an administrator may do; unused for a filter.
    pub role: Role,
    /// The tenant that an administrator is bound to.
    pub tenant_id: Option<TenantId>,
    pub created_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
    /// When this secret expires, after a rotation.
    pub secret_expires_at: Option<Timestamp>,
}

impl ServiceCredential {
    /// A new credential.
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

    /// Whether this secret is valid.
    pub fn is_usable(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.secret_expires_at.is_none_or(|end| now < end)
    }

    /// A filter's credential as the admin API shows it.
    pub fn shown_of_filter(self) -> FilterKey {
        let ServiceCredential { id, name, created_at, revoked_at, .. } = self;
        FilterKey { id, name, created_at, revoked_at }
    }

    /// An administrator's credential as the admin API shows it.
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

    /// Whether it is an owner that is bound to no tenant.
    pub fn is_owner_of_all(&self) -> bool {
        self.kind == CredentialKind::Admin
            && self.role == Role::Owner
            && self.tenant_id.is_none()
            && self.revoked_at.is_none()
    }
}

/// The part of the API that a credential opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialKind {
    /// `/v1`.
    Admin,
    /// `/filter/v1`.
    Filter,
}

impl CredentialKind {
    pub const ALL: [CredentialKind; 2] = [CredentialKind::Admin, CredentialKind::Filter];

    /// Its name in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            CredentialKind::Admin => "admin",
            CredentialKind::Filter => "filter",
        }
    }

    /// The form of its secrets.
    pub const fn secret_kind(self) -> Kind {
        match self {
            CredentialKind::Admin => Kind::Admin,
            CredentialKind::Filter => Kind::Filter,
        }
    }
}
