//! RFC 9728: tells clients where to get credentials for a service, if the operator configures it.
//!
//! Without that configuration nothing is published, because clients would start a flow that can't finish.

use crate::json::write::{array, object, quoted};
use std::collections::BTreeSet;

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// What is published about one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// The path at which the document is served.
    pub path: String,
    /// The URL of the document, for challenges.
    pub url: String,
    /// The document as JSON.
    pub document: String,
}

impl Metadata {
    /// The metadata of the service that clients know by the URL `resource`. `None` if that is not an absolute URL.
    pub fn new(
        resource: &str,
        authorization_servers: &[String],
        scopes: &BTreeSet<String>,
    ) -> Option<Metadata> {
        let rest = without_scheme(resource)?;
        let is_plain = resource.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\?#".contains(&byte));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if !is_plain || authority.is_empty() {
            return None;
        }
        let path = format!("{WELL_KNOWN}{}", path.trim_end_matches('/'));
        let scheme = resource.strip_suffix(rest).unwrap_or_default();
        let document = object(&[
            ("authorization_servers", array(authorization_servers.iter().map(|server| quoted(server)))),
            ("bearer_methods_supported", r#"["header"]"#.to_owned()),
            ("resource", quoted(resource)),
            ("scopes_supported", array(scopes.iter().map(|scope| quoted(scope)))),
        ]);
        Some(Metadata { url: format!("{scheme}{authority}{path}"), path, document })
    }

    /// The challenge of RFC 6750, extended by the URL of this document.
    pub fn challenge(&self, challenge: &str) -> String {
        let separator = if challenge.contains(' ') { ", " } else { " " };
        format!("{challenge}{separator}resource_metadata=\"{}\"", self.url)
    }
}

/// The URL without `https://` or `http://`.
pub(crate) fn without_scheme(url: &str) -> Option<&str> {
    url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_is_served_at_its_well_known_path() {
        let servers = ["https://login.test".to_owned()];
        for (resource, path) in [
            ("https://gate.test/mcp", "/.well-known/oauth-protected-resource/mcp"),
            ("https://gate.test", "/.well-known/oauth-protected-resource"),
            ("https://gate.test/", "/.well-known/oauth-protected-resource"),
        ] {
            let metadata = Metadata::new(resource, &servers, &BTreeSet::new()).unwrap();
            assert_eq!(metadata.path, path);
            assert_eq!(metadata.url, format!("https://gate.test{path}"));
            let challenge = format!("Bearer resource_metadata=\"{}\"", metadata.url);
            assert_eq!(metadata.challenge("Bearer"), challenge);
            let challenge = format!("Bearer error=\"e\", resource_metadata=\"{}\"", metadata.url);
            assert_eq!(metadata.challenge("Bearer error=\"e\""), challenge);
        }
        for resource in ["gate.test/mcp", "ftp://gate.test", "https://", "https://a\"b/", "https://a/?q"] {
            assert_eq!(Metadata::new(resource, &servers, &BTreeSet::new()), None, "{resource}");
        }
    }
}
