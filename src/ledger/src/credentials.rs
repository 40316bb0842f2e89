//! Credentials to the ledger itself: administrators' (`ara_`) and filters' (`arf_`). Agents' keys are in `keys`.

use crate::audit::{Event, Kind as Fact};
use crate::store::{Needs, Operation, Refusal, Rows};
use protocol::Timestamp;
use protocol::api_key::{KeyHash, Kind};
use serde_json::json;

/// Who a credential of the ledger belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCredential {
    /// Its id, `adm_...` or `flt_...`: the actor in the audit trail.
    pub id: String,
    /// Which door it opens.
    pub door: Door,
}

/// A part of the API with credentials of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// `/v1`.
    Admin,
    /// `/filter/v1`.
    Filter,
}

impl Door {
    /// Its name at rest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Door::Admin => "admin",
            Door::Filter => "filter",
        }
    }

    /// The shape of its credentials.
    pub const fn kind(self) -> Kind {
        match self {
            Door::Admin => Kind::Admin,
            Door::Filter => Kind::Filter,
        }
    }
}

/// Makes the first credentials of a new database.
pub struct Initialise {
    /// Hash and owner of each.
    pub credentials: Vec<(KeyHash, ServiceCredential)>,
    /// When.
    pub now: Timestamp,
}

impl Operation for Initialise {
    type Answer = ();

    fn needs(&self, needs: &mut Needs) {
        needs.service_credentials = true;
    }

    fn apply(self, rows: &mut Rows) -> Result<(), Refusal> {
        if rows.has_service_credentials {
            return Err(Refusal::AlreadyInitialised);
        }
        rows.has_service_credentials = true;
        for (hash, credential) in self.credentials {
            let detail = json!({"id": credential.id, "door": credential.door.as_str()});
            rows.record(Event::new(Fact::ServiceCredentialCreated, self.now, crate::audit::LEDGER, &detail));
            rows.service_credentials.push((hash, credential, self.now));
        }
        Ok(())
    }
}
