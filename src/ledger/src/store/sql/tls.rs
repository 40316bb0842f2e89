//! TLS to PostgreSQL, by rustls.

use super::{Error, Result};
use crate::store::database::{Protection, Tls};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

/// The TLS connector. Root certificates are read for each connection, because they may have been renewed.
pub(super) fn connector(tls: &Tls) -> Result<MakeRustlsConnect> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|cause| Error::Tls(cause.to_string()))?;
    let named = || tls.roots.is_some();
    let verifier = match tls.protection {
        Protection::VerifyFull => {
            return Ok(MakeRustlsConnect::new(
                builder.with_root_certificates(roots(tls)?).with_no_client_auth(),
            ));
        }
        Protection::VerifyCa => Some(chain(tls, &provider)?),
        // As libpq: `require` verifies the chain if root certificates are named.
        Protection::Require if named() => Some(chain(tls, &provider)?),
        Protection::Require | Protection::Prefer | Protection::Disable => None,
    };
    let lenient = Arc::new(Lenient { chain: verifier, provider });
    let config = builder.dangerous().with_custom_certificate_verifier(lenient).with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

fn chain(tls: &Tls, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>> {
    let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(tls)?), Arc::clone(provider));
    builder.build().map_err(|cause| Error::Tls(cause.to_string()))
}

fn roots(tls: &Tls) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    if let Some(path) = &tls.roots {
        let unusable = |cause: String| Error::Tls(format!("sslrootcert {}: {cause}", path.display()));
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
            .map_err(|cause| unusable(cause.to_string()))?;
        for certificate in certificates {
            store.add(certificate).map_err(|cause| unusable(cause.to_string()))?;
        }
        if store.is_empty() {
            return Err(unusable("there is no certificate in it".to_owned()));
        }
        return Ok(store);
    }
    // An unparsable system certificate is not trusted, which is safe.
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() {
        return Err(Error::Tls(
            "the system trusts no root certificate; name some by sslrootcert=FILE".to_owned(),
        ));
    }
    Ok(store)
}

/// Verifies as the modes of `sslmode` below `verify-full` require: the certificate chain without the host name, or only
/// that the server has its certificate's key.
#[derive(Debug)]
struct Lenient {
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

type Verified<T> = std::result::Result<T, tokio_rustls::rustls::Error>;

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Verified<ServerCertVerified> {
        use tokio_rustls::rustls::Error::InvalidCertificate;
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is verified last, so everything else is valid.
            Err(InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
