//! Credentials to the ledger. A credential has a row for each of its secrets; the newest does not expire.

use super::handle::Store;
use super::row::{Conditions, Table, columns};
use super::sql::{Connection, Result, ToParam, params};
use crate::model::credential::{CredentialKind, ServiceCredential};
use crate::transaction::{Needs, Rows, Unavailable};
use protocol::api_key::KeyHash;
use protocol::{CredentialId, TenantId};

columns!(ServiceCredential {
    fixed: hash, id, kind as door, name, role, tenant_id, created_at;
    changing: revoked_at, secret_expires_at;
});

const CREDENTIALS: Table<ServiceCredential> = Table::new("service_credentials", &["hash"]);

/// Which service credentials to list.
#[derive(Debug, Clone)]
pub struct CredentialFilter {
    pub kind: CredentialKind,
    /// Only those bound to this tenant.
    pub tenant_id: Option<TenantId>,
    /// Only those after this one.
    pub after: Option<CredentialId>,
    pub limit: u32,
}

pub(super) fn load(connection: &Connection, needs: &Needs, rows: &mut Rows) -> Result<()> {
    if needs.service_credentials {
        for credential in CREDENTIALS.all(connection, "", &[])? {
            rows.service_credentials.load(credential.hash, credential);
        }
    }
    Ok(())
}

pub(super) fn save(connection: &Connection, rows: &Rows) -> Result<()> {
    let mut dirty = rows.service_credentials.dirty();
    // A unique index allows one secret without expiry, so the earlier secret's expiry is written first.
    dirty.sort_by_key(|(_, credential)| credential.secret_expires_at.is_none());
    for (_, credential) in dirty {
        CREDENTIALS.put(connection, std::iter::once(credential))?;
    }
    Ok(())
}

impl Store {
    /// The credential that has a secret with this hash.
    pub async fn service_credential(
        &self,
        hash: KeyHash,
    ) -> std::result::Result<Option<ServiceCredential>, Unavailable> {
        let found =
            move |connection: &Connection| CREDENTIALS.first(connection, "WHERE hash = ?", &params![hash]);
        self.filters.read(found).await
    }

    /// Credentials of administrators or filters, oldest first.
    pub async fn service_credentials(
        &self,
        filter: CredentialFilter,
    ) -> std::result::Result<Vec<ServiceCredential>, Unavailable> {
        let list = move |connection: &Connection| {
            let after = filter.after.as_ref().map_or("", CredentialId::as_str);
            let (page, params) = Conditions::new("door = ?", filter.kind.to_param())
                .and("id > ?", [after.to_param()])
                .and_if("tenant_id = ?", &filter.tenant_id)
                .page("AND secret_expires_at IS NULL ORDER BY id LIMIT ?", filter.limit);
            CREDENTIALS.all(connection, &page, &params)
        };
        self.operators.read(list).await
    }
}
