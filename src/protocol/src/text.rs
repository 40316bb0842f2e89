//! Checks free text that one person writes and others read, such as names and reasons. It must not contain invisible
//! characters or characters that reorder the visible ones.
//!
//! This module defines which characters those are. Its callers decide where text is checked or shown.

/// First and last character of each forbidden range, in order. From Unicode 16.0: the general categories Cc, Zl, Zp and
/// Co, the invisible characters of Cf, and Default_Ignorable_Code_Point (DerivedCoreProperties.txt); also U+2800, the
/// blank Braille pattern. Unassigned characters are allowed, except in the ranges that Unicode reserves for ignorable
/// ones.
const UNSEEN: [(char, char); 23] = [
    ('\0', '\u{1f}'),
    ('\u{7f}', '\u{9f}'),
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{2800}', '\u{2800}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{e000}', '\u{f8ff}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
    ('\u{f0000}', '\u{10ffff}'),
];

/// Zero-width non-joiner and joiner, which Persian, Indic scripts and emoji need.
const JOINERS: [char; 2] = ['\u{200c}', '\u{200d}'];
/// The variation selector for the coloured form of an emoji.
const EMOJI_STYLE: char = '\u{fe0f}';
/// The first character whose script uses joiners. In earlier scripts (Latin, Greek, Cyrillic) a joiner can only hide.
const FIRST_JOINED: char = '\u{600}';

/// True for a character that is invisible, or that changes the direction or the form of others.
fn is_unseen(letter: char) -> bool {
    UNSEEN.iter().any(|(first, last)| (*first..=*last).contains(&letter))
}

/// The first forbidden character of the text; `None` if there is none. A joiner is allowed only between two characters
/// of scripts that use joiners, and the emoji variation selector only after one such character.
pub fn unseen(text: &str) -> Option<char> {
    letters(text).find(|(_, is_plain)| !is_plain).map(|(letter, _)| letter)
}

/// The text in a form that is safe to show: forbidden characters are escaped, for example as `\u{202e}`.
pub fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for (letter, is_plain) in letters(text) {
        if is_plain {
            shown.push(letter);
        } else {
            shown.extend(letter.escape_unicode());
        }
    }
    shown
}

/// Each character, and whether it is allowed at its position.
fn letters(text: &str) -> impl Iterator<Item = (char, bool)> {
    let joins = |other: Option<char>| other.is_some_and(|other| other >= FIRST_JOINED && !is_unseen(other));
    let mut before = None;
    let mut letters = text.chars().peekable();
    std::iter::from_fn(move || {
        let letter = letters.next()?;
        let is_in_place = if JOINERS.contains(&letter) {
            (joins(before) || before == Some(EMOJI_STYLE)) && joins(letters.peek().copied())
        } else {
            letter == EMOJI_STYLE && joins(before)
        };
        before = Some(letter);
        Some((letter, is_in_place || !is_unseen(letter)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_scripts_are_accepted_and_invisible_characters_found() {
        for name in [
            "Acme & Söhne (№ 1)",
            "日本語の名前",
            "می\u{200c}خواهم",
            "क्\u{200d}ष",
            "👩\u{200d}💻 ❤\u{fe0f}\u{200d}🔥",
            "שלום",
            "e\u{301}",
        ] {
            assert_eq!(unseen(name), None, "{name}");
            assert_eq!(shown(name), name);
        }
        for hidden in [
            '\n',
            '\u{7f}',
            '\u{85}',
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{115f}',
            '\u{180e}',
            '\u{200b}',
            '\u{200c}',
            '\u{200d}',
            '\u{200e}',
            '\u{2028}',
            '\u{2029}',
            '\u{202a}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{2800}',
            '\u{3164}',
            '\u{e000}',
            '\u{fe00}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{fff9}',
            '\u{e0001}',
            '\u{e0041}',
            '\u{e01ef}',
            '\u{10fffd}',
        ] {
            for name in [format!("Ac{hidden}me"), format!("{hidden}Acme"), format!("Acme{hidden}")] {
                assert_eq!(unseen(&name), Some(hidden), "{}", name.escape_unicode());
            }
        }
        // A joiner is refused at either end of the text, after another joiner, and next to Latin letters.
        for name in ["می\u{200c}", "\u{200c}می", "م\u{200c}\u{200c}ی", "م\u{200d}x", "م\u{fe0f}\u{fe0f}"]
        {
            assert!(unseen(name).is_some(), "{}", name.escape_unicode());
        }
        assert_eq!(shown("a\u{202e}b\n"), "a\\u{202e}b\\u{a}");
    }
}
