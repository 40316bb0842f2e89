//! The lines of an export.

use super::chain::{Signer, concatenate, leaf};
use crate::model::checkpoint::{Checkpoint, CheckpointHead};
use crate::model::event::SealedRow;
use protocol::Timestamp;
use protocol::audit::Digest;
use protocol::lines::Tally;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The last line of an export: says, signed, what it contains, so that nothing can be cut off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// When the export was made.
    pub exported_at: Timestamp,
    /// The start of the exported day (UTC); absent for the whole trail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub day: Option<Timestamp>,
    /// Number of the first checkpoint, 0 if there is none.
    pub first_checkpoint: u64,
    /// Number of the last checkpoint, 0 if there is none.
    pub last_checkpoint: u64,
    /// Rows up to this one were removed by retention.
    pub removed: u64,
    /// Sequence number of the first row that is not sealed yet; one more than the last if there is none.
    pub unsealed_first: u64,
    /// The leaves of the rows that are not sealed yet, in hexadecimal.
    pub unsealed_leaves: String,
    /// Decisions that filters dropped, over the whole trail.
    pub decisions_dropped: u64,
    /// Number of lines before this one. Exports of older releases lack this and the next field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u64>,
    /// SHA-256 of those lines, including line feeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// The key that signed this, in hexadecimal.
    pub public_key: String,
    /// Ed25519, in hexadecimal.
    pub signature: String,
}

impl End {
    pub(super) fn digest(&self) -> Digest {
        let mut hasher = Sha256::new();
        match self.day {
            Some(day) => {
                hasher.update(b"agentrelay audit export of a day v1\0");
                hasher.update(day.as_millis().to_be_bytes());
            }
            None => hasher.update(b"agentrelay audit export v1\0"),
        }
        for number in [
            self.exported_at.as_millis(),
            self.first_checkpoint,
            self.last_checkpoint,
            self.removed,
            self.unsealed_first,
            self.decisions_dropped,
        ] {
            hasher.update(number.to_be_bytes());
        }
        hasher.update(self.unsealed_leaves.as_bytes());
        if let (Some(lines), Some(sha256)) = (self.lines, &self.sha256) {
            hasher.update(b"\0lines\0");
            hasher.update(lines.to_be_bytes());
            hasher.update(sha256.as_bytes());
        }
        Digest::from_bytes(hasher.finalize().into())
    }
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "type")]
enum Line<'a> {
    Checkpoint(&'a Checkpoint),
    End(&'a End),
}

/// A line that is not a row.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum EndLine {
    /// A checkpoint.
    Checkpoint(Checkpoint),
    /// The end.
    End(End),
}

/// The canonical line of a row, which its leaf hashes.
pub fn row_line(row: &SealedRow) -> String {
    // Only maps with keys other than text fail to serialize.
    serde_json::to_string(row).unwrap_or_default()
}

/// Writes an export's lines, each with a line feed.
pub struct Exporter {
    day: Option<Timestamp>,
    first_checkpoint: u64,
    last_checkpoint: u64,
    unsealed_first: u64,
    unsealed: Vec<Digest>,
    tally: Tally,
}

impl Exporter {
    /// An export of the rows sealed on the day (UTC) that starts at `day`, or of the whole trail.
    pub fn new(day: Option<Timestamp>) -> Exporter {
        Exporter {
            day,
            first_checkpoint: 0,
            last_checkpoint: 0,
            unsealed_first: 1,
            unsealed: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// The last row before those that are not sealed yet.
    pub fn last_row(&mut self, head: CheckpointHead) -> u64 {
        // A day without checkpoints takes its position from the trail.
        if self.day.is_some() && self.first_checkpoint == 0 {
            self.unsealed_first = head.last.saturating_add(1);
        }
        self.unsealed_first.saturating_sub(1)
    }

    /// A checkpoint with its rows.
    pub fn batch(&mut self, checkpoint: &Checkpoint, rows: &[SealedRow]) -> String {
        if self.first_checkpoint == 0 {
            self.first_checkpoint = checkpoint.number;
        }
        self.last_checkpoint = checkpoint.number;
        self.unsealed_first = checkpoint.last.saturating_add(1);
        let mut text = line(&Line::Checkpoint(checkpoint));
        for row in rows {
            text.push_str(&row_line(row));
            text.push('\n');
        }
        self.tally.add(text.as_bytes());
        text
    }

    /// Rows that are not sealed yet.
    pub fn unsealed(&mut self, rows: &[SealedRow]) -> String {
        let mut text = String::new();
        for row in rows {
            let line = row_line(row);
            self.unsealed.push(leaf(line.as_bytes()));
            text.push_str(&line);
            text.push('\n');
        }
        self.tally.add(text.as_bytes());
        text
    }

    /// The end.
    pub fn end(self, signer: &Signer, removed: u64, decisions_dropped: u64, now: Timestamp) -> String {
        let (lines, sha256) = self.tally.closing();
        let mut end = End {
            exported_at: now,
            day: self.day,
            first_checkpoint: self.first_checkpoint,
            last_checkpoint: self.last_checkpoint,
            removed,
            unsealed_first: self.unsealed_first,
            unsealed_leaves: concatenate(&self.unsealed),
            decisions_dropped,
            lines: Some(lines),
            sha256: Some(sha256),
            public_key: signer.public_key().to_owned(),
            signature: String::new(),
        };
        end.signature = signer.sign(&end.digest());
        line(&Line::End(&end))
    }
}

fn line(line: &Line<'_>) -> String {
    let mut text = serde_json::to_string(line).unwrap_or_default();
    text.push('\n');
    text
}
