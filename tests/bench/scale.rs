//! How cost grows with size: keys in the ledger, active keys, unknown keys, workers, Envoys.
//!
//! One ledger is filled step by step; at each size it and Envoys in front of it are measured.

mod active;
mod envoys;
mod flood;
mod seed;
mod stored;
mod workers;

use crate::gate::Site;
use crate::panels::{self, Panel};
use crate::process::Cores;
use crate::relay::Relay;
use crate::{Built, load};
use anyhow::ensure;
use clap::{Args, ValueEnum};
use seed::Seed;
use serde::Serialize;
use std::fs;
use std::path::PathBuf;

/// The sizes to reach.
#[derive(Args)]
#[command(after_help = "Examples:
  scripts/bench scale
  scripts/bench scale --keys 10000 --active 2000
  scripts/bench scale --parts workers,envoys")]
pub struct Options {
    /// Keys in the ledger at the end
    #[arg(long, default_value_t = 1_000_000)]
    keys: usize,
    /// Keys that are active in one Envoy at the end
    #[arg(long, default_value_t = 100_000)]
    active: usize,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Draw the plot into this file too
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    built: Built,
}

/// The parts of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Keys in the ledger
    Ledger,
    /// Active keys in one Envoy
    Active,
    /// Unknown keys
    Flood,
    /// Workers on one key
    Workers,
    /// Envoys on one ledger
    Envoys,
}

/// One table, and its plots.
#[derive(Serialize)]
pub struct Section {
    /// The title.
    pub title: &'static str,
    /// Names of columns.
    pub columns: Vec<&'static str>,
    /// Numbers as they are shown.
    pub rows: Vec<Vec<String>>,
    /// Failures or near failures that were observed, with their numbers.
    pub breaks: Vec<String>,
    /// Drawings.
    pub panels: Vec<Panel>,
}

/// Steps up to the largest: a hundredth, a tenth, all.
fn steps(largest: usize) -> Vec<usize> {
    let mut steps: Vec<usize> =
        [100, 10, 1].iter().map(|part| largest / part).filter(|size| *size > 0).collect();
    steps.dedup();
    steps
}

/// Runs all of it and prints the tables.
pub async fn run(options: Options) -> anyhow::Result<()> {
    ensure!(options.keys >= options.active, "--keys must be at least --active");
    let built = &options.built;
    let envoy = built.check()?;
    let cores = Cores::choose()?;
    cores.avoid_envoy_core()?;
    let scratch = built.directory()?;
    let upstream = load::upstream().await?;
    let mut site = Site { envoy, directory: scratch.path().to_owned(), cores, upstream, access_log: true };
    eprintln!("==> starting the ledger; configurations and logs are in {}", scratch.path().display());
    let mut relay = Relay::start(&site, built).await?;
    let mut seed = Seed::new(&relay).await?;
    let is_wanted = |part: Part| options.parts.is_empty() || options.parts.contains(&part);

    let mut sections = Vec::new();
    if is_wanted(Part::Ledger) {
        sections.push(stored::measure(&mut relay, &mut seed, &steps(options.keys)).await?);
    } else {
        seed.fill(&relay, options.active.max(100)).await?;
    }
    if is_wanted(Part::Active) {
        sections.push(active::measure(&site, &relay, &seed, &steps(options.active)).await?);
    }
    if is_wanted(Part::Flood) {
        sections.push(flood::measure(&site, &relay, &seed).await?);
    }
    if is_wanted(Part::Envoys) {
        sections.push(envoys::measure(&site, &relay, &seed).await?);
    }
    if is_wanted(Part::Workers) {
        site.cores.envoy_roams = true;
        sections.push(workers::measure(&site, &relay, &seed).await?);
    }
    show(&options, &sections)?;
    drop(relay);
    scratch.remove();
    Ok(())
}

fn show(options: &Options, sections: &[Section]) -> anyhow::Result<()> {
    let mut text = String::new();
    for section in sections {
        text.push_str(&format!("### {}\n\n| {} |\n", section.title, section.columns.join(" | ")));
        text.push_str(&format!("|{}\n", "---|".repeat(section.columns.len())));
        for row in &section.rows {
            text.push_str(&format!("| {} |\n", row.join(" | ")));
        }
        text.push('\n');
    }
    text.push_str("### What breaks first\n\n");
    for line in sections.iter().flat_map(|section| &section.breaks) {
        text.push_str(&format!("- {line}\n"));
    }
    println!("{text}");
    let output = &options.built.output;
    let panels: Vec<&Panel> = sections.iter().flat_map(|section| &section.panels).collect();
    let plot = panels::draw(&panels);
    fs::write(output.join("scale.md"), &text)?;
    fs::write(output.join("scale.json"), serde_json::to_string_pretty(sections)?)?;
    fs::write(output.join("scale.svg"), &plot)?;
    if let Some(file) = &options.plot {
        fs::write(file, &plot)?;
    }
    eprintln!("==> raw numbers, tables and plot are in {}", output.display());
    Ok(())
}
