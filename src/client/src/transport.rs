//! One call over HTTP: credential, timeout, retries, problem documents.

use crate::error::{causes, in_words};
use crate::{Error, Export, tls};
use protocol::api_key::{self, Kind};
use protocol::problem::Problem;
use reqwest::header::{AUTHORIZATION, ETAG, HeaderValue, IF_MATCH, SERVER};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use uuid::Uuid;

/// Most tries of one call, including the first.
const TRIES_MAX: u32 = 4;
/// The pause after the first failed try; it doubles with each try.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The timeout of one try.
const TRY_TIMEOUT: Duration = Duration::from_secs(30);
/// The timeout of a streamed answer.
const STREAM_TIMEOUT: Duration = Duration::from_secs(3600);
/// The header that makes a repeated POST idempotent.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// With this every answer of a ledger names its release.
const LEDGER_VERSION: &str = "x-agentrelay-ledger";

/// A connection to one ledger as one administrator. Clones share the connection pool.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    authorization: HeaderValue,
    repeating: Option<String>,
    pub(crate) allows_unknown: bool,
}

impl Client {
    /// `ledger` is its base URL, such as `http://127.0.0.1:7420`. Nothing is sent yet.
    pub fn new(ledger: &str, admin_key: &str) -> Result<Client, Error> {
        Client::trusting(ledger, admin_key, None)
    }

    /// The same, for a ledger with TLS whose certificate was signed by one of these root certificates, in PEM. `None` trusts
    /// the system's.
    pub fn trusting(ledger: &str, admin_key: &str, authorities: Option<&[u8]>) -> Result<Client, Error> {
        let base = base(ledger).map_err(Error::Configuration)?;
        let mut authorization = HeaderValue::from_str(&format!("Bearer {admin_key}"))
            .map_err(|_| Error::Configuration("the admin key has characters that no key has".into()))?;
        authorization.set_sensitive(true);
        // Without the environment's proxies, which are for other hosts.
        let http = tls::trusting(authorities)?
            .no_proxy()
            .timeout(TRY_TIMEOUT)
            .build()
            .map_err(|error| Error::Configuration(format!("can't create an HTTP client: {error}")))?;
        Ok(Client { http, base, authorization, repeating: None, allows_unknown: false })
    }

    /// The same client with this `Idempotency-Key` for its POSTs, instead of a new one for each: to repeat a change that an
    /// earlier process may have made. 1 to 255 visible ASCII characters.
    pub fn repeating(&self, idempotency_key: String) -> Client {
        Client { repeating: Some(idempotency_key), ..self.clone() }
    }

    /// The same client, whose keys may name scopes, services and tools that the policy in force lacks.
    pub fn allowing_unknown(&self) -> Client {
        Client { allows_unknown: true, ..self.clone() }
    }

    /// True if `admin_key` has the form of an admin credential, to detect a wrong paste.
    pub fn is_admin_key(admin_key: &str) -> bool {
        api_key::is_well_formed(Kind::Admin, admin_key.as_bytes())
    }

    pub(crate) async fn get<Answer: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Answer, Error> {
        let (call, request) = self.request(Method::GET, path, query)?;
        self.read(self.send(request, &call).await?, &call).await
    }

    pub(crate) async fn tagged<Answer: DeserializeOwned>(&self, path: &str) -> Result<Tagged<Answer>, Error> {
        let (call, request) = self.request(Method::GET, path, &[])?;
        let answer = self.send(request, &call).await?;
        let etag = answer.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        Ok(Tagged { etag, value: self.read(answer, &call).await? })
    }

    pub(crate) async fn post<Body: Serialize, Answer: DeserializeOwned>(
        &self,
        path: &str,
        body: &Body,
    ) -> Result<Answer, Error> {
        let (call, request) = self.request(Method::POST, path, &[])?;
        // One key for all tries, so that the ledger makes the change only once.
        let key = self.repeating.clone().unwrap_or_else(|| Uuid::now_v7().to_string());
        let request = request.json(body).header(IDEMPOTENCY_KEY, &key);
        let answer = async { self.read(self.send(request, &call).await?, &call).await };
        answer.await.map_err(|error| error.with_idempotency_key(key))
    }

    pub(crate) async fn change<Body: Serialize, Answer: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &Body,
        if_match: Option<&str>,
    ) -> Result<Answer, Error> {
        let (call, request) = self.request(method, path, &[])?;
        let request =
            if_match.into_iter().fold(request.json(body), |request, tag| request.header(IF_MATCH, tag));
        self.read(self.send(request, &call).await?, &call).await
    }

    pub(crate) async fn send_text<Answer: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        text: String,
        if_match: Option<&str>,
    ) -> Result<Answer, Error> {
        let (call, request) = self.request(method, path, &[])?;
        let request =
            if_match.into_iter().fold(request.body(text), |request, tag| request.header(IF_MATCH, tag));
        self.read(self.send(request, &call).await?, &call).await
    }

    pub(crate) async fn stream(&self, path: &str, query: &[(&str, String)]) -> Result<Export, Error> {
        let (call, request) = self.request(Method::GET, path, query)?;
        let answer = self.send(request.timeout(STREAM_TIMEOUT), &call).await?;
        if answer.status().is_success() {
            return Ok(Export::new(answer, self.base.to_string(), call));
        }
        // An answer without success is a problem, so `read` always returns an error here.
        self.read::<()>(answer, &call).await.and(Err(self.unexpected(&call, "it is empty".into())))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<(String, RequestBuilder), Error> {
        let call = format!("{method} {path}");
        let url = self.base.join(path).map_err(|error| self.unexpected(&call, error.to_string()))?;
        let request = self.http.request(method, url).header(AUTHORIZATION, self.authorization.clone());
        Ok((call, if query.is_empty() { request } else { request.query(query) }))
    }

    async fn send(&self, request: RequestBuilder, call: &str) -> Result<Response, Error> {
        let request = request.build().map_err(|error| self.unexpected(call, causes(&error)))?;
        self.send_with_retries(&request, call).await
    }

    /// Sends until there is an answer other than 503, at most [`TRIES_MAX`] times.
    async fn send_with_retries(&self, request: &reqwest::Request, call: &str) -> Result<Response, Error> {
        let mut backoff = BACKOFF_FIRST;
        let mut attempt: u32 = 1;
        loop {
            let again = request
                .try_clone()
                .ok_or_else(|| self.unexpected(call, "the request can't be sent twice".into()))?;
            let cause = match self.http.execute(again).await {
                Ok(answer) if answer.status() != StatusCode::SERVICE_UNAVAILABLE => return Ok(answer),
                Ok(answer) => unavailable(answer).await,
                Err(error) => in_words(&error.without_url(), &self.base),
            };
            if attempt >= TRIES_MAX {
                let ledger = self.base.to_string();
                return Err(Error::Unavailable { ledger, cause, idempotency_key: None });
            }
            tokio::time::sleep(backoff).await;
            backoff = backoff.saturating_mul(2);
            attempt = attempt.saturating_add(1);
        }
    }

    async fn read<Answer: DeserializeOwned>(&self, answer: Response, call: &str) -> Result<Answer, Error> {
        let status = answer.status();
        let is_gate = is_of_envoy(&answer);
        let bytes = answer.bytes().await.map_err(|error| {
            self.unexpected(call, format!("it broke off: {}", causes(&error.without_url())))
        })?;
        if status.is_success() {
            return serde_json::from_slice(&bytes)
                .map_err(|error| self.unexpected(call, format!("its body can't be read: {error}")));
        }
        if is_gate {
            let cause = "an Envoy answered, as a gate does: agents call the gate, administrators the ledger, whose address is \
                         another (`agentrelay up` prints it as `ledger`)";
            return Err(self.unexpected(call, cause.into()));
        }
        match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) if status.is_client_error() => Err(Error::refused(problem)),
            Ok(problem) => Err(self.unexpected(call, format!("{status}, {}", problem.title))),
            Err(_) => Err(self.unexpected(call, format!("{status}, from another server; check the address"))),
        }
    }

    fn unexpected(&self, call: &str, cause: String) -> Error {
        Error::Unexpected {
            ledger: self.base.to_string(),
            call: call.to_owned(),
            cause,
            idempotency_key: None,
        }
    }
}

/// A resource with its ETag, for changes with `If-Match`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagged<T> {
    /// The value for `if_match` of a change.
    pub etag: Option<String>,
    /// The resource.
    pub value: T,
}

impl<T> Tagged<T> {
    /// The ETag without its quotes.
    pub fn version(&self) -> Option<&str> {
        self.etag.as_deref().map(|etag| etag.trim_matches('"'))
    }
}

/// The base URL of a ledger.
fn base(ledger: &str) -> Result<Url, String> {
    if !ledger.contains("://") {
        return Err(format!(
            "the ledger's URL {ledger:?} has no scheme: write http://{ledger}, or https:// if it serves TLS"
        ));
    }
    let url =
        Url::parse(ledger).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url =
        url.ok_or_else(|| format!("the ledger's URL {ledger:?} is not one such as http://127.0.0.1:7420"))?;
    if url.path() != "/" || url.query().is_some() {
        let host = url.host_str().unwrap_or_default();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        return Err(format!("the ledger's URL {ledger:?} has a path; write {}://{host}{port}", url.scheme()));
    }
    Ok(url)
}

/// True for an answer that an Envoy gave and no ledger behind it. Envoy writes its own name over a server's.
fn is_of_envoy(answer: &Response) -> bool {
    let is_envoy = answer.headers().get(SERVER).is_some_and(|server| server == "envoy");
    is_envoy && !answer.headers().contains_key(LEDGER_VERSION)
}

async fn unavailable(answer: Response) -> String {
    let problem = answer.json::<Problem>().await.ok();
    problem.and_then(|problem| problem.detail).unwrap_or_else(|| "503 Service Unavailable".into())
}

#[cfg(test)]
mod tests;
