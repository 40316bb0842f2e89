//! What can go wrong with a call, by what the caller can do about it.

use protocol::problem::Problem;

/// A call to the ledger that brought no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ledger's address or the credential can't be used at all: correct it.
    #[error("{0}")]
    Configuration(String),
    /// 401 or 403: use another admin credential.
    #[error("{}", describe(.0))]
    Credential(Box<Problem>),
    /// 404: it does not exist, or not for this credential.
    #[error("{}", describe(.0))]
    NotFound(Box<Problem>),
    /// Any other 4xx: correct the request, the problem says where.
    #[error("{}", describe(.0))]
    Refused(Box<Problem>),
    /// The ledger could not be reached or said 503, also after retries: try later. A change may or may not have
    /// been made.
    #[error("the ledger at {ledger} does not answer: {cause}")]
    Unavailable {
        /// Where it was sought.
        ledger: String,
        /// What the last try met.
        cause: String,
        /// Of a POST: under which `Idempotency-Key` it can be repeated without being made twice.
        idempotency_key: Option<String>,
    },
    /// Something answered, but not as this version of the ledger would: check the address and the versions.
    #[error("the answer of {ledger} to {call} is not one of an AgentRelay ledger: {cause}")]
    Unexpected {
        /// Who answered.
        ledger: String,
        /// Method and path.
        call: String,
        /// What was odd about it.
        cause: String,
        /// As of [`Error::Unavailable`]: what is odd about an answer does not tell whether the change was made.
        idempotency_key: Option<String>,
    },
    /// An answer broke off, or its lines do not go with its closing record: ask again.
    #[error("the answer of {ledger} to {call} is not whole, ask again: {cause}")]
    Incomplete {
        /// Who answered.
        ledger: String,
        /// Method and path.
        call: String,
        /// How that was found.
        cause: String,
    },
}

impl Error {
    /// The problem that the ledger sent, if it sent one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Error::Credential(problem) | Error::NotFound(problem) | Error::Refused(problem) => Some(problem),
            Error::Configuration(_)
            | Error::Unavailable { .. }
            | Error::Unexpected { .. }
            | Error::Incomplete { .. } => None,
        }
    }

    /// Where a change may or may not have been made: the `Idempotency-Key` that it was asked for under. Under the same
    /// one, [`Client::repeating`](crate::Client::repeating), it is made once.
    pub fn idempotency_key(&self) -> Option<&str> {
        match self {
            Error::Unavailable { idempotency_key, .. } | Error::Unexpected { idempotency_key, .. } => {
                idempotency_key.as_deref()
            }
            _ => None,
        }
    }

    pub(crate) fn under(mut self, key: String) -> Error {
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
        Some(detail) => format!("{title}: {detail}"),
        None => title.clone(),
    }
}

/// The error with all its sources: reqwest's own text alone does not say "connection refused".
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
