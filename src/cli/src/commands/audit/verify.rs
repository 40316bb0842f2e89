//! Exports of the audit trail, and their verification.

use super::Connection;
use crate::output;
use anyhow::Context;
use clap::Args;
use client::{Client, Export};
use ledger::verify::{Fault, Summary, Verifier};
use protocol::audit::Digest;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Arguments {
    /// An export; by default the whole trail is fetched from the ledger
    file: Option<PathBuf>,
    /// Only rows sealed on this day, if the trail is fetched from the ledger
    #[arg(long, conflicts_with = "file")]
    day: Option<String>,
    /// Trust checkpoints signed with this key; may be repeated
    ///
    /// For a file, only these keys are trusted. For the ledger, its current signing key is trusted too, but not other keys
    /// that its database lists, because whoever can write to the database can add one.
    #[arg(long, value_name = "HEX")]
    public_key: Vec<String>,
    /// The hash of a checkpoint, from an earlier verification, that must be in the trail
    ///
    /// Only this detects that the newest part of a trail was cut off: store the last checkpoint of each verification
    /// elsewhere, and give it to the next.
    #[arg(long, value_name = "HASH", value_parser = digest)]
    checkpoint: Option<Digest>,
}

fn digest(text: &str) -> Result<Digest, &'static str> {
    Digest::parse(text).ok_or("a hash is 64 lowercase hexadecimal digits")
}

impl Arguments {
    /// Runs the command.
    pub async fn run(self, connection: &Connection) -> anyhow::Result<()> {
        let named: BTreeSet<String> = self.public_key.into_iter().collect();
        let summary = match &self.file {
            Some(file) => {
                let is_pinned = !named.is_empty();
                let verifier = Verifier::new(Some(named).filter(|_| is_pinned), self.checkpoint);
                let summary = of_file(file, verifier)?;
                if !is_pinned {
                    output::note(
                        "Without --public-key any key is trusted: compare the keys below with those of the ledger.",
                    );
                }
                summary
            }
            None => {
                let ledger = connection.open()?;
                let mut trusted = named;
                trusted.insert(ledger.audit_keys().await?.public_key);
                of_ledger(&ledger, self.day.as_deref(), Verifier::new(Some(trusted), self.checkpoint)).await?
            }
        };
        if self.checkpoint.is_none() {
            output::note(
                "Store the last checkpoint elsewhere, and give it to the next verification with --checkpoint: that detects \
                 a trail whose newest part was cut off.",
            );
        }
        print(&summary, connection.json)
    }
}

fn fault(fault: Fault) -> anyhow::Error {
    anyhow::Error::new(fault).context("the audit trail is not as it was sealed")
}

fn of_file(file: &Path, mut verifier: Verifier) -> anyhow::Result<Summary> {
    let unreadable = || format!("{} can't be read", file.display());
    let mut reader = BufReader::new(File::open(file).with_context(unreadable)?);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).with_context(unreadable)? > 0 {
        verifier.line(line.strip_suffix(b"\n").unwrap_or(&line)).map_err(fault)?;
        line.clear();
    }
    verifier.finish().map_err(fault)
}

async fn of_ledger(ledger: &Client, day: Option<&str>, mut verifier: Verifier) -> anyhow::Result<Summary> {
    let mut export = ledger.export_audit(day).await?;
    while let Some(lines) = export.piece().await? {
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            verifier.line(line.strip_suffix(b"\n").unwrap_or(line)).map_err(fault)?;
        }
    }
    verifier.finish().map_err(fault)
}

fn print(summary: &Summary, json: bool) -> anyhow::Result<()> {
    let Summary { rows, unsealed, checkpoints, day, removed, decisions_dropped, head, public_keys } = summary;
    if json {
        return output::json(&serde_json::json!({
            "valid": true, "rows": rows, "unsealed": unsealed, "checkpoints": checkpoints, "day": day,
            "removed": removed, "decisions_dropped": decisions_dropped, "head": head, "public_keys": public_keys,
        }));
    }
    let keys: Vec<&str> = public_keys.iter().map(String::as_str).collect();
    let of = day.map_or("the whole trail".to_owned(), |day| day.to_string().chars().take(10).collect());
    Ok(output::fields(&[
        ("of", of),
        ("rows", format!("{rows}, all as they were sealed")),
        ("not sealed yet", unsealed.to_string()),
        ("checkpoints", checkpoints.to_string()),
        ("removed up to row", removed.to_string()),
        ("decisions dropped", decisions_dropped.to_string()),
        ("last checkpoint", output::or_dash(*head)),
        ("signed by", keys.join(" ")),
    ])?)
}

/// Writes an export while it arrives. Removes an incomplete file.
pub async fn export(ledger: &Client, day: Option<&str>, to: Option<&Path>) -> anyhow::Result<()> {
    let export = ledger.export_audit(day).await?;
    let Some(path) = to else {
        return copy(export, &mut std::io::stdout(), || "standard output can't be written".into()).await;
    };
    let unwritable = || format!("{} can't be written", path.display());
    let mut file = File::create(path).with_context(unwritable)?;
    // A pipe or a device can't be synced or removed.
    let is_regular = file.metadata().with_context(unwritable)?.is_file();
    let copied = async {
        copy(export, &mut file, unwritable).await?;
        if is_regular {
            file.sync_all().with_context(unwritable)?;
        }
        Ok(())
    }
    .await;
    if copied.is_err() && is_regular {
        std::fs::remove_file(path).with_context(|| format!("{} is incomplete, remove it", path.display()))?;
    }
    copied
}

async fn copy(
    mut export: Export,
    target: &mut impl Write,
    unwritable: impl Fn() -> String,
) -> anyhow::Result<()> {
    while let Some(lines) = export.piece().await? {
        target.write_all(&lines).with_context(&unwritable)?;
    }
    target.flush().with_context(&unwritable)
}
