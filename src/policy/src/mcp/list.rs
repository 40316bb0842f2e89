//! Taking tools that a key may not call out of a `tools/list` answer, and nothing else.
//!
//! The answer is not rebuilt: the refused tools are cut out of its bytes, so that order, `_meta` and whatever
//! extensions add stay as the server wrote them.

use crate::json;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The answer can't be filtered for certain, so it must not be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow, default, deserialize_with = "json::present")]
    result: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ListResult<'a> {
    #[serde(borrow, default, deserialize_with = "json::present")]
    tools: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "json::present", rename = "cacheScope")]
    cache_scope: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

/// Filters one JSON-RPC message. `None` where it is no list of tools, or nothing has to change.
pub fn filter(message: &[u8], is_visible: &dyn Fn(&str) -> bool) -> Result<Option<Vec<u8>>, Unreadable> {
    json::check(message).map_err(|_| Unreadable)?;
    let answer: Answer<'_> = std::str::from_utf8(message).ok().and_then(json::object).ok_or(Unreadable)?;
    let Some(result) = answer.result.filter(|result| result.get().starts_with('{')) else { return Ok(None) };
    let result: ListResult<'_> = json::object(result.get()).ok_or(Unreadable)?;
    let Some(tools) = result.tools else { return Ok(None) };
    let listed: Vec<&RawValue> = serde_json::from_str(tools.get()).map_err(|_| Unreadable)?;
    let mut kept = Vec::with_capacity(listed.len());
    for tool in &listed {
        let Named { name } = json::object(tool.get()).ok_or(Unreadable)?;
        if is_visible(&name) {
            kept.push(tool.get());
        }
    }
    let mut edits = Vec::new();
    if kept.len() < listed.len() {
        edits.push((tools.get(), format!("[{}]", kept.join(","))));
    }
    // The answer is for this key alone now, so no cache may hand it to another.
    if let Some(scope) = result.cache_scope.filter(|scope| scope.get() != "\"private\"") {
        edits.push((scope.get(), "\"private\"".to_owned()));
    }
    if edits.is_empty() { Ok(None) } else { splice(message, edits).map(Some) }
}

/// Replaces parts of `whole`, which must be slices of it that do not overlap.
fn splice(whole: &[u8], edits: Vec<(&str, String)>) -> Result<Vec<u8>, Unreadable> {
    let mut placed = edits
        .into_iter()
        .map(|(part, replacement)| {
            let start = json::offset_in(whole, part).ok_or(Unreadable)?;
            Ok((start, start.checked_add(part.len()).ok_or(Unreadable)?, replacement))
        })
        .collect::<Result<Vec<_>, Unreadable>>()?;
    placed.sort_by_key(|(start, _, _)| *start);
    let mut spliced = Vec::with_capacity(whole.len());
    let mut done = 0;
    for (start, end, replacement) in placed {
        spliced.extend_from_slice(whole.get(done..start).ok_or(Unreadable)?);
        spliced.extend_from_slice(replacement.as_bytes());
        done = end;
    }
    spliced.extend_from_slice(whole.get(done..).ok_or(Unreadable)?);
    Ok(spliced)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(message: &str) -> Result<Option<String>, Unreadable> {
        filter(message.as_bytes(), &|name| name.starts_with("ok"))
            .map(|bytes| bytes.map(|bytes| String::from_utf8(bytes).unwrap()))
    }

    #[test]
    fn refused_tools_are_cut_out_and_all_else_stays_byte_for_byte() {
        let message = r#"{"id": 0, "result":{"_meta":{"a" : 1}, "tools":[ {"name":"ok1","x":[1]} , {"name":"no"},{"name":"\u006fk2"}],"cacheScope": "public","nextCursor":"" },"jsonrpc":"2.0"}"#;
        let expected = r#"{"id": 0, "result":{"_meta":{"a" : 1}, "tools":[{"name":"ok1","x":[1]},{"name":"\u006fk2"}],"cacheScope": "private","nextCursor":"" },"jsonrpc":"2.0"}"#;
        assert_eq!(filtered(message), Ok(Some(expected.to_owned())));
    }

    #[test]
    fn what_needs_no_change_is_left_alone() {
        for message in [
            r#"{"result":{"tools":[{"name":"ok"}],"cacheScope":"private"}}"#,
            r#"{"result":{"tools":[]}}"#,
            r#"{"result":{"content":[]}}"#,
            r#"{"error":{"code":1}}"#,
            r#"{"method":"notifications/progress"}"#,
        ] {
            assert_eq!(filtered(message), Ok(None), "{message}");
        }
    }

    #[test]
    fn what_cannot_be_filtered_for_certain_is_not_passed() {
        for message in [
            "",
            "[]",
            r#"{"result":{"tools":[{"name":"ok"}],"tools":[{"name":"no"}]}}"#,
            r#"{"result":{"tools":{"name":"no"}}}"#,
            r#"{"result":{"tools":[{"title":"no"}]}}"#,
            r#"{"result":{"tools":[{"name":"ok","name":"no"}]}}"#,
            r#"{"result":{"tools":null}}"#,
        ] {
            assert_eq!(filtered(message), Err(Unreadable), "{message}");
        }
    }
}
