//! Who asks, and whose things it may reach.

use super::problem::{Code, Refused};
use crate::model::credential::ServiceCredential;
use protocol::TenantId;
use std::sync::Arc;

/// Whose credential a request came with.
#[derive(Debug, Clone)]
pub(super) struct Caller(pub(super) Arc<ServiceCredential>);

impl Caller {
    /// The actor in the audit trail.
    pub(super) fn id(&self) -> String {
        self.0.id.to_string()
    }

    /// The one tenant that it is held to.
    pub(super) fn tenant(&self) -> Option<&TenantId> {
        self.0.tenant_id.as_ref()
    }

    /// Only the tenant's own things may be seen and touched. Others' are not there.
    pub(super) fn own(&self, tenant_id: &TenantId, what: &str) -> Result<(), Refused> {
        match self.tenant() {
            Some(own) if own != tenant_id => {
                Err(Refused::new(Code::NotFound, format!("no {what} has this id")))
            }
            _ => Ok(()),
        }
    }

    /// The tenant whose things to list: the one that was asked for, or the only one that may be seen.
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
