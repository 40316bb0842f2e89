//! TLS to the ledger.

use crate::Error;
use reqwest::{Certificate, ClientBuilder};

/// A builder of HTTP clients that installs this crate's cryptography provider. Every client of a process needs it, because
/// there is no default provider.
pub fn http() -> ClientBuilder {
    // Fails if the process has a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
}

/// A builder that trusts these root certificates, in PEM, in addition to the system's.
pub fn trusting(authorities: Option<&[u8]>) -> Result<ClientBuilder, Error> {
    let Some(pem) = authorities else { return Ok(http()) };
    let certificates = Certificate::from_pem_bundle(pem)
        .map_err(|error| Error::Configuration(format!("the root certificates can't be used: {error}")))?;
    if certificates.is_empty() {
        return Err(Error::Configuration("the file of root certificates holds none in PEM".into()));
    }
    Ok(http().tls_certs_merge(certificates))
}
