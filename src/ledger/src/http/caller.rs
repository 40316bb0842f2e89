//! Who asks, and whose things it may reach.

use super::problem::{Code, Refused};
use crate::model::credential::ServiceCredential;
use protocol::TenantId;
use std::sync::Arc;

/// The credential of a request.
#[derive(Debug, Clone)]
pub(super) struct Caller(pub(super) Arc<ServiceCredential>);

impl Caller {
    /// The actor in the audit trail.
    pub(super) fn id(&self) -> String {
        self.0.id.to_string()
    }

    /// The one tenant that it is held to; absent for all tenants.
    pub(super) fn tenant(&self) -> Option<&TenantId> {
        self.0.tenant_id.as_ref()
    }

    /// Refuses a thing of another tenant as if it did not exist.
    pub(super) fn own(&self, tenant_id: &TenantId, what: &str) -> Result<(), Refused> {
        match self.tenant() {
            Some(own) if own != tenant_id => {
                Err(Refused::new(Code::NotFound, format!("no {what} has this id")))
            }
            _ => Ok(()),
        }
    }

    /// The tenant to list: the one that was asked for, or the caller's own. Absent for all.
    pub(super) fn narrow(&self, asked: Option<TenantId>) -> Result<Option<TenantId>, Refused> {
        if let Some(asked) = &asked {
            self.own(asked, "tenant")?;
        }
        Ok(asked.or_else(|| self.tenant().cloned()))
    }
}

/// Whose things an endpoint reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// A credential held to one tenant may use it. The handler then shows and changes only that tenant's things.
    OwnTenant,
    /// Only a credential for all tenants may use it.
    AllTenants,
}
