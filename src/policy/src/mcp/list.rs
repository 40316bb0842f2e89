//! Taking what a key may not see out of lists of tools, prompts and resources, and nothing else.
//!
//! The answer is not rebuilt: what is hidden is cut out of its bytes, so that order, `_meta` and whatever
//! extensions add stay as the server wrote them.

use crate::json;
use crate::reading::Listed;
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
    #[serde(borrow, default, deserialize_with = "json::present")]
    prompts: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "json::present")]
    resources: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "json::present", rename = "resourceTemplates")]
    templates: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "json::present", rename = "cacheScope")]
    cache_scope: Option<&'a RawValue>,
}

/// Tools and prompts go by their name, resources by their URI.
#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    uri: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "uriTemplate")]
    template: Option<Cow<'a, str>>,
}

/// Whether something in a list is visible; `None` where everyone sees all of its kind.
pub type View<'v> = dyn Fn(Listed<'_>) -> Option<bool> + 'v;

/// What names an item of a list.
type Naming = for<'i> fn(&'i Item<'_>) -> Option<Listed<'i>>;

/// Filters one JSON-RPC message. `None` where it is no list, or nothing has to change.
pub fn filter(message: &[u8], view: &View<'_>) -> Result<Option<Vec<u8>>, Unreadable> {
    json::check(message).map_err(|_| Unreadable)?;
    let answer: Answer<'_> = std::str::from_utf8(message).ok().and_then(json::object).ok_or(Unreadable)?;
    let Some(result) = answer.result.filter(|result| result.get().starts_with('{')) else { return Ok(None) };
    let result: ListResult<'_> = json::object(result.get()).ok_or(Unreadable)?;
    let mut edits = Vec::new();
    let mut is_personal = result.tools.is_some();
    // A prompt's own answer, or a resource's, has none of these as a list.
    let lists: [(_, Naming); 4] = [
        (result.tools, |item| item.name.as_deref().map(Listed::Tool)),
        (result.prompts, |item| item.name.as_deref().map(Listed::Prompt)),
        (result.resources, |item| item.uri.as_deref().map(Listed::Resource)),
        (result.templates, |item| item.template.as_deref().map(Listed::Template)),
    ];
    for (list, named) in lists.into_iter().filter_map(|(list, named)| Some((list?, named))) {
        let listed: Vec<&RawValue> = serde_json::from_str(list.get()).map_err(|_| Unreadable)?;
        let mut kept = Vec::with_capacity(listed.len());
        for raw in &listed {
            let item: Item<'_> = json::object(raw.get()).ok_or(Unreadable)?;
            let is_visible = view(named(&item).ok_or(Unreadable)?);
            is_personal |= is_visible.is_some();
            if is_visible != Some(false) {
                kept.push(raw.get());
            }
        }
        if kept.len() < listed.len() {
            edits.push((list.get(), format!("[{}]", kept.join(","))));
        }
    }
    // The answer is for this key alone now, so no cache may hand it to another.
    let scope = result.cache_scope.filter(|scope| is_personal && scope.get() != "\"private\"");
    edits.extend(scope.map(|scope| (scope.get(), "\"private\"".to_owned())));
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
        filter(message.as_bytes(), &|listed| match listed {
            Listed::Resource(_) => None,
            listed => Some(listed.name().starts_with("ok")),
        })
        .map(|bytes| bytes.map(|bytes| String::from_utf8(bytes).unwrap()))
    }

    #[test]
    fn refused_tools_are_cut_out_and_all_else_stays_byte_for_byte() {
        let message = r#"{"id": 0, "result":{"_meta":{"a" : 1}, "tools":[ {"name":"ok1","x":[1]} , {"name":"no"},{"name":"\u006fk2"}],"cacheScope": "public","nextCursor":"" },"jsonrpc":"2.0"}"#;
        let expected = r#"{"id": 0, "result":{"_meta":{"a" : 1}, "tools":[{"name":"ok1","x":[1]},{"name":"\u006fk2"}],"cacheScope": "private","nextCursor":"" },"jsonrpc":"2.0"}"#;
        assert_eq!(filtered(message), Ok(Some(expected.to_owned())));
    }

    #[test]
    fn prompts_and_templates_are_cut_out_too() {
        for (message, expected) in [
            (
                r#"{"result":{"prompts":[{"name":"no"},{"name":"ok"}],"cacheScope":"public"}}"#,
                r#"{"result":{"prompts":[{"name":"ok"}],"cacheScope":"private"}}"#,
            ),
            (
                r#"{"result":{"resourceTemplates":[{"uriTemplate":"no://{a}","name":"ok"},{"uriTemplate":"ok://"}]}}"#,
                r#"{"result":{"resourceTemplates":[{"uriTemplate":"ok://"}]}}"#,
            ),
        ] {
            assert_eq!(filtered(message), Ok(Some(expected.to_owned())));
        }
        // Everyone sees every resource here, so the list is nobody's own.
        let resources = r#"{"result":{"resources":[{"uri":"no:a","name":"x"}],"cacheScope":"public"}}"#;
        assert_eq!(filtered(resources), Ok(None));
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
