//! The arguments of an HTTP call that decide its price or tier, from its query and from its JSON body.
//!
//! Servers differ in how they read a query. A form that some of them would read as one of these arguments, while others
//! would not, is refused.

use crate::json;
use crate::reading::is_blank;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// The most parts of a query with arguments that decide. Servers read only so many, 1,000 for instance, and ignore what follows.
const PARTS_MAX: usize = 256;

/// Why the arguments can't be read, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The query has a broken escape, or separates its parts with `;`.
    Query,
    /// The query has more parts than servers read.
    Long,
    /// The argument is given more than once.
    Twice(String),
    /// A name is written in a form that some servers read as this argument.
    Respelt(String),
    /// The body can't be read in one way only.
    Body(json::Fault),
    /// The body is not a JSON object.
    NoObject,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Query => {
                f.write_str("the query has a broken escape or a `;`; write it as `name=value&name=value`")
            }
            Fault::Long => write!(f, "the query has too many parts; send {PARTS_MAX} at most"),
            Fault::Twice(name) => {
                write!(
                    f,
                    "argument `{name}` is given more than once; give it once, in the query or in the body"
                )
            }
            Fault::Respelt(name) => {
                write!(
                    f,
                    "argument `{name}` must be written so, upper and lower case included, without brackets"
                )
            }
            Fault::Body(fault) => fault.fmt(f),
            Fault::NoObject => f.write_str("the body must be a JSON object, which holds the arguments"),
        }
    }
}

/// The values of the wanted arguments that the call gives: the text of a string, number or boolean, `None` for any other type.
pub fn read(wanted: &[&str], target: &[u8], body: &[u8]) -> Result<BTreeMap<String, Option<String>>, Fault> {
    let mut arguments = BTreeMap::new();
    let mut add = |name: &str, value: Option<String>| match wanted.iter().find(|own| reads_like(name, own)) {
        None => Ok(()),
        Some(own) if *own != name => Err(Fault::Respelt((*own).to_owned())),
        Some(_) => match arguments.insert(name.to_owned(), value) {
            None => Ok(()),
            Some(_) => Err(Fault::Twice(name.to_owned())),
        },
    };
    for part in parts(target)? {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        add(&unescape(name)?, Some(unescape(value)?))?;
    }
    if !body.is_empty() {
        json::check(body).map_err(Fault::Body)?;
        let members = str::from_utf8(body).ok().and_then(json::members).ok_or(Fault::NoObject)?;
        for (name, value) in members {
            add(&name, text_of(value))?;
        }
    }
    Ok(arguments)
}

/// A name in the query by which some servers let a client replace the method.
pub fn method_override(target: &[u8]) -> Option<&'static str> {
    const NAMES: [&str; 4] = ["_method", "x-http-method-override", "x-http-method", "x-method-override"];
    let query = target.splitn(2, |byte| *byte == b'?').nth(1)?;
    query.split(|byte| b"&;#".contains(byte)).find_map(|part| {
        let name = String::from_utf8_lossy(part.split(|byte| *byte == b'=').next().unwrap_or_default());
        // Few names get further.
        if !name.contains('%') && !name.to_ascii_lowercase().contains("method") {
            return None;
        }
        // A broken escape is read as it is written.
        let name = unescape(&name).unwrap_or_else(|_| name.into_owned());
        NAMES.into_iter().find(|own| reads_like(&name, own))
    })
}

/// The parts of the query. A fragment is no part of a request; servers that get one disagree about it.
fn parts(target: &[u8]) -> Result<impl Iterator<Item = &str>, Fault> {
    let text = str::from_utf8(target).map_err(|_| Fault::Query)?;
    let query = text.split_once('?').map_or("", |(_, query)| query);
    if query.contains([';', '#']) {
        return Err(Fault::Query);
    }
    if query.split('&').count() > PARTS_MAX {
        return Err(Fault::Long);
    }
    Ok(query.split('&').filter(|part| !part.is_empty()))
}

fn text_of(value: &RawValue) -> Option<String> {
    match value.get().as_bytes().first() {
        Some(b'"') => serde_json::from_str(value.get()).ok(),
        Some(b'{' | b'[' | b'n') | None => None,
        Some(_) => Some(value.get().to_owned()),
    }
}

/// Decodes a name or value of a query.
fn unescape(text: &str) -> Result<String, Fault> {
    if !text.contains(['%', '+']) {
        return Ok(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else { return Err(Fault::Query) };
                u8::try_from(high.saturating_mul(16).saturating_add(low)).map_err(|_| Fault::Query)?
            }
            other => other,
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).map_err(|_| Fault::Query)
}

/// True if some servers read a name as the other. They ignore case and blanks, cut it off at a zero byte, read `a[b]` and
/// `a.b` as members of `a` and `[a]` as `a`, and PHP writes `.`, blanks and `[` as `_`.
fn reads_like(name: &str, own: &str) -> bool {
    if name == own {
        return true;
    }
    let fold = |name: &str| {
        let name = name.trim_matches(|letter: char| is_blank(letter) || letter.is_control());
        let name = name.replace(|letter: char| matches!(letter, '.' | '[' | '-') || is_blank(letter), "_");
        json::fold(Cow::Owned(name)).into_owned()
    };
    let cut = |name: &str| {
        let name = name.trim_start_matches(['[', '.']);
        let end = name.find(['[', '.', '\0', '%', ']']).unwrap_or(name.len());
        name.get(..end).unwrap_or(name).to_owned()
    };
    let folded = fold(own);
    // Some servers decode twice.
    let again = name.contains('%').then(|| unescape(name).ok()).flatten().filter(|again| again != name);
    fold(name) == folded || fold(&cut(name)) == folded || again.is_some_and(|again| reads_like(&again, own))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(target: &str, body: &str) -> Result<Option<Option<String>>, Fault> {
        let mut arguments = read(&["quality", "page_size"], target.as_bytes(), body.as_bytes())?;
        Ok(arguments.remove("quality"))
    }

    #[test]
    fn an_argument_is_read_from_the_query_or_the_body() {
        let given = |text: &str| Ok(Some(Some(text.to_owned())));
        for (target, body, value) in [
            ("/draw", "", Ok(None)),
            ("/draw?", "", Ok(None)),
            ("/draw?quality=ultra", "", given("ultra")),
            ("/draw?a=1&quality=ultra+plus&&b", "", given("ultra plus")),
            ("/draw?quality=%75ltra", "", given("ultra")),
            ("/draw?qualit%79=ultra", "", given("ultra")),
            ("/draw?quality", "", given("")),
            ("/draw?quality=a=b", "", given("a=b")),
            ("/draw", r#"{"quality": "ultra", "other": {"quality": "x"}}"#, given("ultra")),
            ("/draw?other=1", r#"{"quality": 3}"#, given("3")),
            ("/draw", r#"{"quality": true}"#, given("true")),
            ("/draw", r#"{"quality": null}"#, Ok(Some(None))),
            ("/draw", r#"{"quality": ["ultra"]}"#, Ok(Some(None))),
        ] {
            assert_eq!(read_one(target, body), value, "{target} {body}");
        }
    }

    #[test]
    fn a_query_that_replaces_the_method_is_found() {
        for query in [
            "_method=DELETE",
            "a=1&_method",
            "a=%zz&_METHOD=x",
            "a=1;_method=x",
            "%5fmethod=x",
            "%255fmethod=x",
            "+_method=x",
            ".method=x",
            "_method[]=x",
            "_method.x=x",
            "_method%00=x",
            "X-HTTP-Method-Override=PUT",
            "x_http_method_override=PUT",
        ] {
            let target = format!("/a?{query}");
            assert!(method_override(target.as_bytes()).is_some(), "{query}");
        }
        for target in ["/_method=x", "/a?method=x", "/a?a=_method", "/a?my_method=x", "/a", "/a?", "/a?a=%zz"]
        {
            assert_eq!(method_override(target.as_bytes()), None, "{target}");
        }
    }

    #[test]
    fn what_servers_read_differently_is_refused() {
        let (twice, respelt) = (Fault::Twice("quality".into()), Fault::Respelt("quality".into()));
        for (target, body, fault) in [
            ("/draw?quality=a&quality=b", "", &twice),
            ("/draw?quality=a&qualit%79=a", "", &twice),
            ("/draw?quality=a", r#"{"quality": "a"}"#, &twice),
            ("/draw?Quality=a", "", &respelt),
            ("/draw?quality[]=a", "", &respelt),
            ("/draw?quality%5B0%5D=a", "", &respelt),
            ("/draw?quality.x=a", "", &respelt),
            ("/draw?[quality]=a", "", &respelt),
            (&format!("/draw?{}quality=a", "a&".repeat(256)), "", &Fault::Long),
            ("/draw?+quality=a", "", &respelt),
            ("/draw?quality%00=a", "", &respelt),
            ("/draw?quality%0a=a", "", &respelt),
            ("/draw?qualit%2579=a", "", &Fault::Respelt("quality".into())),
            ("/draw", r#"{"QUALITY": "a"}"#, &respelt),
            ("/draw?page.size=a", "", &Fault::Respelt("page_size".into())),
            ("/draw?page[size=a", "", &Fault::Respelt("page_size".into())),
            ("/draw?a=1;quality=ultra", "", &Fault::Query),
            ("/draw?a=1#&quality=ultra", "", &Fault::Query),
            ("/draw?a=%zz", "", &Fault::Query),
            ("/draw?a=%ff", "", &Fault::Query),
            ("/draw", r#"["quality"]"#, &Fault::NoObject),
            ("/draw", r#"{"quality": "a", "quality": "b"}"#, &Fault::Body(json::Fault::DuplicateName)),
            ("/draw", "quality=ultra", &Fault::Body(json::Fault::Syntax)),
        ] {
            assert_eq!(read_one(target, body).as_ref(), Err(fault), "{target} {body}");
        }
    }
}
