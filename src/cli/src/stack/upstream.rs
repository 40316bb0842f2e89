//! The upstreams: base URLs without a path, one for all services or one for each.

use super::Error;
use reqwest::Url;
use std::fmt;
use std::str::FromStr;

/// `http://host:port` or `https://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
}

impl FromStr for Upstream {
    type Err = Error;

    fn from_str(text: &str) -> Result<Upstream, Error> {
        let wrong = |what: &str| {
            Error::Setup(format!(
                "upstream {text:?}: {what}; write it as http://host:port or https://host:port"
            ))
        };
        if !text.contains("://") {
            return Err(wrong("the scheme is missing"));
        }
        let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            other => return Err(wrong(&format!("{other:?} is not a scheme that Envoy can route to"))),
        };
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("it must end after the port, because the gate forwards paths unchanged"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("it must not contain a user or password"));
        }
        let host = url.host_str().ok_or_else(|| wrong("the host is missing"))?;
        let port = url.port_or_known_default().ok_or_else(|| wrong("the port is missing"))?;
        // Envoy expects an IPv6 address without brackets.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Upstream { host, port, tls })
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        let host = &self.host;
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{}", self.port)
        } else {
            write!(f, "{scheme}://{host}:{}", self.port)
        }
    }
}

impl Upstream {
    /// Whether an HTTP server answers there, whatever it says; otherwise why not.
    pub(super) async fn answers(&self, http: &reqwest::Client, path: &str) -> Result<(), String> {
        let url = Url::parse(&format!("{self}{path}")).map_err(|error| error.to_string())?;
        match http.get(url.clone()).send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(client::in_words(&error, &url)),
        }
    }
}

/// Where the requests of one service go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The service's name.
    pub service: String,
    /// Its path.
    pub path: String,
    /// Its hosts; none stands for all.
    pub hosts: Vec<String>,
    /// Its upstream.
    pub upstream: Upstream,
}

/// Where requests go: by service, and the rest to the upstream for all, if there is one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upstreams {
    /// The upstream for all other requests.
    pub default: Option<Upstream>,
    /// The routes of services, the most specific first.
    pub routes: Vec<Route>,
}

impl FromStr for Upstreams {
    type Err = Error;

    fn from_str(text: &str) -> Result<Upstreams, Error> {
        Ok(Upstreams { default: Some(text.parse()?), routes: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_url_has_only_scheme_host_and_port() {
        let upstream = |host: &str, port, tls| Upstream { host: host.into(), port, tls };
        for (text, expected) in [
            ("http://127.0.0.1:9000", Some(upstream("127.0.0.1", 9000, false))),
            ("http://[::1]:9000/", Some(upstream("::1", 9000, false))),
            ("https://tools.example.com", Some(upstream("tools.example.com", 443, true))),
            ("http://127.0.0.1:9000/mcp", None),
            ("http://user:word@127.0.0.1:9000", None),
            ("127.0.0.1:9000", None),
            ("ftp://host", None),
        ] {
            assert_eq!(text.parse::<Upstream>().ok(), expected, "{text}");
        }
    }
}
