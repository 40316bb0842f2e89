//! Small plots of cost against size, side by side.

use crate::plot::document;
use serde::Serialize;
use std::fmt::Write;

const ACROSS: usize = 3;
const WIDTH: f64 = 290.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 24.0;
const TOP: f64 = 54.0;
const RIGHT: f64 = 34.0;
const BOTTOM: f64 = 44.0;

/// One plot.
#[derive(Debug, Clone, Serialize)]
pub struct Panel {
    title: &'static str,
    /// The label of the horizontal axis.
    size: &'static str,
    points: Vec<(f64, f64)>,
}

impl Panel {
    /// Cost by size, in rising order of size.
    pub fn new(title: &'static str, size: &'static str, points: Vec<(f64, f64)>) -> Panel {
        Panel { title, size, points }
    }
}

/// All plots as one drawing.
pub fn draw(panels: &[&Panel]) -> String {
    let mut body = String::new();
    for (number, panel) in panels.iter().enumerate() {
        let (column, line) = (number % ACROSS, number / ACROSS);
        let (x, y) = (WIDTH * column as f64, HEIGHT * line as f64);
        let _ = writeln!(body, r#"<g transform="translate({x:.0} {y:.0})">{}</g>"#, one(panel));
    }
    let lines = panels.len().div_ceil(ACROSS);
    document(WIDTH * panels.len().min(ACROSS) as f64, HEIGHT * lines as f64 + 8.0, body.trim_end())
}

/// Sizes by their logarithm, costs from zero.
fn one(panel: &Panel) -> String {
    let (Some(first), Some(last)) = (panel.points.first(), panel.points.last()) else { return String::new() };
    let largest = panel.points.iter().map(|(_, cost)| *cost).fold(f64::MIN_POSITIVE, f64::max);
    let wide = (last.0.ln() - first.0.ln()).max(f64::MIN_POSITIVE);
    let base = HEIGHT - BOTTOM;
    let x = |size: f64| LEFT + 12.0 + (WIDTH - LEFT - RIGHT - 12.0) * (size.ln() - first.0.ln()) / wide;
    let y = |cost: f64| base - (base - TOP) * cost / largest;
    let mut svg = format!(r#"<text class="head" x="{LEFT}" y="24">{}</text>"#, panel.title);
    let _ = write!(
        svg,
        r#"<line class="one" x1="{LEFT}" y1="{base}" x2="{:.0}" y2="{base}"/>"#,
        WIDTH - RIGHT + 12.0
    );
    let path: Vec<String> =
        panel.points.iter().map(|(size, cost)| format!("{:.1},{:.1}", x(*size), y(*cost))).collect();
    let _ = write!(svg, r#"<polyline class="line" points="{}"/>"#, path.join(" "));
    for (size, cost) in &panel.points {
        let (at, height) = (x(*size), y(*cost));
        let _ = write!(svg, r#"<circle class="dot" cx="{at:.1}" cy="{height:.1}" r="3.5"/>"#);
        let _ = write!(
            svg,
            r#"<text class="value" x="{at:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            height - 9.0,
            short(*cost)
        );
        let _ = write!(
            svg,
            r#"<text class="soft" x="{at:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            base + 16.0,
            short(*size)
        );
    }
    let _ = write!(svg, r#"<text class="soft" x="{LEFT}" y="{:.1}">{}</text>"#, base + 33.0, panel.size);
    svg
}

/// Formats a number with few digits.
fn short(number: f64) -> String {
    match number {
        number if number >= 1e6 => format!("{}M", trimmed(number / 1e6)),
        number if number >= 1e4 => format!("{}k", trimmed(number / 1e3)),
        number => trimmed(number),
    }
}

fn trimmed(number: f64) -> String {
    if number >= 100.0 || number.fract() == 0.0 { format!("{number:.0}") } else { format!("{number:.1}") }
}
