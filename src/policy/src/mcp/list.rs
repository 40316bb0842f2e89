//! Removes what a key may not see from lists of tools, prompts and resources. Adds the gate's own tools, and the terms of
//! the others.
//!
//! The answer is not rebuilt: hidden items are cut out of its bytes. So the order, `_meta` and everything that extensions
//! add stay as the server wrote them.

use crate::json;
use crate::json::write::quoted;
use crate::ordered;
use crate::reading::Listed;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The answer can't be filtered reliably, so it must not be passed on.
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
    #[serde(borrow, default, deserialize_with = "json::present", rename = "nextCursor")]
    next_cursor: Option<&'a RawValue>,
}

/// An item of a list. Tools and prompts are identified by name, resources by URI.
#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    uri: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "uriTemplate")]
    template: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "json::present", rename = "_meta")]
    meta: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "json::present")]
    description: Option<&'a RawValue>,
}

/// The name of the terms in a tool's `_meta`.
pub const TERMS: &str = "agentrelay/terms";

/// The terms of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// For its `_meta`, as JSON.
    pub meta: String,
    /// To add to its description.
    pub text: Option<String>,
}

/// What a key sees of a list.
pub struct View<'v> {
    /// Whether the key sees an item; `None` if every key sees all items of this kind.
    pub sees: &'v dyn Fn(Listed<'_>) -> Option<bool>,
    /// The terms to add to a tool.
    pub terms: &'v dyn Fn(&str) -> Option<Terms>,
    /// Tools to add after the server's, each a JSON object.
    pub own: &'v [&'static str],
    /// The page to which the `own` tools are added.
    pub own_on: Page,
}

/// A page of a list that is split into pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// The page in this answer: the request asked for the page that gets the tools.
    This,
    /// The last page, which has no cursor. Used if the request does not say which page it gets.
    Last,
}

impl<'v> View<'v> {
    /// Hides items of the server's lists and adds nothing.
    pub fn of(sees: &'v dyn Fn(Listed<'_>) -> Option<bool>) -> View<'v> {
        View { sees, terms: &|_| None, own: &[], own_on: Page::This }
    }
}

/// Finds the name of an item of a list.
type Naming = for<'i> fn(&'i Item<'_>) -> Option<Listed<'i>>;

/// True if the server's message can be read as one answer only. Other members may be ambiguous, because the gate does not
/// read them and hides nothing in them.
pub(crate) fn is_unambiguous(message: &str) -> bool {
    json::names_unique(message, &["id", "method", "result", "error"])
}

/// True if a client could find a list in this data, even if it is malformed JSON.
pub(super) fn may_contain_list(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let text = json::fold(text);
    // A backslash may start an escape that stands for a letter of such a name.
    text.trim_ascii_start().starts_with(['{', '['])
        && ["\\", "tools", "prompts", "resources", "resourcetemplates"].iter().any(|part| text.contains(part))
}

/// Filters what a server sends: a JSON-RPC message, or an array of them. `None` if it contains no list or nothing has to
/// change.
pub fn filter(sent: &[u8], view: &View<'_>) -> Result<Option<Vec<u8>>, Unreadable> {
    let text = std::str::from_utf8(sent).map_err(|_| Unreadable)?;
    if !text.trim_ascii_start().starts_with('[') {
        return filter_message(text, view);
    }
    let messages: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| Unreadable)?;
    let mut edits = Vec::new();
    for message in messages {
        if let Some(filtered) = filter_message(message.get(), view)? {
            edits.push((message.get(), String::from_utf8(filtered).map_err(|_| Unreadable)?));
        }
    }
    if edits.is_empty() { Ok(None) } else { splice(sent, edits).map(Some) }
}

fn filter_message(message: &str, view: &View<'_>) -> Result<Option<Vec<u8>>, Unreadable> {
    let answer: Answer<'_> = json::object(message).filter(|_| is_unambiguous(message)).ok_or(Unreadable)?;
    let Some(result) = answer.result.filter(|result| result.get().starts_with('{')) else { return Ok(None) };
    const READ: [&str; 6] =
        ["tools", "prompts", "resources", "resourceTemplates", "cacheScope", "nextCursor"];
    let is_unambiguous = json::names_unique(result.get(), &READ);
    let result: ListResult<'_> = json::object(result.get()).filter(|_| is_unambiguous).ok_or(Unreadable)?;
    let mut edits = Vec::new();
    let mut is_personal = result.tools.is_some();
    // An answer that contains a prompt or a resource has none of these members as a list.
    let lists: [(_, Naming); 4] = [
        (result.tools, |item| item.name.as_deref().map(Listed::Tool)),
        (result.prompts, |item| item.name.as_deref().map(Listed::Prompt)),
        (result.resources, |item| item.uri.as_deref().map(Listed::Resource)),
        (result.templates, |item| item.template.as_deref().map(Listed::Template)),
    ];
    for (list, named) in lists.into_iter().filter_map(|(list, named)| Some((list?, named))) {
        let listed: Vec<&RawValue> = serde_json::from_str(list.get()).map_err(|_| Unreadable)?;
        let mut kept: Vec<Cow<'_, str>> = Vec::with_capacity(listed.len());
        let mut is_changed = false;
        for raw in &listed {
            let item: Item<'_> = json::object(raw.get()).ok_or(Unreadable)?;
            let named = named(&item).ok_or(Unreadable)?;
            let is_visible = (view.sees)(named);
            is_personal |= is_visible.is_some();
            let terms = match named {
                Listed::Tool(name) if is_visible != Some(false) => (view.terms)(name),
                _ => None,
            };
            is_changed |= is_visible == Some(false) || terms.is_some();
            match terms {
                _ if is_visible == Some(false) => {}
                Some(terms) => kept.push(Cow::Owned(with_terms(raw.get(), &item, &terms)?)),
                None => kept.push(Cow::Borrowed(raw.get())),
            }
        }
        let is_tools = result.tools.is_some_and(|tools| std::ptr::eq(tools, list));
        if is_tools && !view.own.is_empty() && (view.own_on == Page::This || result.next_cursor.is_none()) {
            kept.extend(view.own.iter().map(|tool| Cow::Borrowed(*tool)));
            is_changed = true;
        }
        if is_changed {
            edits.push((list.get(), format!("[{}]", kept.join(","))));
        }
    }
    // The answer is now for this key only, so a shared cache must not keep it.
    let scope = result.cache_scope.filter(|scope| is_personal && scope.get() != "\"private\"");
    edits.extend(scope.map(|scope| (scope.get(), "\"private\"".to_owned())));
    if edits.is_empty() { Ok(None) } else { splice(message.as_bytes(), edits).map(Some) }
}

/// The tool with these terms in its `_meta`, replacing any that the server wrote.
fn with_terms(tool: &str, item: &Item<'_>, terms: &Terms) -> Result<String, Unreadable> {
    let own = format!("\"{TERMS}\":{}", terms.meta);
    let (mut edits, mut more) = (Vec::new(), String::new());
    match item.meta.map(RawValue::get) {
        None => more = format!(",\"_meta\":{{{own}}}"),
        Some(meta) if meta.starts_with('{') => {
            let known: BTreeMap<Cow<'_, str>, &RawValue> =
                serde_json::from_str(meta).map_err(|_| Unreadable)?;
            edits.push(match (known.get(TERMS), meta.strip_prefix('{')) {
                (Some(said), _) => (said.get(), terms.meta.clone()),
                (None, Some(rest)) if !known.is_empty() => (meta, format!("{{{own},{rest}")),
                _ => (meta, format!("{{{own}}}")),
            });
        }
        Some(other) => edits.push((other, format!("{{{own}}}"))),
    }
    if let Some(text) = &terms.text {
        let text = quoted(text);
        // What the server wrote stays as it is: its closing quote and the opening quote of the text are left out.
        let said =
            item.description.and_then(|said| said.get().strip_suffix('"')).filter(|said| *said != "\"");
        match (item.description, said, text.strip_prefix('"')) {
            (Some(whole), Some(said), Some(text)) => {
                edits.push((whole.get(), format!("{said}\\n\\n{text}")));
            }
            (Some(whole), _, _) => edits.push((whole.get(), text)),
            (None, _, _) => more = format!("{more},\"description\":{text}"),
        }
    }
    let shown = String::from_utf8(splice(tool.as_bytes(), edits)?).map_err(|_| Unreadable)?;
    Ok(format!("{}{more}}}", shown.strip_suffix('}').ok_or(Unreadable)?))
}

/// Replaces parts of `whole`. The parts must be slices of it and must not overlap.
fn splice(whole: &[u8], edits: Vec<(&str, String)>) -> Result<Vec<u8>, Unreadable> {
    let mut placed = Vec::with_capacity(edits.len());
    for (part, replacement) in edits {
        let start = json::offset_in(whole, part).ok_or(Unreadable)?;
        let end = start.checked_add(part.len()).ok_or(Unreadable)?;
        ordered::insert(&mut placed, (start, end, replacement), |a, b| a.0.cmp(&b.0));
    }
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
        let sees = |listed: Listed<'_>| match listed {
            Listed::Resource(_) => None,
            listed => Some(listed.name().starts_with("ok")),
        };
        filter(message.as_bytes(), &View::of(&sees))
            .map(|bytes| bytes.map(|bytes| String::from_utf8(bytes).unwrap()))
    }

    #[test]
    fn hidden_tools_are_removed_and_all_else_stays_byte_for_byte() {
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
        // Every key may see every resource here, so the list stays public.
        let resources = r#"{"result":{"resources":[{"uri":"no:a","name":"x"}],"cacheScope":"public"}}"#;
        assert_eq!(filtered(resources), Ok(None));
    }

    #[test]
    fn answers_that_need_no_change_pass_unchanged() {
        for message in [
            r#"{"result":{"tools":[{"name":"ok"}],"cacheScope":"private"}}"#,
            r#"{"result":{"tools":[]}}"#,
            r#"{"result":{"content":[]}}"#,
            r#"{"error":{"code":1}}"#,
            r#"{"method":"notifications/progress"}"#,
            "[]",
            // Servers may send such unusual messages. Nothing in them needs to be hidden.
            r#"{"method":"notifications/message","params":{"data":{"id":1,"ID":2,"id":3},"Name":"x"}}"#,
            r#"{"result":{"content":[{"text":"cut \ud83d"}],"Error":1}}"#,
        ] {
            assert_eq!(filtered(message), Ok(None), "{message}");
        }
    }

    #[test]
    fn each_message_of_an_array_is_filtered() {
        let sent = r#"[{"method":"a"}, {"result":{"tools":[{"name":"no"},{"name":"ok"}]}} ]"#;
        let expected = r#"[{"method":"a"}, {"result":{"tools":[{"name":"ok"}]}} ]"#;
        assert_eq!(filtered(sent), Ok(Some(expected.to_owned())));
        assert_eq!(filtered(r#"[[{"result":{"tools":[{"name":"no"}]}}]]"#), Err(Unreadable));
    }

    #[test]
    fn what_can_not_be_filtered_reliably_is_not_passed() {
        for message in [
            "",
            "[1]",
            r#"{"result":{"content":[]},"Result":{"tools":[{"name":"no"}]}}"#,
            r#"{"result":{"Tools":[{"name":"no"}]}}"#,
            r#"{"result":{"content":[]},"result":{"tools":[{"name":"no"}]}}"#,
            r#"{"result":{"tools":[{"name":"ok"}],"tools":[{"name":"no"}]}}"#,
            r#"{"result":{"tools":{"name":"no"}}}"#,
            r#"{"result":{"tools":[{"title":"no"}]}}"#,
            r#"{"result":{"tools":[{"name":"ok","name":"no"}]}}"#,
            r#"{"result":{"tools":null}}"#,
        ] {
            assert_eq!(filtered(message), Err(Unreadable), "{message}");
        }
    }

    #[test]
    fn the_gates_own_tools_follow_the_servers_on_one_page() {
        let own = [r#"{"name":"mine"}"#];
        let sees = |listed: Listed<'_>| Some(listed.name() != "no");
        let seen = |message: &str, own_on| {
            let view = View { own: &own, own_on, ..View::of(&sees) };
            filter(message.as_bytes(), &view).unwrap().map(|bytes| String::from_utf8(bytes).unwrap())
        };
        let page = r#"{"result":{"tools":[{"name":"no"},{"name":"a"}],"nextCursor":""}}"#;
        let shown = r#"{"result":{"tools":[{"name":"a"},{"name":"mine"}],"nextCursor":""}}"#;
        assert_eq!(seen(page, Page::This).as_deref(), Some(shown));
        let shown = r#"{"result":{"tools":[{"name":"a"}],"nextCursor":""}}"#;
        assert_eq!(seen(page, Page::Last).as_deref(), Some(shown));
        let shown = r#"{"result":{"tools":[{"name":"mine"}]}}"#;
        assert_eq!(seen(r#"{"result":{"tools":[]}}"#, Page::Last).as_deref(), Some(shown));
        for other in [r#"{"result":{"prompts":[]}}"#, r#"{"error":{"code":1,"message":""}}"#] {
            assert_eq!(seen(other, Page::This), None, "{other}");
        }
    }

    #[test]
    fn terms_are_added_to_existing_meta() {
        let sees = |listed: Listed<'_>| Some(listed.name() != "no");
        let terms =
            |name: &str| (name != "free").then(|| Terms { meta: "{\"credits\":1}".to_owned(), text: None });
        let view = View { terms: &terms, ..View::of(&sees) };
        for (tool, expected) in [
            (r#"{"name":"a"}"#, r#"{"name":"a","_meta":{"agentrelay/terms":{"credits":1}}}"#),
            (r#"{"_meta":{ },"name":"a"}"#, r#"{"_meta":{"agentrelay/terms":{"credits":1}},"name":"a"}"#),
            (
                r#"{"_meta":{"x":[1]},"name":"a"}"#,
                r#"{"_meta":{"agentrelay/terms":{"credits":1},"x":[1]},"name":"a"}"#,
            ),
            (r#"{"name":"a","_meta":null}"#, r#"{"name":"a","_meta":{"agentrelay/terms":{"credits":1}}}"#),
            // Terms that another gate or a dishonest server wrote are replaced.
            (
                r#"{"name":"a","_meta":{"agentrelay\/terms":0,"x":1}}"#,
                r#"{"name":"a","_meta":{"agentrelay\/terms":{"credits":1},"x":1}}"#,
            ),
            (r#"{"name":"free"}"#, r#"{"name":"free"}"#),
        ] {
            let message = format!(r#"{{"result":{{"tools":[{{"name":"no"}},{tool}]}}}}"#);
            let shown = String::from_utf8(filter(message.as_bytes(), &view).unwrap().unwrap()).unwrap();
            assert_eq!(shown, format!(r#"{{"result":{{"tools":[{expected}]}}}}"#));
            assert!(json::check(shown.as_bytes()).is_ok());
        }
    }

    #[test]
    fn terms_are_added_to_what_a_description_says() {
        let sees = |_: Listed<'_>| Some(true);
        let terms = |_: &str| Some(Terms { meta: "1".to_owned(), text: Some("Costs \"5\".".to_owned()) });
        let view = View { terms: &terms, ..View::of(&sees) };
        for (tool, expected) in [
            (
                r#"{"name":"a"}"#,
                r#"{"name":"a","_meta":{"agentrelay/terms":1},"description":"Costs \"5\"."}"#,
            ),
            (
                r#"{"description": "cut \ud83d \"x\"","name":"a","_meta":{}}"#,
                r#"{"description": "cut \ud83d \"x\"\n\nCosts \"5\".","name":"a","_meta":{"agentrelay/terms":1}}"#,
            ),
            (
                r#"{"name":"a","description":""}"#,
                r#"{"name":"a","description":"Costs \"5\".","_meta":{"agentrelay/terms":1}}"#,
            ),
            (
                r#"{"name":"a","description":null}"#,
                r#"{"name":"a","description":"Costs \"5\".","_meta":{"agentrelay/terms":1}}"#,
            ),
        ] {
            let message = format!(r#"{{"result":{{"tools":[{tool}]}}}}"#);
            let shown = String::from_utf8(filter(message.as_bytes(), &view).unwrap().unwrap()).unwrap();
            assert_eq!(shown, format!(r#"{{"result":{{"tools":[{expected}]}}}}"#));
        }
    }
}
