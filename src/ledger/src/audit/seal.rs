//! The writes of sealing: signing keys and checkpoints.

use crate::model::checkpoint::{Checkpoint, CheckpointHead};
use crate::model::event::{Event, Kind, LEDGER};
use crate::transaction::{Needs, Operation, Refusal, Rows};
use protocol::Timestamp;
use protocol::admin::AuditKey;
use serde_json::json;

/// Records that a key signs from now on. The same key again changes nothing.
#[derive(Clone)]
pub struct AddSigningKey {
    /// In hexadecimal.
    pub public_key: String,
    pub now: Timestamp,
}

impl Operation for AddSigningKey {
    type Answer = ();

    fn needs(&self, needs: &mut Needs) {
        needs.audit_keys = true;
    }

    fn apply(self, rows: &mut Rows) -> Result<(), Refusal> {
        if rows.audit_keys.insert(self.public_key.clone()) {
            let detail = json!({"public_key": self.public_key});
            rows.record(Event::new(Kind::AuditKeyAdded, self.now, LEDGER, &detail));
            rows.audit_key = Some(AuditKey { public_key: self.public_key, created_at: self.now });
        }
        Ok(())
    }
}

/// Adds a checkpoint if it follows the newest one. Another ledger may have added one first. True if it was added.
#[derive(Clone)]
pub struct Seal {
    pub checkpoint: Checkpoint,
}

impl Operation for Seal {
    type Answer = bool;

    fn needs(&self, needs: &mut Needs) {
        needs.checkpoint = true;
    }

    fn apply(self, rows: &mut Rows) -> Result<bool, Refusal> {
        let head = rows.newest_checkpoint.unwrap_or(CheckpointHead::NONE);
        let checkpoint = self.checkpoint;
        let follows = checkpoint.previous == head.hash
            && Some(checkpoint.number) == head.number.checked_add(1)
            && Some(checkpoint.first) == head.last.checked_add(1);
        if follows {
            rows.newest_checkpoint = Some(checkpoint.head());
            rows.checkpoints.push(checkpoint);
        }
        Ok(follows)
    }
}
