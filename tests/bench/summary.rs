//! From measurements to rows: medians of ratios within a round, and their spread.

use crate::cases::Case;
use crate::compare::Turn;
use serde::Serialize;

/// A median with the range that contains eight of ten rounds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spread {
    /// One of ten values is lower.
    pub low: f64,
    /// Half of the values are lower.
    pub median: f64,
    /// One of ten values is higher.
    pub high: f64,
}

impl Spread {
    /// The spread of these values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        Spread { low: quantile(&values, 0.1), median: quantile(&values, 0.5), high: quantile(&values, 0.9) }
    }
}

/// Interpolates between neighbours.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = last as f64 * share;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// The summary of one case.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The case.
    pub case: &'static str,
    /// Its name in tables.
    pub title: &'static str,
    /// True if the gate is AgentRelay.
    pub is_agentrelay: bool,
    /// The bound for `cpu`.
    pub target: Option<f64>,
    /// The bound for `p50_single`.
    pub target_p50: Option<f64>,
    /// Envoy's CPU time per request in microseconds.
    pub cpu_us: Spread,
    /// The ratio to bare Envoy.
    pub cpu: Spread,
    /// The same over one connection.
    pub cpu_single: Spread,
    /// CPU time of other processes per request in microseconds.
    pub services_cpu_us: Spread,
    /// Requests per second over several connections.
    pub requests_per_second: Spread,
    /// The ratio to bare Envoy.
    pub throughput: Spread,
    /// Median latency over one connection in microseconds.
    pub p50_single_us: Spread,
    /// The ratio to bare Envoy.
    pub p50_single: Spread,
    /// Median latency over one connection in microseconds, minus that of bare Envoy.
    pub p50_added_us: Spread,
    /// The 99th percentile of the same.
    pub p99_added_us: Spread,
    /// Median latency over several connections in microseconds.
    pub p50_us: Spread,
    /// The 99th percentile of the same.
    pub p99_us: Spread,
}

/// A row for each case.
pub fn rows(cases: &[Case], turns: &[Turn]) -> Vec<Row> {
    cases.iter().map(|case| row(case, turns)).collect()
}

fn row(case: &Case, turns: &[Turn]) -> Row {
    let of = |name: &str, round: u32| turns.iter().find(|turn| turn.case == name && turn.round == round);
    let pairs: Vec<(&Turn, &Turn)> = turns
        .iter()
        .filter(|turn| turn.case == case.name)
        .filter_map(|own| Some((own, of(case.reference(), own.round)?)))
        .collect();
    let own = |value: fn(&Turn) -> f64| Spread::of(pairs.iter().map(|(own, _)| value(own)));
    let ratio =
        |value: fn(&Turn) -> f64| Spread::of(pairs.iter().map(|(own, bare)| value(own) / value(bare)));
    let added =
        |value: fn(&Turn) -> f64| Spread::of(pairs.iter().map(|(own, bare)| value(own) - value(bare)));
    Row {
        case: case.name,
        title: case.title,
        is_agentrelay: case.is_agentrelay(),
        target: case.target,
        target_p50: case.target_p50(),
        cpu_us: own(|turn| turn.cpu_us),
        cpu: ratio(|turn| turn.cpu_us),
        cpu_single: ratio(|turn| turn.cpu_single_us),
        services_cpu_us: own(|turn| turn.services_cpu_us),
        requests_per_second: own(|turn| turn.requests_per_second),
        throughput: ratio(|turn| turn.requests_per_second),
        p50_single_us: own(|turn| turn.p50_single_us),
        p50_single: ratio(|turn| turn.p50_single_us),
        p50_added_us: added(|turn| turn.p50_single_us),
        p99_added_us: added(|turn| turn.p99_single_us),
        p50_us: own(|turn| turn.p50_us),
        p99_us: own(|turn| turn.p99_us),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_covers_eight_of_ten_values() {
        let spread = Spread::of((0..=10).rev().map(f64::from));
        assert_eq!((spread.low, spread.median, spread.high), (1.0, 5.0, 9.0));
        let between = Spread::of([1.0, 2.0]);
        assert!((between.median - 1.5).abs() < 1e-9 && (between.low - 1.1).abs() < 1e-9, "{between:?}");
    }

    #[test]
    fn a_case_is_compared_within_its_round() {
        let turn = |round, case, cpu_us| Turn { round, case, cpu_us, ..Turn::default() };
        let turns = [
            turn(1, "bare-get", 10.0),
            turn(1, "free", 20.0),
            turn(2, "bare-get", 100.0),
            turn(2, "free", 200.0),
        ];
        let cases = crate::cases::select(&["free".to_owned()]).expect("it is a case");
        let rows = rows(&cases, &turns);
        assert_eq!(rows.iter().map(|row| row.case).collect::<Vec<_>>(), ["bare-get", "free"]);
        assert_eq!((rows[1].cpu.low, rows[1].cpu.high), (2.0, 2.0));
    }
}
