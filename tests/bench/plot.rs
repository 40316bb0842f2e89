//! Drawings for the README: bars of ratios. Plain SVG that reads on light and dark pages alike.

use crate::summary::Row;
use std::fmt::Write;

const WIDTH: f64 = 860.0;
const LABELS: f64 = 290.0;
const ROW: f64 = 28.0;
const BAR: f64 = 16.0;

/// Colours by class, for light and dark pages; only the text and the bars have a class.
pub const STYLE: &str = "<style>\
text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif;fill:#3d444d}\
.head{font-weight:600;font-size:14px;fill:#1f2328}.soft{fill:#6e7781;font-size:12px}.value{font-weight:600}\
.ours{fill:#0f766e}.other{fill:#a3adb8}.bare{fill:#d0d7de}.grid{stroke:#d8dee4;stroke-width:1}\
.one{stroke:#6e7781;stroke-width:1}.range{stroke:#1f2328;stroke-width:1.5;opacity:.65}.target{stroke:#d1242f;stroke-width:2.5}\
.line{fill:none;stroke:#0f766e;stroke-width:2}.dot{fill:#0f766e}\
@media (prefers-color-scheme:dark){text{fill:#c9d1d9}.head{fill:#f0f6fc}.soft{fill:#8b949e}.ours{fill:#12a594}\
.other{fill:#58626e}.bare{fill:#3d444d}.grid{stroke:#30363d}.one{stroke:#8b949e}.range{stroke:#f0f6fc}.target{stroke:#ff7b72}\
.line{stroke:#2dd4bf}.dot{fill:#2dd4bf}}</style>";

/// Envoy's CPU time per request against bare Envoy, a bar for each case.
pub fn bars(rows: &[Row], rounds: u32) -> String {
    let longest = rows.iter().map(|row| row.cpu.high).fold(2.0, f64::max);
    let end = WIDTH - 70.0;
    let scale = (end - LABELS) / longest;
    let (mcp, get): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.title.ends_with("MCP call"));
    let groups = [("a GET through the gate", get), ("an MCP tools/call of 300 bytes", mcp)];
    let mut body = String::new();
    let mut top = 62.0;
    for (title, rows) in groups.iter().filter(|(_, rows)| !rows.is_empty()) {
        let _ = write!(body, r#"<text class="head" x="16" y="{:.1}">{title}</text>"#, top + 4.0);
        top += 16.0;
        let bottom = top + ROW * rows.len() as f64;
        for ratio in 0..=longest.floor() as u32 {
            let x = LABELS + scale * f64::from(ratio);
            let class = if ratio == 1 { "one" } else { "grid" };
            let _ = write!(
                body,
                r#"<line class="{class}" x1="{x:.1}" y1="{top:.1}" x2="{x:.1}" y2="{bottom:.1}"/>"#
            );
            let under = bottom + 15.0;
            let _ = write!(
                body,
                r#"<text class="soft" x="{x:.1}" y="{under:.1}" text-anchor="middle">{ratio}</text>"#
            );
        }
        for row in rows {
            body.push_str(&bar(row, top, scale));
            top += ROW;
        }
        body.push('\n');
        top += 46.0;
    }
    let note = format!(
        "Medians of {rounds} interleaved rounds, thin line: 10 to 90 %. Red: the target. One worker on one core."
    );
    let head = r#"<text class="head" x="16" y="28">Envoy CPU per request, bare Envoy = 1</text>"#;
    let _ = write!(body, r#"<text class="soft" x="16" y="{:.1}">{note}</text>"#, top - 8.0);
    document(WIDTH, top + 8.0, &format!("{head}\n{body}"))
}

fn bar(row: &Row, top: f64, scale: f64) -> String {
    let middle = top + ROW / 2.0;
    let class = match row {
        row if row.is_agentrelay => "ours",
        row if row.case.starts_with("bare") => "bare",
        _ => "other",
    };
    let title = row.title.trim_end_matches(", GET").trim_end_matches(" MCP call").trim_end_matches(',');
    let text = middle + 4.5;
    let mut svg = format!(r#"<text x="{:.1}" y="{text:.1}" text-anchor="end">{title}</text>"#, LABELS - 10.0);
    let (y, width) = (middle - BAR / 2.0, scale * row.cpu.median);
    let _ = write!(
        svg,
        r#"<rect class="{class}" x="{LABELS}" y="{y:.1}" width="{width:.1}" height="{BAR}" rx="2"/>"#
    );
    let at = |ratio: f64| LABELS + scale * ratio;
    if class != "bare" {
        let (low, high) = (at(row.cpu.low), at(row.cpu.high));
        let _ = write!(
            svg,
            r#"<line class="range" x1="{low:.1}" y1="{middle:.1}" x2="{high:.1}" y2="{middle:.1}"/>"#
        );
    }
    if let Some(target) = row.target.map(at) {
        let (above, below) = (middle - BAR / 2.0 - 4.0, middle + BAR / 2.0 + 4.0);
        let _ = write!(
            svg,
            r#"<line class="target" x1="{target:.1}" y1="{above:.1}" x2="{target:.1}" y2="{below:.1}"/>"#
        );
    }
    let furthest = row.cpu.high.max(row.cpu.median).max(row.target.unwrap_or(0.0));
    let _ = write!(
        svg,
        r#"<text class="value" x="{:.1}" y="{text:.1}">{:.2}</text>"#,
        at(furthest) + 8.0,
        row.cpu.median
    );
    svg
}

/// A complete drawing.
pub fn document(width: f64, height: f64, body: &str) -> String {
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}" height="{height:.0}">
{STYLE}
{body}
</svg>
"#
    )
}
