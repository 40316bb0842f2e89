//! Reads from a crate's source text which of its top-level modules (its rooms) uses which others. Code for tests does
//! not count, and neither does the crate's root, which may use all rooms.

use proc_macro2::{Delimiter, Ident, Spacing, TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};

/// Texts of a crate's files by their paths in the repository.
pub type Files = BTreeMap<String, String>;

/// The rooms of a crate.
#[derive(Debug, Default)]
pub struct Rooms {
    pub names: BTreeSet<String>,
    /// Which module uses which, and a line that does. Modules inside one room are named with their room, as
    /// `exchange::batch`.
    pub arrows: BTreeMap<(String, String), String>,
    /// Parts that could not be read.
    pub faults: Vec<String>,
}

impl Rooms {
    pub fn read(name: &str, files: &Files) -> Rooms {
        let (found, paths, modules, passed_on) = Default::default();
        let mut reader = Reader { name, files, found, paths, modules, passed_on };
        for root in ["lib", "main"] {
            let path = format!("src/{name}/src/{root}.rs");
            if files.contains_key(&path) {
                reader.read(&path, &[]);
            }
        }
        reader.resolve()
    }

    /// A line in which one uses the other.
    pub fn place(&self, user: &str, used: &str) -> &str {
        self.arrows.get(&(user.to_owned(), used.to_owned())).map_or("nowhere", String::as_str)
    }

    /// The rooms that a room uses.
    pub fn used<'a>(&'a self, from: &'a str) -> impl Iterator<Item = &'a str> {
        self.arrows.keys().filter(move |(user, _)| user == from).map(|(_, used)| used.as_str())
    }
}

/// A path in the source text, and the module that it is in.
struct Named {
    module: Vec<String>,
    segments: Vec<String>,
    place: String,
}

struct Reader<'a> {
    name: &'a str,
    files: &'a Files,
    found: Rooms,
    paths: Vec<Named>,
    modules: BTreeSet<Vec<String>>,
    /// Names that a module re-exports, by their paths, and which of its modules they come from.
    passed_on: BTreeMap<Vec<String>, String>,
}

impl Reader<'_> {
    fn read(&mut self, path: &str, module: &[String]) {
        match self.files.get(path).map(|text| text.parse::<TokenStream>()) {
            Some(Ok(stream)) => self.scan(stream, path, module),
            Some(Err(error)) => self.found.faults.push(format!("{path}: can't be read: {error}")),
            None => self.found.faults.push(format!("{path}: is declared and not there")),
        }
    }

    fn scan(&mut self, stream: TokenStream, path: &str, module: &[String]) {
        let trees: Vec<TokenTree> = stream.into_iter().collect();
        let mut rest = trees.as_slice();
        let mut is_use = false;
        while let [first, after @ ..] = rest {
            rest = match (first, after) {
                (TokenTree::Punct(mark), [TokenTree::Group(attribute), after @ ..])
                    if mark.as_char() == '#' && is_for_tests(&attribute.stream()) =>
                {
                    after_item(after)
                }
                (TokenTree::Ident(word), [TokenTree::Ident(name), body, after @ ..]) if word == "mod" => {
                    self.module(name, body, path, module);
                    after
                }
                (TokenTree::Ident(word), _) if is_use || is_separated(after) => {
                    let mut found = Vec::new();
                    let after = paths(rest, &[], &mut found);
                    self.keep(found, is_use, module, &format!("{path}:{}", word.span().start().line));
                    after
                }
                (TokenTree::Group(group), _) => {
                    self.scan(group.stream(), path, module);
                    after
                }
                _ => after,
            };
            is_use = matches!(first, TokenTree::Ident(word) if word == "use");
        }
    }

    fn module(&mut self, name: &Ident, body: &TokenTree, path: &str, module: &[String]) {
        let inner = [module, &[name.to_string()]].concat();
        if module.is_empty() {
            self.found.names.insert(name.to_string());
        }
        self.modules.insert(inner.clone());
        match body {
            TokenTree::Group(group) => self.scan(group.stream(), path, &inner),
            _ => self.read(&format!("src/{}/src/{}.rs", self.name, inner.join("/")), &inner),
        }
    }

    fn keep(&mut self, found: Vec<(Vec<String>, String)>, is_use: bool, module: &[String], place: &str) {
        let is_root = module.is_empty();
        for (segments, known_as) in found {
            let is_here = |segment: &&String| *segment == "self" || is_root && *segment == "crate";
            if is_use && let Some(child) = segments.iter().find(|segment| !is_here(segment)) {
                self.passed_on.insert([module, &[known_as]].concat(), child.clone());
            }
            if !is_root {
                self.paths.push(Named { module: module.to_vec(), segments, place: place.to_owned() });
            }
        }
    }

    fn resolve(mut self) -> Rooms {
        for Named { module, segments, place } in std::mem::take(&mut self.paths) {
            let mut at = module.clone();
            let mut names = segments.iter().peekable();
            match names.next().map(String::as_str) {
                Some("crate") => at.clear(),
                Some("self") => {}
                Some("super") => {
                    at.pop();
                }
                // A crate's library, as its program names it.
                Some(own)
                    if own == self.name
                        && names.peek().is_some_and(|next| self.found.names.contains(*next)) =>
                {
                    at.clear();
                }
                _ => continue,
            }
            while names.next_if(|name| *name == "super").is_some() {
                at.pop();
            }
            at.extend(names.cloned());
            // Down to where the two paths part: there they are siblings.
            for depth in 0..module.len() {
                let (parent, user) = (&module[..depth], &module[..=depth]);
                match at.get(depth).and_then(|name| self.child(parent, name)) {
                    Some(used) if used == user => {}
                    Some(used) => {
                        self.found.arrows.entry((user.join("::"), used.join("::"))).or_insert(place);
                        break;
                    }
                    None if depth == 0 => {
                        let (path, name) = (segments.join("::"), self.name);
                        let fault =
                            format!("{place}: {path} names no room of {name}: name the room that it is in");
                        self.found.faults.push(fault);
                        break;
                    }
                    None => break,
                }
            }
        }
        self.found
    }

    /// The module inside another that has this name or re-exports it.
    fn child(&self, parent: &[String], name: &str) -> Option<Vec<String>> {
        let inside = |name: &str| [parent, &[name.to_owned()]].concat();
        let child = Some(inside(name)).filter(|child| self.modules.contains(child));
        let passed_on = || self.passed_on.get(&inside(name)).map(|child| inside(child));
        child.or_else(passed_on).filter(|child| self.modules.contains(child))
    }
}

/// True if an attribute restricts an item to tests.
fn is_for_tests(attribute: &TokenStream) -> bool {
    let text: String = attribute.to_string().split_whitespace().collect();
    text == "cfg(test)" || text.starts_with("cfg(all(test,")
}

/// The text after an item. A list of generics ends it too early, so that too much counts rather than too little.
fn after_item(mut rest: &[TokenTree]) -> &[TokenTree] {
    while let [first, after @ ..] = rest {
        rest = after;
        match first {
            TokenTree::Punct(mark) if [';', ','].contains(&mark.as_char()) => break,
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => break,
            _ => {}
        }
    }
    rest
}

fn is_separated(rest: &[TokenTree]) -> bool {
    matches!(rest, [TokenTree::Punct(first), TokenTree::Punct(second), ..]
        if first.as_char() == ':' && first.spacing() == Spacing::Joint && second.as_char() == ':')
}

/// Reads a path, or all paths of nested braces, each with the name by which it is known. Returns the text after it.
fn paths<'a>(
    mut rest: &'a [TokenTree],
    before: &[String],
    found: &mut Vec<(Vec<String>, String)>,
) -> &'a [TokenTree] {
    let mut path = before.to_vec();
    loop {
        rest = match rest {
            [TokenTree::Ident(segment), after @ ..] => {
                path.push(segment.to_string());
                after
            }
            [TokenTree::Punct(star), after @ ..] if star.as_char() == '*' => {
                path.push("*".to_owned());
                after
            }
            [TokenTree::Group(group), after @ ..] if group.delimiter() == Delimiter::Brace => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                for branch in
                    inner.split(|tree| matches!(tree, TokenTree::Punct(mark) if mark.as_char() == ','))
                {
                    if !branch.is_empty() {
                        paths(branch, &path, found);
                    }
                }
                return after;
            }
            _ => break,
        };
        if !is_separated(rest) {
            break;
        }
        rest = &rest[2..];
    }
    let (known_as, rest) = match rest {
        [TokenTree::Ident(word), TokenTree::Ident(name), after @ ..] if word == "as" => {
            (Some(name.to_string()), after)
        }
        _ => (None, rest),
    };
    let known_as = known_as.or_else(|| path.last().cloned()).unwrap_or_default();
    found.push((path, known_as));
    rest
}
