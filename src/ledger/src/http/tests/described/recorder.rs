//! Calls a running ledger and records, for each operation, one successful exchange and one refusal.

use super::stable::Stable;
use crate::fixture::Bench;
use crate::http::api::document::{Example, Examples};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// What is recorded of an operation so far.
#[derive(Default)]
struct Exchanges {
    body: Option<Value>,
    answer: Option<Value>,
    problem: Option<Value>,
}

pub(super) struct Recorder<'b> {
    pub(super) bench: &'b Bench,
    stable: Stable,
    /// In the order of their first request.
    recorded: Vec<(String, Exchanges)>,
}

/// A request whose answer is recorded.
#[derive(Default)]
pub(super) struct Ask<'a> {
    /// Replaces `{id}`.
    pub(super) id: &'a str,
    pub(super) query: &'a str,
    /// Not sent if null.
    pub(super) body: Value,
    pub(super) header: Option<(&'static str, &'static str)>,
    /// Replaces the first owner's credential. Empty for none.
    pub(super) secret: Option<&'a str>,
}

impl<'b> Recorder<'b> {
    pub(super) fn new(bench: &'b Bench) -> Recorder<'b> {
        Recorder { bench, stable: Stable::default(), recorded: Vec::new() }
    }

    /// Sends it; it must succeed.
    pub(super) async fn answer(&mut self, operation: &str, ask: Ask<'_>) -> Value {
        let (status, answer) = self.ask(operation, &ask).await;
        assert!(status.is_success(), "{operation}: {status} {answer}");
        let body = Some(ask.body).filter(|body| !body.is_null()).map(|body| self.stable.value("", body));
        let stable = match &answer {
            Value::String(lines) => Value::String(self.lines(lines)),
            _ => self.stable.value("", answer.clone()),
        };
        let exchanges = self.exchanges(operation);
        assert!(exchanges.answer.is_none(), "{operation} has its answer");
        (exchanges.body, exchanges.answer) = (body, Some(stable));
        answer
    }

    /// Sends it; it must be refused.
    pub(super) async fn problem(&mut self, operation: &str, ask: Ask<'_>, expected: u16) {
        let (status, problem) = self.ask(operation, &ask).await;
        assert_eq!(status.as_u16(), expected, "{operation}: {problem}");
        let stable = self.stable.value("", problem);
        let exchanges = self.exchanges(operation);
        assert!(exchanges.problem.is_none(), "{operation} has its problem");
        exchanges.problem = Some(stable);
    }

    /// The answer's JSON, or its text if it is not JSON.
    async fn ask(&self, operation: &str, ask: &Ask<'_>) -> (StatusCode, Value) {
        let (method, path) = operation.split_once(' ').unwrap();
        let path = path.replace("{id}", ask.id);
        let url = format!("http://{}{path}{}", self.bench.running.address, ask.query);
        let request = self.bench.client.request(method.parse::<Method>().unwrap(), url);
        let request = request.header("x-request-id", "req_example");
        let request = match ask.secret.unwrap_or(&self.bench.credentials.admin_key) {
            "" => request,
            secret => request.bearer_auth(secret),
        };
        let request =
            ask.header.into_iter().fold(request, |request, (name, value)| request.header(name, value));
        let request = if ask.body.is_null() { request } else { request.json(&ask.body) };
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    fn exchanges(&mut self, operation: &str) -> &mut Exchanges {
        let place = self.recorded.iter().position(|(name, _)| name == operation).unwrap_or_else(|| {
            self.recorded.push((operation.to_owned(), Exchanges::default()));
            self.recorded.len() - 1
        });
        &mut self.recorded[place].1
    }

    /// An export. The number of checkpoints depends on when rows were sealed, so it is recorded with one.
    fn lines(&mut self, text: &str) -> String {
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let is_checkpoint = |line: &Value| line["type"] == "checkpoint";
        let sealed = lines.iter().rposition(is_checkpoint).expect("a checkpoint");
        let kept = lines.iter().enumerate().filter(|(place, line)| *place == sealed || !is_checkpoint(line));
        let mut kept: Vec<Value> = kept.map(|(_, line)| line.clone()).collect();
        kept.sort_by_key(|line| (line["type"] == "end", !is_checkpoint(line), line["sequence"].as_u64()));
        let before_end = kept.len() - 1;
        for line in &mut kept {
            let fields: &[(&str, u64)] = match line["type"].as_str() {
                Some("checkpoint") => &[("number", 1), ("first", 1)],
                Some("end") => &[("first_checkpoint", 1), ("last_checkpoint", 1)],
                _ => &[],
            };
            for (name, number) in fields {
                assert!(line[*name].is_u64(), "{name}: {line}");
                line[*name] = json!(number);
            }
            if line["type"] == "end" {
                line["lines"] = json!(before_end);
            }
        }
        kept.into_iter().map(|line| format!("{}\n", self.stable.value("", line))).collect()
    }

    pub(super) fn examples(self) -> Examples {
        let examples = self.recorded.into_iter().map(|(operation, exchanges)| {
            let Exchanges { body, answer, problem } = exchanges;
            let answer = answer.unwrap_or_else(|| panic!("{operation} was never asked with success"));
            let problem = problem.unwrap_or_else(|| panic!("{operation} was never refused"));
            (operation, Example { body, answer, problem })
        });
        examples.collect()
    }
}
