//! Seals the audit trail while the ledger runs. What is removed of it by age is [`crate::retention`]'s.
//!
//! Rows are read and hashed beside the writer; only the finished checkpoint goes through its queue, as one small row.
//! The signing key is in a file of its own, not in the database: who can write the database can't sign.

use crate::audit::{Event, Kind, LEDGER};
use crate::chain::{self, BATCH_ROWS_MAX, Checkpoint, CheckpointHead, Signer};
use crate::database::Database;
use crate::moment;
use crate::store::{self, Needs, Operation, Refusal, Rows, Store};
use protocol::Timestamp;
use protocol::audit::Digest;
use serde_json::json;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

/// How soon a row is sealed.
const SEAL_EVERY: Duration = Duration::from_secs(1);

/// Reads the signing key, or makes one where the file does not exist, readable by its owner alone.
pub fn signer(path: &Path) -> io::Result<Signer> {
    match read(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
        read => return read,
    }
    // Linked into place, so that of two ledgers that begin at once one makes the key and both read the same.
    let unfinished = path.with_added_extension(moment::fresh_name("new-"));
    let seed = moment::fresh_seed().map_err(|_| io::Error::other("there is no randomness"))?;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&unfinished)?;
    let made = writeln!(file, "{}", chain::hex(&seed)).and_then(|()| file.sync_all());
    let linked = made.and_then(|()| std::fs::hard_link(&unfinished, path));
    std::fs::remove_file(&unfinished)?;
    match linked {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => Err(cause),
        _ => read(path),
    }
}

/// The public keys that a database's trail is held to: those named, and that of the signing key where it is beside the
/// database. `None` if there is neither; nothing then says whose signatures are true.
pub fn trusted(
    database: &Database,
    named: impl IntoIterator<Item = String>,
) -> io::Result<Option<BTreeSet<String>>> {
    let mut trusted: BTreeSet<String> = named.into_iter().collect();
    match read(&database.audit_key()) {
        Ok(signer) => drop(trusted.insert(signer.public_key().to_owned())),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
        Err(cause) => return Err(cause),
    }
    Ok(Some(trusted).filter(|trusted| !trusted.is_empty()))
}

fn read(path: &Path) -> io::Result<Signer> {
    let text = std::fs::read_to_string(path)?;
    let seed = chain::unhex::<32>(text.trim());
    seed.map(|seed| Signer::from_seed(&seed)).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "it is no signing key: 64 hexadecimal digits")
    })
}

/// Writes down that a key signs from now on. The same again changes nothing.
#[derive(Clone)]
pub struct UseKey {
    /// In hexadecimal.
    pub public_key: String,
    /// When.
    pub now: Timestamp,
}

impl Operation for UseKey {
    type Answer = ();

    fn needs(&self, needs: &mut Needs) {
        needs.audit_keys = true;
    }

    fn apply(self, rows: &mut Rows) -> Result<(), Refusal> {
        if rows.audit_keys.insert(self.public_key.clone()) {
            let detail = json!({"public_key": self.public_key});
            rows.record(Event::new(Kind::AuditKeyAdded, self.now, LEDGER, &detail));
            rows.audit_key = Some((self.public_key, self.now));
        }
        Ok(())
    }
}

/// Adds a checkpoint if it follows the newest one; another ledger may have been faster.
#[derive(Clone)]
struct Seal {
    checkpoint: Checkpoint,
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

/// Seals all that waits.
pub async fn seal(store: &dyn Store, signer: &Signer) -> Result<(), store::Error> {
    seal_at(store, signer, moment::now).await
}

/// The same by another clock.
pub(crate) async fn seal_at(
    store: &dyn Store,
    signer: &Signer,
    now: fn() -> Timestamp,
) -> Result<(), store::Error> {
    loop {
        let head = store.checkpoint_head().await?;
        let waiting = store.audit_rows(head.last, BATCH_ROWS_MAX).await?;
        let leaves: Vec<Digest> =
            waiting.iter().map(|row| chain::leaf(chain::row_line(row).as_bytes())).collect();
        let Some(checkpoint) = signer.seal(head, &leaves, now()) else { return Ok(()) };
        store.run(Seal { checkpoint }).await?;
        if waiting.len() < usize::try_from(BATCH_ROWS_MAX).unwrap_or(usize::MAX) {
            return Ok(());
        }
    }
}

/// Seals until the ledger stops, and then what is left.
pub async fn run(store: Arc<dyn Store>, signer: Arc<Signer>, mut stopping: watch::Receiver<bool>) {
    let mut beat = interval(SEAL_EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        let stops = tokio::select! {
            _ = beat.tick() => false,
            _ = stopping.wait_for(|stopping| *stopping) => true,
        };
        match seal(store.as_ref(), &signer).await {
            Ok(()) => failing = false,
            Err(cause) if !failing => {
                warn!(?cause, "the audit trail can't be sealed now; trying again");
                failing = true;
            }
            Err(_) => {}
        }
        if stops {
            return;
        }
    }
}
