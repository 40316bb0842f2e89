//! Whom to trust when the ledger is reached by TLS.

use crate::Error;
use reqwest::{Certificate, ClientBuilder};

/// Begins an HTTP client that speaks TLS by this crate's provider of cryptography. Every client of a process begins so:
/// there is no other provider.
pub fn http() -> ClientBuilder {
    // The process has one already where this fails, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
}

/// One that trusts these authorities, in PEM, beside those of this machine.
pub(crate) fn trusting(authorities: Option<&[u8]>) -> Result<ClientBuilder, Error> {
    let Some(pem) = authorities else { return Ok(http()) };
    let certificates = Certificate::from_pem_bundle(pem).map_err(|error| {
        Error::Configuration(format!("the authorities' certificates can't be used: {error}"))
    })?;
    Ok(http().tls_certs_merge(certificates))
}
