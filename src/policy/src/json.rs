//! Strict JSON: input that two parsers could read in different ways is refused before anything reads it.
//!
//! Refused are: a name given twice in one object; in a message, a name that the gate relies on if its case differs, because
//! some servers ignore case; `__proto__`; nesting beyond [`DEPTH_MAX`]; a byte order mark; anything that is not UTF-8;
//! numbers that are out of range; anything after the value.

mod objects;
pub(crate) mod write;

pub(crate) use objects::Objects;
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The deepest nesting of arrays and objects that is accepted.
pub const DEPTH_MAX: u32 = 64;

/// The names in an object of a message that the gate relies on. `Method` is refused even if there is no `method`,
/// because a server that ignores case would accept it. All other names belong to the tool or the client.
type Place = &'static [(&'static str, Inner)];

/// The names that the gate relies on within the value of a name.
#[derive(Clone, Copy)]
struct Inner(Place);

const NOTHING: Inner = Inner(&[]);
const MESSAGE: Place = &[
    ("jsonrpc", NOTHING),
    ("id", NOTHING),
    ("method", NOTHING),
    ("params", Inner(PARAMS)),
    ("result", NOTHING),
    ("error", NOTHING),
];
const PARAMS: Place = &[
    ("name", NOTHING),
    ("uri", NOTHING),
    ("arguments", NOTHING),
    ("ref", Inner(&[("type", NOTHING), ("name", NOTHING), ("uri", NOTHING)])),
    ("cursor", NOTHING),
    ("task", NOTHING),
    ("taskId", NOTHING),
    ("notifications", Inner(&[("resourceSubscriptions", NOTHING)])),
    ("_meta", Inner(&[("io.modelcontextprotocol/protocolVersion", NOTHING)])),
];

/// Names an object's prototype in JavaScript: its members could be read as the object's own.
const PROTOTYPE: &str = "__proto__";

/// Why the input was refused. It never quotes the input, which may contain what must not be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Not one JSON value in UTF-8.
    Syntax,
    /// A name is given twice in one object.
    DuplicateName,
    /// A name that the gate relies on is written in different case.
    AmbiguousName,
    /// A name is `__proto__`.
    Prototype,
    /// Nested deeper than [`DEPTH_MAX`].
    TooDeep,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Syntax => "the body is not one JSON value in UTF-8",
            Fault::DuplicateName => "the body gives a name twice in one object",
            Fault::AmbiguousName => "the body has a protocol name in different case",
            Fault::Prototype => "the body uses the name `__proto__`",
            Fault::TooDeep => "the body is nested deeper than 64 levels",
        })
    }
}

impl std::error::Error for Fault {}

/// The members of an object by name, each as it is written. `None` if the text is not an object.
pub(crate) fn members(text: &str) -> Option<BTreeMap<Cow<'_, str>, &RawValue>> {
    serde_json::from_str(text).ok()
}

/// Checks that `bytes` are one JSON value that every parser reads alike.
pub fn check(bytes: &[u8]) -> Result<(), Fault> {
    check_place(bytes, NOTHING.0)
}

/// Like [`check`], and also checks the case of the names in a JSON-RPC message that the gate relies on.
pub fn check_message(bytes: &[u8]) -> Result<(), Fault> {
    check_place(bytes, MESSAGE)
}

fn check_place(bytes: &[u8], place: Place) -> Result<(), Fault> {
    let text = str::from_utf8(bytes).map_err(|_| Fault::Syntax)?;
    let mut json = serde_json::Deserializer::from_str(text);
    let mut fault = None;
    let outcome =
        Walk { depth: 0, place, fault: &mut fault }.deserialize(&mut json).and_then(|()| json.end());
    match outcome {
        Ok(()) => Ok(()),
        Err(_) => Err(fault.unwrap_or(Fault::Syntax)),
    }
}

struct Walk<'f> {
    depth: u32,
    place: Place,
    fault: &'f mut Option<Fault>,
}

impl Walk<'_> {
    fn fail<E: de::Error>(self, fault: Fault) -> E {
        *self.fault = Some(fault);
        E::custom(fault)
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! scalars {
    ($($visit:ident $scalar:ty),*) => {$(
        fn $visit<E>(self, _: $scalar) -> Result<(), E> {
            Ok(())
        }
    )*};
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    scalars! { visit_bool bool, visit_i64 i64, visit_u64 u64, visit_f64 f64, visit_str &str }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let depth = self.depth.saturating_add(1);
        if depth > DEPTH_MAX {
            return Err(self.fail(Fault::TooDeep));
        }
        let place = self.place;
        while seq.next_element_seed(Walk { depth, place, fault: &mut *self.fault })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let depth = self.depth.saturating_add(1);
        if depth > DEPTH_MAX {
            return Err(self.fail(Fault::TooDeep));
        }
        let mut names = BTreeSet::new();
        while let Some(Name(name)) = map.next_key()? {
            let relied_on = self.place.iter().find(|(own, _)| is_same_folded(own, &name));
            if relied_on.is_some_and(|(own, _)| *own != name) {
                return Err(self.fail(Fault::AmbiguousName));
            }
            if name == PROTOTYPE {
                return Err(self.fail(Fault::Prototype));
            }
            if !names.insert(name) {
                return Err(self.fail(Fault::DuplicateName));
            }
            let Inner(place) = relied_on.map_or(NOTHING, |(_, inner)| *inner);
            map.next_value_seed(Walk { depth, place, fault: &mut *self.fault })?;
        }
        Ok(())
    }
}

/// True if an object gives each of these names at most once, and none of them in different case.
pub(crate) fn names_unique(object: &str, names: &[&str]) -> bool {
    struct Names<'n>(&'n [&'n str]);

    impl<'de> Visitor<'de> for Names<'_> {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
            let mut seen = Vec::with_capacity(self.0.len());
            let mut is_unique = true;
            while let Some(Name(name)) = map.next_key()? {
                map.next_value::<IgnoredAny>()?;
                if let Some(own) = self.0.iter().find(|own| is_same_folded(own, &name)) {
                    is_unique &= *own == name && !seen.contains(own);
                    seen.push(own);
                }
            }
            Ok(is_unique)
        }
    }

    let mut json = serde_json::Deserializer::from_str(object);
    de::Deserializer::deserialize_map(&mut json, Names(names)).unwrap_or(false)
}

/// A name, borrowed from the input if it has no escapes.
struct Name<'de>(Cow<'de, str>);

impl<'de> de::Deserialize<'de> for Name<'de> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

/// A text as a server that ignores case reads it. This includes letters outside ASCII that fold into ASCII, as Go's standard
/// parser does, and fullwidth forms.
pub(crate) fn fold(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        return text;
    }
    let fold = |letter: char| match letter {
        '\u{17F}' => 's',
        '\u{212A}' => 'k',
        '\u{130}' | '\u{131}' => 'i',
        '\u{FF01}'..='\u{FF5E}' => {
            u32::from(letter).checked_sub(0xFEE0).and_then(char::from_u32).unwrap_or(letter)
        }
        letter => letter,
    };
    Cow::Owned(text.chars().map(|letter| fold(letter).to_ascii_lowercase()).collect())
}

/// True if a server that ignores case would read the two names as the same.
pub(crate) fn is_same_folded(own: &str, name: &str) -> bool {
    if name.is_ascii() {
        return own.eq_ignore_ascii_case(name);
    }
    fold(Cow::Borrowed(own)) == fold(Cow::Borrowed(name))
}

/// For `#[serde(deserialize_with)]`: a field that is present is `Some`, even if it is `null`. An absent `id` and a null `id`
/// have different meanings.
pub(crate) fn present<'de, D: de::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'de RawValue>, D::Error> {
    de::Deserialize::deserialize(deserializer).map(Some)
}

/// Reads one JSON value; structs are read from objects only. All readers here take text, because serde_json has a separate
/// parser for bytes, which would enlarge the filter.
pub fn read<'m, T: de::Deserialize<'m>>(bytes: &'m [u8]) -> Result<T, serde_json::Error> {
    let text = str::from_utf8(bytes).map_err(de::Error::custom)?;
    read_text(text)
}

fn read_text<'m, T: de::Deserialize<'m>>(text: &'m str) -> Result<T, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_str(text);
    let value = T::deserialize(Objects(&mut json))?;
    json.end().map(|()| value)
}

/// Reads an object into a struct.
pub(crate) fn object<'m, T: de::Deserialize<'m>>(text: &'m str) -> Option<T> {
    read_text(text).ok()
}

/// The offset of `part` in `whole`; `None` if `part` is not a slice of it.
pub(crate) fn offset_in(whole: &[u8], part: &str) -> Option<usize> {
    let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    (start.checked_add(part.len())? <= whole.len()).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_parsers_could_read_in_two_ways_is_refused() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let wide_twice =
            format!("{{{}\"k0\":1}}", (0..40).map(|n| format!("\"k{n}\":1,")).collect::<String>());
        let cases: Vec<(Vec<u8>, Result<(), Fault>)> = vec![
            (br#"{"a":1,"b":[{"a":null}]}"#.to_vec(), Ok(())),
            (b" 1 ".to_vec(), Ok(())),
            (br#"{"a":1,"a":2}"#.to_vec(), Err(Fault::DuplicateName)),
            (br#"{"a":1,"\u0061":2}"#.to_vec(), Err(Fault::DuplicateName)),
            (br#"{"a":1,"A":2}"#.to_vec(), Ok(())),
            (br#"{"method":1,"Method":2}"#.to_vec(), Err(Fault::AmbiguousName)),
            ("{\"params\":1,\"param\u{17F}\":2}".into(), Err(Fault::AmbiguousName)),
            (br#"{"params":{"arguments":{"a":{"x":1,"X":2}}}}"#.to_vec(), Ok(())),
            (br#"{"params":{"arguments":{"a":{"x":1,"x":2}}}}"#.to_vec(), Err(Fault::DuplicateName)),
            (br#"{"result":1,"Method":"tools/call"}"#.to_vec(), Err(Fault::AmbiguousName)),
            (br#"{"params":{"Name":"a"}}"#.to_vec(), Err(Fault::AmbiguousName)),
            (br#"{"params":{"ref":{"Name":"a"}}}"#.to_vec(), Err(Fault::AmbiguousName)),
            (br#"{"params":{"TaskID":"a"}}"#.to_vec(), Err(Fault::AmbiguousName)),
            ("{\"params\":{\"ta\u{17F}\u{212A}\":{}}}".into(), Err(Fault::AmbiguousName)),
            (
                br#"{"params":{"notifications":{"resourcesubscriptions":[]}}}"#.to_vec(),
                Err(Fault::AmbiguousName),
            ),
            (br#"{"params":{"arguments":{"Name":1,"N":1,"n":2,"Method":3}}}"#.to_vec(), Ok(())),
            (br#"{"result":{"Method":1,"content":{"a":1,"A":2}}}"#.to_vec(), Ok(())),
            (br#"{"params":{"arguments":{"a":[{"__proto__":1}]}}}"#.to_vec(), Err(Fault::Prototype)),
            (br#"{"\u005f_proto__":1}"#.to_vec(), Err(Fault::Prototype)),
            (wide_twice.into_bytes(), Err(Fault::DuplicateName)),
            (nested(64).into_bytes(), Ok(())),
            (nested(65).into_bytes(), Err(Fault::TooDeep)),
            (nested(100_000).into_bytes(), Err(Fault::TooDeep)),
            (b"\xef\xbb\xbf{}".to_vec(), Err(Fault::Syntax)),
            (b"{\x00}\x00".to_vec(), Err(Fault::Syntax)),
            (b"{\"a\":\"\xff\"}".to_vec(), Err(Fault::Syntax)),
            (b"{} {}".to_vec(), Err(Fault::Syntax)),
            (b"{'a':1}".to_vec(), Err(Fault::Syntax)),
            (b"[1,]".to_vec(), Err(Fault::Syntax)),
            (b"NaN".to_vec(), Err(Fault::Syntax)),
            (b"1e999".to_vec(), Err(Fault::Syntax)),
            (br#""\ud800""#.to_vec(), Err(Fault::Syntax)),
            (b"".to_vec(), Err(Fault::Syntax)),
        ];
        for (bytes, expected) in cases {
            let shown: String = String::from_utf8_lossy(&bytes).chars().take(60).collect();
            assert_eq!(check_message(&bytes), expected, "{shown}");
        }
    }

    #[test]
    fn a_struct_is_read_from_an_object_only_at_any_depth() {
        #[derive(Debug, PartialEq, serde::Deserialize)]
        struct Inner {
            a: u32,
        }
        #[derive(Debug, serde::Deserialize)]
        struct Outer<'o> {
            #[serde(default)]
            few: Vec<Inner>,
            one: Option<Inner>,
            #[serde(borrow)]
            raw: Option<&'o RawValue>,
        }
        let outer: Outer<'_> = read(br#"{"few":[{"a":1}],"one":{"a":2},"raw":[3]}"#).unwrap();
        assert_eq!((outer.few, outer.one), (vec![Inner { a: 1 }], Some(Inner { a: 2 })));
        assert_eq!(outer.raw.unwrap().get(), "[3]");
        for text in
            [r#"[[],null,null]"#, r#"{"few":[[1]]}"#, r#"{"one":[1]}"#, r#"{} {}"#, "{\"one\":\"\u{0}\"}"]
        {
            assert!(read::<Outer<'_>>(text.as_bytes()).is_err(), "{text}");
        }
        assert!(read::<String>(b"\"\xff\"").is_err());
    }
}
