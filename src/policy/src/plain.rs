//! What serde says of a document, in words for its author: `invalid type: string "20", expected u32` names types of the program.
//!
//! A message of an unknown form stays as it is.

use std::fmt::Write as _;

/// The message in plain words, without the place, which is the canonical document's and not the file's.
pub fn plain(message: &str) -> String {
    let message = without_place(message);
    let plain = if let Some(rest) = message.strip_prefix("unknown field ") {
        unknown(rest, "there is no field", "no fields are known here", "the fields are")
    } else if let Some(rest) = message.strip_prefix("unknown variant ") {
        unknown(rest, "there is no", "nothing is known here", "write")
    } else if let Some(field) = message.strip_prefix("missing field ") {
        Some(format!("the field {field} is missing"))
    } else {
        let mistaken =
            ["invalid type: ", "invalid value: "].into_iter().find_map(|form| message.strip_prefix(form));
        mistaken
            .and_then(|rest| rest.rsplit_once(", expected "))
            .map(|(found, expected)| format!("it must be {}, and is {}", wanted(expected), given(found)))
    };
    plain.unwrap_or_else(|| message.to_owned())
}

/// The known name that was probably meant: at most a third of its letters differ, whatever their case.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let folded = name.to_lowercase();
    let distance = |known: &str| strsim::damerau_levenshtein(&folded, &known.to_lowercase());
    let (near, distance) =
        known.iter().map(|known| (*known, distance(known))).min_by_key(|(_, distance)| *distance)?;
    let letters = name.chars().count().max(near.chars().count());
    (distance.saturating_mul(3) <= letters.max(3)).then_some(near)
}

fn without_place(message: &str) -> &str {
    let Some((before, place)) = message.rsplit_once(" at line ") else { return message };
    let is_place = place.split(" column ").all(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    if is_place { before } else { message }
}

/// `` `limit`, expected one of `rank`, `limits` ``.
fn unknown(rest: &str, none: &str, empty: &str, list: &str) -> Option<String> {
    let (name, known) = match rest.split_once(", expected ") {
        Some(parts) => parts,
        None => return rest.split_once(", there are no ").map(|(name, _)| format!("{none} {name}; {empty}")),
    };
    let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
    let mut text = format!("{none} {name}; ");
    if let Some(near) = nearest(name.trim_matches('`'), &known) {
        let _ = write!(text, "did you mean `{near}`? ");
    }
    let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
    let _ = write!(text, "{list} {}", listed(&known));
    Some(text)
}

fn listed(names: &[String]) -> String {
    match names.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => names.concat(),
    }
}

fn wanted(expected: &str) -> String {
    match expected {
        "u8" => format!("a whole number from 0 to {}", u8::MAX),
        "u16" => format!("a whole number from 0 to {}", u16::MAX),
        "u32" => format!("a whole number from 0 to {}", u32::MAX),
        "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "i32" | "i64" => "a whole number".to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "a string" => "a text".to_owned(),
        "a sequence" => "a list, as in [a, b]".to_owned(),
        "a map" => "a map of names to values".to_owned(),
        _ if expected.starts_with("struct ") => "a map of fields, as in {name: value}".to_owned(),
        _ if expected.contains("enum ") => "a word".to_owned(),
        other => other.to_owned(),
    }
}

fn given(found: &str) -> String {
    match found {
        "null" | "unit value" | "Option value" => "nothing".to_owned(),
        "map" => "a map".to_owned(),
        "sequence" => "a list".to_owned(),
        _ => {
            let (kind, value) = found.rsplit_once(" `").map_or((found, ""), |(kind, value)| (kind, value));
            match kind {
                "integer" | "floating point" => format!("the number {}", value.trim_end_matches('`')),
                "boolean" => format!("`{value}"),
                _ => found
                    .strip_prefix("string ")
                    .map_or_else(|| found.to_owned(), |text| format!("the text {text}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_for_programmers_become_messages_for_authors() {
        for (message, expected) in [
            (
                "unknown field `limit`, expected one of `rank`, `limits`, `concurrency` at line 1 column 1374",
                "there is no field `limit`; did you mean `limits`? the fields are `rank`, `limits` or `concurrency`",
            ),
            ("unknown field `x`, there are no fields", "there is no field `x`; no fields are known here"),
            (
                "unknown variant `mpc`, expected `mcp` or `http`",
                "there is no `mpc`; did you mean `mcp`? write `mcp` or `http`",
            ),
            ("missing field `rank` at line 1 column 14", "the field `rank` is missing"),
            (
                "invalid type: string \"20\", expected u32 at line 1 column 13",
                "it must be a whole number from 0 to 4294967295, and is the text \"20\"",
            ),
            (
                "invalid type: floating point `1.5`, expected u64",
                "it must be a whole number, 0 or more, and is the number 1.5",
            ),
            (
                "invalid type: null, expected struct Document",
                "it must be a map of fields, as in {name: value}, and is nothing",
            ),
            ("invalid type: map, expected a sequence", "it must be a list, as in [a, b], and is a map"),
            (
                "invalid value: string \"60x\", expected a time such as `60s`, `10m`, `1h` or `1d`",
                "it must be a time such as `60s`, `10m`, `1h` or `1d`, and is the text \"60x\"",
            ),
            ("invalid type: boolean `true`, expected a string", "it must be a text, and is `true`"),
            ("did not find expected '-' indicator", "did not find expected '-' indicator"),
        ] {
            assert_eq!(plain(message), expected);
        }
    }
}
