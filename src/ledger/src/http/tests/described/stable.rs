//! Replaces values that differ from run to run by stable ones: ids, secrets, hashes and times.

use crate::moment;
use protocol::Timestamp;
use protocol::api_key::SECRET_BYTES;
use serde_json::{Value, json};
use std::collections::HashMap;

const NOW: &str = "2026-11-22T09:00:00.000Z";
const SOON: &str = "2026-11-22T10:00:00.000Z";
const MONTH: &str = "2026-11";
const DAY_MILLIS: u64 = 86_400_000;

/// Gives the same value the same replacement, numbered in the order in which values of one kind were first seen.
#[derive(Default)]
pub(super) struct Stable {
    known: HashMap<String, String>,
    counts: HashMap<String, u64>,
}

impl Stable {
    /// The value of a field, and of all fields in it.
    pub(super) fn value(&mut self, field: &str, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(field, &text)),
            Value::Array(items) => items.into_iter().map(|item| self.value(field, item)).collect(),
            Value::Object(fields) => {
                let fields = fields.into_iter();
                fields.map(|(name, value)| (name.clone(), self.value(&name, value))).collect()
            }
            // How often the trail is sealed depends on time.
            Value::Number(_) if field == "checkpoints" => json!(1),
            other => other,
        }
    }

    fn text(&mut self, field: &str, text: &str) -> String {
        if field == "month" {
            return MONTH.to_owned();
        }
        if let Ok(time) = Timestamp::parse(text) {
            let now = moment::now();
            let is_of_this_run = time.millis_since(now).max(now.millis_since(time)) < DAY_MILLIS;
            let stable = if field == "expires_at" { SOON } else { NOW };
            return if is_of_this_run { stable } else { text }.to_owned();
        }
        let is_of_a_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let mut stable = String::new();
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            let length = rest.find(|next| is_of_a_word(next) != is_of_a_word(letter)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(length);
            stable.push_str(&self.word(word));
            rest = after;
        }
        stable
    }

    fn word(&mut self, word: &str) -> String {
        if let Some(known) = self.known.get(word) {
            return known.clone();
        }
        let is_hex = |text: &str| text.len() >= 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let (kind, body) = word.find('_').map_or(("", word), |end| word.split_at(end + 1));
        let number = self.counts.get(kind).map_or(1, |count| count + 1);
        let stable = match kind {
            // With the right length, and a wrong checksum.
            "ark_" | "ara_" | "arf_" if word.len() == SECRET_BYTES => {
                format!("{kind}Example{number:0width$}", width = SECRET_BYTES - kind.len() - "Example".len())
            }
            "" if is_hex(word) => format!("{number:0width$x}", width = word.len()),
            // In the form of a UUID of version 7.
            _ if body.len() == 32 && is_hex(body) => {
                format!("{kind}01900000000070008000{number:012x}")
            }
            _ => return word.to_owned(),
        };
        self.counts.insert(kind.to_owned(), number);
        self.known.insert(word.to_owned(), stable.clone());
        stable
    }
}
