//! Recognises HTTP calls: accepts only paths that every server reads alike, and finds routes by method and path template.

pub mod arguments;

use crate::json;
use crate::ordered;
use crate::reading::is_blank;
use crate::tool::Tool;
use std::collections::BTreeMap;
use std::fmt;

/// Methods that a route may name. `HEAD` is answered by the route of `GET`.
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/// Servers behind the gate could read the path in more than one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ambiguous;

impl fmt::Display for Ambiguous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the path contains an empty or dot segment, `;`, `\\`, or an escape that servers read differently, or it \
             differs in spelling from the path in the policy; send the plain form",
        )
    }
}

/// The path of a request target, without its query, if every server reads it alike.
pub fn plain_path(target: &[u8]) -> Result<&str, Ambiguous> {
    let path = target.split(|byte| *byte == b'?').next().unwrap_or(target);
    let mut segments = path.strip_prefix(b"/").ok_or(Ambiguous)?.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let is_plain = match segment {
            // An empty segment is allowed only at the very end. It is a trailing slash, which makes a different path.
            b"" => segments.peek().is_none(),
            b"." | b".." => false,
            segment => is_plain(segment),
        };
        if !is_plain {
            return Err(Ambiguous);
        }
    }
    std::str::from_utf8(path).map_err(|_| Ambiguous)
}

/// True for a host, with or without its port, that is a plain name or address. No server reads such a host as another one.
pub fn is_plain_host(host: &[u8]) -> bool {
    host.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(byte))
}

/// The bytes that a segment may hold.
// The indexes are constant: one out of bounds would fail to compile.
#[allow(clippy::indexing_slicing)]
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = b'!';
    while byte < 0x7f {
        let is_special =
            matches!(byte, b';' | b'#' | b'\\' | b'{' | b'}' | b'"' | b'<' | b'>' | b'^' | b'`' | b'|');
        plain[byte as usize] = !is_special;
        byte = byte.wrapping_add(1);
    }
    plain
};

fn is_plain(segment: &[u8]) -> bool {
    let mut has_escapes = false;
    for byte in segment {
        has_escapes |= *byte == b'%';
        if PLAIN.get(usize::from(*byte)) != Some(&true) {
            return false;
        }
    }
    !has_escapes || std::str::from_utf8(segment).is_ok_and(|segment| unescape(segment).is_some())
}

/// Decodes percent escapes. `None` for a broken escape, and for one that only some servers resolve before routing:
/// letters, digits, `-._~`, `/`, `\`, `%`, `;` and control characters.
fn unescape(segment: &str) -> Option<String> {
    if !segment.contains('%') {
        return Some(segment.to_owned());
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = char::from(rest.next()?).to_digit(16)?;
        let low = char::from(rest.next()?).to_digit(16)?;
        let escaped = u8::try_from(high.checked_mul(16)?.checked_add(low)?).ok()?;
        if escaped.is_ascii_alphanumeric() || escaped.is_ascii_control() || b"-._~/\\%;".contains(&escaped) {
            return None;
        }
        bytes.push(escaped);
    }
    String::from_utf8(bytes).ok()
}

/// The segments of a path as the most lenient server reads them. They are in lower case (unless `keeps_case`) and decoded.
/// An escaped query or fragment, last slashes, blanks (`+` may be one) and dots at the end of a name are removed, and a script
/// that serves all paths behind its name.
pub(crate) fn lenient_segments(path: &str, keeps_case: bool) -> Vec<String> {
    let mut path = unescape(path).unwrap_or_else(|| path.to_owned());
    path.truncate(path.find(['?', '#']).unwrap_or(path.len()));
    path.retain(|letter| letter != '+' && !is_blank(letter));
    let path = if keeps_case { path } else { json::fold(path.into()).into_owned() };
    let mut segments: Vec<String> = Vec::new();
    for segment in path.split(['/', '\\']) {
        match segment.trim_end_matches('.') {
            "" if segment == ".." => drop(segments.pop()),
            "" => {}
            segment => segments.push(segment.to_owned()),
        }
    }
    let last = segments.len().saturating_sub(1);
    let kept = segments
        .into_iter()
        .enumerate()
        .filter(|(index, segment)| *index == last || !is_front_controller(segment));
    kept.map(|(_, segment)| segment).collect()
}

/// True for the usual name of a script to which PHP and CGI servers send every path, also in the form `/index.php/path`.
fn is_front_controller(segment: &str) -> bool {
    const NAMES: [&str; 7] = ["index", "app", "app_dev", "default", "dispatch", "main", "server"];
    const KINDS: [&str; 10] = ["php", "phtml", "php5", "cgi", "fcgi", "pl", "py", "rb", "aspx", "jsp"];
    let is_among = |names: &[&str], name: &str| names.iter().any(|own| own.eq_ignore_ascii_case(name));
    segment.split_once('.').is_some_and(|(name, kind)| is_among(&NAMES, name) && is_among(&KINDS, kind))
}

/// True if [`lenient_segments`] would change nothing. This is the common case and saves the work.
pub(crate) fn is_lenient(path: &str) -> bool {
    let is_own = |byte: u8| byte.is_ascii() && !byte.is_ascii_uppercase() && !b"%.+".contains(&byte);
    path.bytes().all(is_own) && (path.len() == 1 || !path.ends_with('/'))
}

/// True if a segment matches a literal. The last segment may also have a format suffix (`builds.json`), which some
/// frameworks remove.
pub(crate) fn matches_literal(segment: &str, literal: &str, is_last: bool) -> bool {
    let rest = segment.strip_prefix(literal);
    rest.is_some_and(|rest| rest.is_empty() || (is_last && rest.starts_with('.')))
}

/// The routes of one service.
#[derive(Debug, Default)]
pub struct Router {
    /// Routes by their number of segments; the most specific route comes first.
    routes: BTreeMap<usize, Vec<Route>>,
    /// The server distinguishes paths that differ only in case.
    keeps_case: bool,
    /// At least one literal is not written as the most lenient server reads it.
    has_unusual_literals: bool,
}

#[derive(Debug)]
struct Route {
    method: &'static str,
    segments: Vec<Segment>,
    tool: Tool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    // `Literal` comes before `Variable`, so that a literal is matched before a variable in the same place.
    Literal(String),
    Variable(String),
}

/// A route that matches a path.
#[derive(Debug)]
pub struct Match<'r, 'p> {
    route: &'r Route,
    path: &'p str,
}

impl<'r> Match<'r, '_> {
    /// The tool of the route.
    pub fn tool(&self) -> &'r Tool {
        &self.route.tool
    }

    /// The resource that the path names, such as `project:42`.
    pub fn resource(&self) -> Option<String> {
        let template = self.route.tool.resource.as_ref()?;
        Some(fill(template, &self.route.variables(self.path)))
    }
}

impl Router {
    /// Builds the routes from tools named `METHOD /path/{template}`. The second result lists the faults by tool.
    pub(crate) fn new(tools: Vec<Tool>, keeps_case: bool) -> (Router, Vec<(String, String)>) {
        let mut router = Router { keeps_case, ..Router::default() };
        let mut faults = Vec::new();
        for tool in tools {
            let name = tool.name.clone();
            if let Err(fault) = router.add(tool) {
                faults.push((name, fault));
            }
        }
        (router, faults)
    }

    fn add(&mut self, tool: Tool) -> Result<(), String> {
        let (method, template) = tool.name.split_once(' ').ok_or("name it `METHOD /path/{template}`")?;
        let method = METHODS
            .into_iter()
            .find(|known| *known == method)
            .ok_or_else(|| format!("the method is one of {}", METHODS.join(", ")))?;
        let segments = parse_template(template)?;
        if let Some(resource) = &tool.resource {
            check_resource(resource, &segments)?;
        }
        let routes = self.routes.entry(segments.len()).or_default();
        let same = |other: &Route| {
            other.method == method
                && other.segments.iter().zip(&segments).all(|(a, b)| match (a, b) {
                    (Segment::Literal(a), Segment::Literal(b)) => a == b,
                    (Segment::Variable(_), Segment::Variable(_)) => true,
                    _ => false,
                })
        };
        if let Some(other) = routes.iter().find(|other| same(other)) {
            return Err(format!("matches the same paths as `{}`", other.tool.name));
        }
        self.has_unusual_literals |= !is_lenient(template);
        ordered::insert(routes, Route { method, segments, tool }, |a, b| a.segments.cmp(&b.segments));
        Ok(())
    }

    /// Every tool.
    pub fn tools(&self) -> impl Iterator<Item = &Tool> {
        self.routes.values().flatten().map(|route| &route.tool)
    }

    /// The route for a method and a plain path below the service's path. An error if some servers would take another route.
    pub fn find<'p>(&self, method: &[u8], path: &'p str) -> Result<Option<Match<'_, 'p>>, Ambiguous> {
        let method = if method == b"HEAD" { b"GET".as_slice() } else { method };
        let routes = segments(path).and_then(|segments| self.routes.get(&segments.count()));
        let found = routes.and_then(|routes| {
            routes.iter().find(|route| route.method.as_bytes() == method && route.matches(path))
        });
        let is_plain = is_lenient(path) && !method.iter().any(u8::is_ascii_lowercase);
        let lenient =
            if is_plain && !self.has_unusual_literals { found } else { self.find_lenient(method, path) };
        match (found, lenient) {
            (None, Some(_)) => Err(Ambiguous),
            (Some(found), Some(lenient)) if !found.has_same_shape(lenient) => Err(Ambiguous),
            _ => Ok(found.map(|route| Match { route, path })),
        }
    }

    /// The route that the most lenient server would take.
    fn find_lenient(&self, method: &[u8], path: &str) -> Option<&Route> {
        let method = if method.eq_ignore_ascii_case(b"HEAD") { b"GET".as_slice() } else { method };
        let lenient = lenient_segments(path, self.keeps_case);
        let has_method = |route: &&Route| route.method.as_bytes().eq_ignore_ascii_case(method);
        let mut routes = self.routes.get(&lenient.len())?.iter().filter(has_method);
        routes.find(|route| route.matches_lenient(&lenient, self.keeps_case))
    }
}

/// The segments of a path.
fn segments(path: &str) -> Option<impl Iterator<Item = &[u8]>> {
    Some(path.as_bytes().strip_prefix(b"/")?.split(|byte| *byte == b'/'))
}

impl Route {
    /// True if the path matches; it must have as many segments as the route.
    fn matches(&self, path: &str) -> bool {
        let pairs = segments(path).into_iter().flatten().zip(&self.segments);
        let mut pairs = pairs.map(|(segment, own)| match own {
            Segment::Literal(literal) => literal.as_bytes() == segment,
            Segment::Variable(_) => !segment.is_empty(),
        });
        pairs.all(|is_same| is_same)
    }

    /// True if a lenient server may read the path as one of this route's; it must have as many segments as the route.
    fn matches_lenient(&self, lenient: &[String], keeps_case: bool) -> bool {
        let last = lenient.len().saturating_sub(1);
        let mut pairs = lenient.iter().zip(&self.segments).enumerate();
        pairs.all(|(index, (segment, own))| match own {
            Segment::Variable(_) => true,
            Segment::Literal(own) if keeps_case => matches_literal(segment, own, index == last),
            Segment::Literal(own) => matches_literal(segment, &json::fold(own.into()), index == last),
        })
    }

    /// True if both routes have literals and variables in the same places. A policy that lists both distinguishes them itself.
    fn has_same_shape(&self, other: &Route) -> bool {
        let mut pairs = self.segments.iter().zip(&other.segments);
        self.segments.len() == other.segments.len()
            && pairs.all(|(own, other)| std::mem::discriminant(own) == std::mem::discriminant(other))
    }

    /// The variables of a path that matches. Its escapes were already checked.
    fn variables(&self, path: &str) -> Vec<(&str, String)> {
        let pairs = path.split('/').skip(1).zip(&self.segments);
        let variables = pairs.filter_map(|(segment, own)| match own {
            Segment::Literal(_) => None,
            Segment::Variable(name) => Some((name.as_str(), unescape(segment)?)),
        });
        variables.collect()
    }
}

fn parse_template(template: &str) -> Result<Vec<Segment>, String> {
    let path = template.strip_prefix('/').ok_or("the path template begins with `/`")?;
    path.split('/')
        .map(|segment| match segment.strip_prefix('{').map(|rest| rest.strip_suffix('}')) {
            Some(Some(name)) if is_name(name) => Ok(Segment::Variable(name.to_owned())),
            Some(_) => Err(format!("`{segment}` is not a variable; write `{{name}}` as a whole segment")),
            None if segment.is_empty() || plain_path(&[b"/", segment.as_bytes()].concat()).is_err() => {
                Err(format!("`{segment}` can't be a segment; leave out blanks, escapes and trailing slashes"))
            }
            None if segment.contains('%') => {
                Err(format!("`{segment}` contains an escape; write the character itself"))
            }
            None => Ok(Segment::Literal(segment.to_owned())),
        })
        .collect()
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Checks that every `{name}` in a resource is a variable of the path.
fn check_resource(resource: &str, segments: &[Segment]) -> Result<(), String> {
    let known =
        |name: &str| segments.iter().any(|segment| matches!(segment, Segment::Variable(own) if own == name));
    for part in resource.split('{').skip(1) {
        match part.split_once('}') {
            Some((name, _)) if known(name) => {}
            _ => return Err(format!("resource `{resource}` names a variable that the path does not have")),
        }
    }
    Ok(())
}

fn fill(template: &str, variables: &[(&str, String)]) -> String {
    let mut filled = String::with_capacity(template.len());
    let mut parts = template.split('{');
    filled.push_str(parts.next().unwrap_or_default());
    for part in parts {
        // The braces were checked when the policy was parsed.
        let (name, rest) = part.split_once('}').unwrap_or((part, ""));
        if let Some((_, value)) = variables.iter().find(|(own, _)| *own == name) {
            filled.push_str(value);
        }
        filled.push_str(rest);
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unambiguous_path_is_plain() {
        for target in ["/", "/a", "/a/", "/a/b?x=/../y", "/a%20b", "/%C3%BC", "/a.b/..c", "/a:b@c"] {
            assert!(plain_path(target.as_bytes()).is_ok(), "{target}");
        }
        for target in [
            "",
            "a",
            "*",
            "//",
            "/a//b",
            "/a/./b",
            "/a/../b",
            "/..",
            "/.",
            "/a/%2e%2e/b",
            "/%2E",
            "/a%2fb",
            "/a%5Cb",
            "/a\\b",
            "/a;v=1",
            "/a%3bv",
            "/%61",
            "/%",
            "/%2",
            "/%zz",
            "/%00",
            "/a%25b",
            "/%ff",
            "/ü",
            "/a b",
            "/a#b",
        ] {
            assert!(plain_path(target.as_bytes()).is_err(), "{target}");
        }
        assert!(plain_path(b"/\xff").is_err());
    }

    fn tool(name: &str, resource: Option<&str>) -> Tool {
        Tool {
            name: name.into(),
            risk: crate::document::Risk::ReadOnly,
            scope: crate::scope::ScopeRule { scopes: vec!["read".into()], shadow: false },
            resource: resource.map(str::to_owned),
            limits: vec![],
            price: None,
            on_unknown: crate::document::OnUnknown::Charge,
            requires: vec![],
        }
    }

    #[test]
    fn the_most_specific_route_wins_and_names_its_resource() {
        let (router, faults) = Router::new(
            vec![
                tool("GET /projects/{project}/{what}", Some("project:{project}")),
                tool("GET /projects/{project}/builds", Some("project:{project}")),
                tool("POST /projects/{project}/builds", None),
            ],
            false,
        );
        assert_eq!(faults, []);
        let found = |method: &str, path: &str| {
            let found = router.find(method.as_bytes(), path).unwrap();
            found.map(|found| (found.tool().name.clone(), found.resource()))
        };
        let builds = Some(("GET /projects/{project}/builds".to_owned(), Some("project:4 2".to_owned())));
        assert_eq!(found("GET", "/projects/4%202/builds"), builds);
        assert_eq!(found("HEAD", "/projects/4%202/builds"), builds);
        assert_eq!(found("GET", "/projects/42/logs").unwrap().0, "GET /projects/{project}/{what}");
        assert_eq!(found("POST", "/projects/42/builds").unwrap().1, None);
        for (method, path) in [
            ("PUT", "/projects/42/builds"),
            ("PUT", "/Projects/42/builds"),
            ("GET", "/projects//builds"),
            ("GET", "/projects/42"),
        ] {
            assert_eq!(found(method, path), None, "{method} {path}");
        }
    }

    #[test]
    fn paths_that_servers_may_read_as_another_route_are_refused() {
        let tools = || {
            vec![
                tool("GET /projects/{project}/{what}", None),
                tool("GET /projects/{project}/builds", None),
                tool("POST /projects/{project}/trigger:now", None),
                tool("POST /Both", None),
                tool("POST /both", None),
            ]
        };
        let (router, faults) = Router::new(tools(), false);
        assert_eq!(faults, []);
        let folds_case =
            [("POST", "/Projects/1/trigger:now"), ("GET", "/projects/1/BUILDS"), ("POST", "/BOTH")];
        for (method, path) in [
            ("post", "/projects/1/trigger:now"),
            ("get", "/projects/1/builds"),
            ("head", "/projects/1/builds"),
            ("GET", "/projects/1/builds/"),
            ("HEAD", "/projects/1/builds/"),
            ("GET", "/projects/1/anything/"),
            ("GET", "/projects/1/builds."),
            ("GET", "/projects/1/builds%20"),
            ("GET", "/projects/%20/1/builds"),
            ("GET", "/projects/1/builds.json"),
            ("POST", "/projects/1/trigger%3Anow"),
            ("POST", "/projects/1/trigger%3anow/"),
            ("POST", "/projects/1/trigger:now%3f"),
            ("POST", "/projects/1/trigger:now%23x"),
            ("POST", "/projects/1/trigger:now+"),
            ("POST", "/projects/1/trigger:now%E2%80%8B"),
            ("POST", "/projects/1/trigger:now.a.b"),
            ("POST", "/index.php/projects/1/trigger:now"),
            ("POST", "/Index.PHP/projects/1/trigger:now"),
            ("GET", "/projects/dispatch.fcgi/1/builds"),
        ] {
            assert_eq!(router.find(method.as_bytes(), path).unwrap_err(), Ambiguous, "{method} {path}");
        }
        for path in ["/project%C5%BF/1/builds", "/projects/1/%EF%BD%82uilds"] {
            assert_eq!(router.find(b"GET", path).unwrap_err(), Ambiguous, "{path}");
        }
        let (sensitive, _) = Router::new(tools(), true);
        for (method, path) in folds_case {
            assert_eq!(router.find(method.as_bytes(), path).unwrap_err(), Ambiguous, "{path}");
            assert!(sensitive.find(method.as_bytes(), path).is_ok(), "{path}");
        }
        for path in ["/projects/1/index.php", "/projects/index.phps/builds"] {
            assert!(router.find(b"GET", path).unwrap().is_some(), "{path}");
        }
        for path in ["/Both", "/both", "/projects/1/trigger:now"] {
            assert!(router.find(b"POST", path).unwrap().is_some(), "{path}");
        }
        assert!(sensitive.find(b"GET", "/projects/1/builds/").is_err());
    }

    #[test]
    fn an_invalid_route_is_refused() {
        for name in [
            "GET",
            "FETCH /a",
            "GET a",
            "GET /a//b",
            "GET /{a",
            "GET /x{a}",
            "GET /a/",
            "GET /a;b",
            "GET /%20",
        ] {
            assert_eq!(Router::new(vec![tool(name, None)], false).1.len(), 1, "{name}");
        }
        assert_eq!(Router::new(vec![tool("GET /a/{x}", None), tool("GET /a/{y}", None)], false).1.len(), 1);
        assert_eq!(Router::new(vec![tool("GET /a/{x}", Some("r:{y}"))], false).1.len(), 1);
    }
}
