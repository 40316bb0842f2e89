//! Why a call failed, by what the caller can do.

use protocol::problem::Problem;
use reqwest::Url;

/// A failed call to the ledger.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ledger's address or the credential is invalid: correct it.
    #[error("{0}")]
    Configuration(String),
    /// 401 or 403: use another admin credential.
    #[error("{}", describe(.0))]
    Credential(Box<Problem>),
    /// 404: it does not exist, or this credential may not see it.
    #[error("{}", describe(.0))]
    NotFound(Box<Problem>),
    /// Any other 4xx: correct the request as the problem says.
    #[error("{}", describe(.0))]
    Refused(Box<Problem>),
    /// The ledger could not be reached or answered 503, also after retries: try later. A change may have been made.
    #[error("the ledger at {ledger} does not answer: {cause}")]
    Unavailable {
        /// The ledger's base URL.
        ledger: String,
        /// The error of the last try.
        cause: String,
        /// Of a POST: the `Idempotency-Key` with which it can be repeated safely.
        idempotency_key: Option<String>,
    },
    /// The answer is not one of this version of the ledger: check the address and the versions.
    #[error("the answer of {ledger} to {call} is not one of an AgentRelay ledger: {cause}")]
    Unexpected {
        /// The ledger's base URL.
        ledger: String,
        /// Method and path.
        call: String,
        /// What is wrong with the answer.
        cause: String,
        /// As in [`Error::Unavailable`]: the change may have been made.
        idempotency_key: Option<String>,
    },
    /// An answer broke off, or contradicts its closing record: retry.
    #[error("the answer of {ledger} to {call} is incomplete, ask again: {cause}")]
    Incomplete {
        /// The ledger's base URL.
        ledger: String,
        /// Method and path.
        call: String,
        /// What is wrong with the answer.
        cause: String,
    },
}

impl Error {
    /// The problem document of the ledger, if it sent one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Error::Credential(problem) | Error::NotFound(problem) | Error::Refused(problem) => Some(problem),
            Error::Configuration(_)
            | Error::Unavailable { .. }
            | Error::Unexpected { .. }
            | Error::Incomplete { .. } => None,
        }
    }

    /// If a change may have been made: its `Idempotency-Key`. Repeated with the same key, see
    /// [`Client::repeating`](crate::Client::repeating), the change is made only once.
    pub fn idempotency_key(&self) -> Option<&str> {
        match self {
            Error::Unavailable { idempotency_key, .. } | Error::Unexpected { idempotency_key, .. } => {
                idempotency_key.as_deref()
            }
            _ => None,
        }
    }

    pub(crate) fn with_idempotency_key(mut self, key: String) -> Error {
        if let Error::Unavailable { idempotency_key, .. } | Error::Unexpected { idempotency_key, .. } =
            &mut self
        {
            *idempotency_key = Some(key);
        }
        self
    }

    pub(crate) fn refused(problem: Problem) -> Error {
        let problem = Box::new(problem);
        match problem.status {
            401 | 403 => Error::Credential(problem),
            404 => Error::NotFound(problem),
            _ => Error::Refused(problem),
        }
    }
}

fn describe(problem: &Problem) -> String {
    let title = &problem.title;
    match &problem.detail {
        // The status says no more than the detail.
        Some(detail) if problem.status == 404 => detail.clone(),
        Some(detail) => format!("{title}: {detail}"),
        None => title.clone(),
    }
}

/// The error with its sources: reqwest's own text does not say "connection refused".
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

/// That a certificate is for other names, and for which, as rustls lists them: `valid for DnsName("a") or IpAddress(::1)`.
fn another_name(text: &str) -> String {
    let listed = text.split_once("only valid for ").map_or("", |(_, listed)| listed);
    let names =
        listed.split_once(": ").map_or(listed, |(listed, _)| listed).split([',', ' ']).filter_map(|name| {
            let (_, name) = name.split_once('(')?;
            Some(name.trim_matches([')', '"']))
        });
    match names.collect::<Vec<_>>().join(" or ") {
        names if names.is_empty() => {
            "its certificate is for another name; use the name that is in it".to_owned()
        }
        names => format!("its certificate is for another name; use the name that is in it: {names}"),
    }
}

/// Why a server at this URL could not be asked, with what to do about it.
pub fn in_words(error: &reqwest::Error, base: &Url) -> String {
    if error.is_timeout() {
        return "it took too long".to_owned();
    }
    let text = causes(error);
    let host = base.authority();
    for (part, words) in [
        ("InvalidContentType", format!("it does not serve TLS; write http://{host}")),
        ("invalid HTTP", format!("its answer is not HTTP; if it serves TLS, write https://{host}")),
        (
            "UnknownIssuer",
            "its certificate is of an authority that is not trusted here; name its root certificate, for the ledger by --ca-cert \
             FILE (AGENTRELAY_CA_CERT), for others by SSL_CERT_FILE=FILE"
                .to_owned(),
        ),
        ("not valid for name", another_name(&text)),
        ("certificate expired", "its certificate has expired; renew it there".to_owned()),
        ("dns error", format!("no host is named {}", base.host_str().unwrap_or_default())),
        ("Connection refused", "nothing listens there (connection refused)".to_owned()),
    ] {
        if text.contains(part) {
            return words;
        }
    }
    let text = text.strip_prefix("error sending request: ").unwrap_or(&text);
    text.split(" (os error").next().unwrap_or(text).to_owned()
}
