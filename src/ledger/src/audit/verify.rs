//! Verifies an export, line by line, and names the first fault.

use super::chain::{is_signed, leaf, root};
use super::export::{End, EndLine};
use crate::model::checkpoint::{Checkpoint, CheckpointHead};
use protocol::Timestamp;
use protocol::audit::Digest;
use protocol::lines::{self, Tally};
use serde::Deserialize;
use std::collections::BTreeSet;

/// The first fault of an export.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The row differs from what was sealed.
    #[error("row {0} was changed")]
    Changed(u64),
    /// The row is missing.
    #[error("row {0} is missing")]
    Missing(u64),
    /// The row was never sealed, or appears twice.
    #[error("row {0} was inserted")]
    Inserted(u64),
    /// The row is in the wrong place.
    #[error("row {0} was moved")]
    Moved(u64),
    /// The row is counted as removed by age, but was not removed.
    #[error("row {0} is counted as removed by age, but was not removed")]
    Kept(u64),
    /// The checkpoint was changed, is missing, or does not follow the one before it.
    #[error("checkpoint {0} {1}")]
    Checkpoint(u64, &'static str),
    /// The checkpoint is signed by this key, which is not trusted.
    #[error(
        "checkpoint {0} is signed by {1}, which is not trusted; if you know it as an earlier key, or as that of \
         another ledger on the same database, name it with --public-key"
    )]
    Untrusted(u64, String),
    /// The line is neither a row nor a checkpoint nor the end.
    #[error("line {0} is neither a row nor a checkpoint nor the end")]
    Unreadable(u64),
    /// The signed end is missing, was changed, or is not the end.
    #[error("the end of the export {0}")]
    End(&'static str),
    /// The export lacks the required checkpoint.
    #[error("the export does not contain the checkpoint {0}")]
    Lacks(Digest),
}

/// The content of a valid export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Rows that were checked.
    pub rows: u64,
    /// Of these, rows that are not in a checkpoint yet. The end's signature covers them.
    pub unsealed: u64,
    /// Checkpoints that were checked.
    pub checkpoints: u64,
    /// The start of the exported day (UTC); `None` for the whole trail.
    pub day: Option<Timestamp>,
    /// Rows up to this one were removed by retention.
    pub removed: u64,
    /// Decisions that filters dropped.
    pub decisions_dropped: u64,
    /// The hash of the last checkpoint. Keep it: later exports must contain it.
    pub head: Option<Digest>,
    /// The keys that signed.
    pub public_keys: BTreeSet<String>,
}

/// A row whose batch is not complete yet.
struct Row {
    sequence: u64,
    leaf: Digest,
}

/// Verifies an export: call [`Verifier::line`] for every line, then [`Verifier::finish`].
pub struct Verifier {
    trusted: Option<BTreeSet<String>>,
    must_contain: Option<Digest>,
    lines: u64,
    tally: Tally,
    first_checkpoint: u64,
    first_row: u64,
    has_rows: bool,
    head: Option<CheckpointHead>,
    batch: Option<Checkpoint>,
    rows: Vec<Row>,
    found_required: bool,
    end: Option<End>,
    summary: Summary,
}

impl Verifier {
    /// `trusted` are the public keys to trust; `None` trusts any. `must_contain` is the hash of a checkpoint that was seen
    /// before: an export without it is from another trail, or was cut.
    pub fn new(trusted: Option<BTreeSet<String>>, must_contain: Option<Digest>) -> Verifier {
        Verifier {
            trusted,
            must_contain,
            lines: 0,
            tally: Tally::default(),
            first_checkpoint: 0,
            first_row: 0,
            has_rows: false,
            head: None,
            batch: None,
            rows: Vec::new(),
            found_required: false,
            end: None,
            summary: Summary {
                rows: 0,
                unsealed: 0,
                checkpoints: 0,
                day: None,
                removed: 0,
                decisions_dropped: 0,
                head: None,
                public_keys: BTreeSet::new(),
            },
        }
    }

    /// The next line, without its line feed.
    pub fn line(&mut self, line: &[u8]) -> Result<(), Fault> {
        self.lines = self.lines.saturating_add(1);
        if self.end.is_some() {
            return Err(Fault::End("is not the last line"));
        }
        if !line.starts_with(lines::END) {
            self.tally.add(line);
            self.tally.add(b"\n");
        }
        if !line.starts_with(b"{\"type\":") {
            #[derive(Deserialize)]
            struct Numbered {
                sequence: u64,
            }
            let row: Numbered = serde_json::from_slice(line).map_err(|_| Fault::Unreadable(self.lines))?;
            self.rows.push(Row { sequence: row.sequence, leaf: leaf(line) });
            return Ok(());
        }
        let unreadable = |_| Fault::Unreadable(self.lines);
        let written = line;
        let line: EndLine = serde_json::from_slice(written).map_err(unreadable)?;
        // The canonical form is unique: a line that only means the same was changed.
        if serde_json::to_vec(&line).map_err(unreadable)? != written {
            return Err(Fault::Unreadable(self.lines));
        }
        self.close_batch()?;
        match line {
            EndLine::Checkpoint(checkpoint) => self.open_batch(checkpoint),
            EndLine::End(end) => self.close(end),
        }
    }

    /// After the last line.
    pub fn finish(mut self) -> Result<Summary, Fault> {
        if self.end.is_none() {
            // Reports the missing row if a batch was cut.
            self.close_batch()?;
            return Err(Fault::End("is missing: the export was cut off"));
        }
        if let Some(hash) = self.must_contain.filter(|_| !self.found_required) {
            return Err(Fault::Lacks(hash));
        }
        Ok(self.summary)
    }

    /// After the last line of a trail without a signed end, such as one in a database. `removed` is the number of the last
    /// row that retention removed.
    pub fn finish_open(mut self, removed: u64) -> Result<(), Fault> {
        self.close_batch()?;
        self.check_removed(None, removed)?;
        let next = self.head.map_or(1, |head| head.last.saturating_add(1));
        match (next..).zip(&self.rows).find(|(sequence, row)| row.sequence != *sequence) {
            Some((sequence, _)) => Err(Fault::Missing(sequence)),
            None => Ok(()),
        }
    }

    fn trusts(&mut self, public_key: &str) -> bool {
        if self.trusted.as_ref().is_some_and(|trusted| !trusted.contains(public_key)) {
            return false;
        }
        self.summary.public_keys.insert(public_key.to_owned());
        true
    }

    fn open_batch(&mut self, checkpoint: Checkpoint) -> Result<(), Fault> {
        let number = checkpoint.number;
        let fault = |why| Err(Fault::Checkpoint(number, why));
        if checkpoint.computed_hash() != checkpoint.hash {
            return fault("was changed");
        }
        if !is_signed(&checkpoint.public_key, &checkpoint.signature, &checkpoint.hash) {
            return fault("is not signed by the key that it names");
        }
        if !self.trusts(&checkpoint.public_key) {
            return Err(Fault::Untrusted(number, checkpoint.public_key));
        }
        match &self.head {
            Some(head)
                if head.number.checked_add(1) != Some(number)
                    || head.last.checked_add(1) != Some(checkpoint.first)
                    || head.hash != checkpoint.previous =>
            {
                return match head.last.checked_add(1) {
                    Some(next) if checkpoint.first > next => Err(Fault::Missing(next)),
                    _ => fault("does not follow the one before it"),
                };
            }
            None if number == 1 && (checkpoint.previous != Digest::ZERO || checkpoint.first != 1) => {
                return fault("does not begin the trail");
            }
            Some(_) | None => {}
        }
        match &checkpoint.leaves {
            Some(leaves) => {
                let count =
                    checkpoint.last.checked_sub(checkpoint.first).and_then(|rows| rows.checked_add(1));
                let written = u64::try_from(leaves.len()).ok().map(|digits| digits / 64);
                if root(leaves) != checkpoint.root || count != written {
                    return fault("does not go with its leaves");
                }
                self.has_rows = true;
            }
            // Retention removes the oldest rows first, so it did not remove these if it kept older ones.
            None if self.has_rows => return Err(Fault::Missing(checkpoint.first)),
            None => {}
        }
        if self.must_contain == Some(checkpoint.hash) {
            self.found_required = true;
        }
        if self.first_checkpoint == 0 {
            self.first_checkpoint = number;
            self.first_row = checkpoint.first;
        }
        self.summary.checkpoints = self.summary.checkpoints.saturating_add(1);
        self.summary.head = Some(checkpoint.hash);
        self.head = Some(checkpoint.head());
        self.batch = Some(checkpoint);
        Ok(())
    }

    /// Compares the rows since the checkpoint with its leaves.
    fn close_batch(&mut self) -> Result<(), Fault> {
        let Some(checkpoint) = self.batch.take() else {
            // Rows before the first checkpoint are checked at the end.
            return Ok(());
        };
        match &checkpoint.leaves {
            Some(leaves) => {
                // Rows after the batch are unsealed, if this was the last checkpoint.
                let sealed: Vec<Row> = std::mem::take(&mut self.rows);
                let beyond = compare(checkpoint.first, leaves, sealed)?;
                let count = checkpoint.last.saturating_sub(checkpoint.first).saturating_add(1);
                self.summary.rows = self.summary.rows.saturating_add(count);
                self.rows = beyond;
            }
            None => {
                self.summary.removed = self.summary.removed.max(checkpoint.last);
                if let Some(row) = self.rows.first().filter(|row| row.sequence <= checkpoint.last) {
                    return Err(Fault::Inserted(row.sequence));
                }
            }
        }
        Ok(())
    }

    fn close(&mut self, end: End) -> Result<(), Fault> {
        if !is_signed(&end.public_key, &end.signature, &end.digest()) {
            return Err(Fault::End("was changed or is not signed"));
        }
        if !self.trusts(&end.public_key) {
            return Err(Fault::End("is signed by a key that is not trusted"));
        }
        let last = self.head.map_or(0, |head| head.number);
        if last < end.last_checkpoint {
            let row = self.head.map_or(0, |head| head.last).max(end.removed).saturating_add(1);
            let is_row_known = self.head.is_some() || end.day.is_none();
            let lacks_checkpoint = Fault::Checkpoint(end.first_checkpoint, "is missing");
            return Err(if is_row_known { Fault::Missing(row) } else { lacks_checkpoint });
        }
        self.check_removed(end.day.map(|_| end.first_checkpoint), end.removed)?;
        if end.first_checkpoint != self.first_checkpoint || end.last_checkpoint != last {
            return Err(Fault::End("is of another export"));
        }
        let beyond = compare(end.unsealed_first, &end.unsealed_leaves, std::mem::take(&mut self.rows))?;
        if let Some(row) = beyond.first() {
            return Err(Fault::Inserted(row.sequence));
        }
        let (lines, sha256) = self.tally.closing();
        if end.lines.is_some_and(|claimed| claimed != lines)
            || end.sha256.is_some_and(|claimed| claimed != sha256)
        {
            return Err(Fault::End("does not go with the lines before it"));
        }
        let unsealed = u64::try_from(end.unsealed_leaves.len()).unwrap_or_default() / 64;
        self.summary.unsealed = unsealed;
        self.summary.rows = self.summary.rows.saturating_add(unsealed);
        self.summary.day = end.day;
        self.summary.removed = end.removed;
        self.summary.decisions_dropped = end.decisions_dropped;
        self.end = Some(end);
        Ok(())
    }

    /// Checks that only rows up to `removed` are missing at the beginning. `of_day` is the first checkpoint of a day's export;
    /// a whole trail begins with checkpoint 1.
    fn check_removed(&self, of_day: Option<u64>, removed: u64) -> Result<(), Fault> {
        let first = of_day.unwrap_or(1);
        let next = removed.saturating_add(1);
        if self.first_checkpoint > first {
            let is_row_known = of_day.is_none() && next < self.first_row;
            let lacks_checkpoint = Fault::Checkpoint(first, "is missing");
            return Err(if is_row_known { Fault::Missing(next) } else { lacks_checkpoint });
        }
        if self.summary.removed > removed {
            return Err(Fault::Missing(next.max(self.first_row)));
        }
        // A day's export says nothing about later rows.
        let kept = self.summary.removed.saturating_add(1).max(self.first_row);
        if removed >= kept && (of_day.is_none() || self.has_rows) {
            return Err(Fault::Kept(kept));
        }
        Ok(())
    }
}

/// Compares rows with the expected leaves. Returns the rows after those.
fn compare(first: u64, leaves: &str, rows: Vec<Row>) -> Result<Vec<Row>, Fault> {
    let mut rows = rows.into_iter().peekable();
    let mut seen = BTreeSet::new();
    let (leaves, _) = leaves.as_bytes().as_chunks::<64>();
    for (sequence, expected) in (first..).zip(leaves) {
        let expected = std::str::from_utf8(expected).ok().and_then(Digest::parse);
        let Some(row) = rows.next() else { return Err(Fault::Missing(sequence)) };
        if Some(row.leaf) == expected {
            if row.sequence != sequence {
                // It was sealed like this after rows before it had been deleted.
                return Err(Fault::Missing(sequence));
            }
            seen.insert(row.sequence);
            continue;
        }
        return Err(if row.sequence == sequence {
            // If the expected row comes next, this one was inserted.
            match rows.peek() {
                Some(next) if Some(next.leaf) == expected => Fault::Inserted(sequence),
                _ => Fault::Changed(sequence),
            }
        } else if seen.contains(&row.sequence) || row.sequence < first {
            Fault::Inserted(row.sequence)
        } else if rows.any(|later| Some(later.leaf) == expected) {
            // The expected row comes later: this one was moved, or inserted if no leaf matches it.
            let is_foreign = !leaves.iter().any(|leaf| leaf == row.leaf.to_string().as_bytes());
            if is_foreign { Fault::Inserted(row.sequence) } else { Fault::Moved(row.sequence) }
        } else {
            Fault::Missing(sequence)
        });
    }
    Ok(rows.collect())
}
