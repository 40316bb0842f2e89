//! Prints the table: one line for each case, for the documents.

use crate::memory::Memory;
use crate::summary::{Row, Spread};

/// The table, in Markdown.
pub fn markdown(rows: &[Row], memory: Option<Memory>, rounds: u32, connections: usize) -> String {
    let mut lines = vec![
        format!(
            "| case | Envoy CPU per request | against bare Envoy (10 to 90 %) | target | p50, 1 connection, against bare \
             | target | p50 / p99 added, 1 connection | p50 / p99, {connections} connections | requests/s \
             | other processes' CPU |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|".to_owned(),
    ];
    lines.extend(rows.iter().map(line));
    lines.push(String::new());
    lines.push(format!(
        "Medians of {rounds} rounds; CPU and requests/s over {connections} connections, Envoy with one worker on one core."
    ));
    if let Some(memory) = memory {
        lines.push(format!(
            "RSS: bare Envoy {:.0} MiB, the filter {:.1} MiB more with one worker (target 45), {:.1} MiB for each further \
             worker (target 2.5); as a module {:.1} MiB more with one worker (target 5).",
            memory.bare,
            memory.first_worker(),
            memory.further_worker,
            memory.with_module - memory.bare
        ));
    }
    lines.join("\n")
}

fn line(row: &Row) -> String {
    let Spread { low, median, high } = row.cpu;
    let is_reference = row.case.starts_with("bare");
    let against = if is_reference { "1".into() } else { format!("**{median:.2}** ({low:.2} to {high:.2})") };
    let target = |target: Option<f64>| target.map(|target| format!("{target:.2}")).unwrap_or_default();
    let added = if is_reference {
        String::new()
    } else {
        format!("{:.0} / {:.0} us", row.p50_added_us.median, row.p99_added_us.median)
    };
    format!(
        "| {} | {:.1} us | {against} | {} | {:.2} | {} | {added} | {:.0} / {:.0} us | {:.0} | {:.1} us |",
        row.title,
        row.cpu_us.median,
        target(row.target),
        row.p50_single.median,
        target(row.target_p50),
        row.p50_us.median,
        row.p99_us.median,
        row.requests_per_second.median,
        row.services_cpu_us.median,
    )
}
