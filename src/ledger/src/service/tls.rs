//! The certificate of the listening socket and its key. Changed files are loaded; an invalid pair is logged, and the earlier
//! one stays in use.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{self, ServerConfig};
use tracing::{info, warn};

/// How often the files are read. Contents are compared, because directories may be swapped and dates set back.
const POLL_EVERY: Duration = Duration::from_secs(2);

/// A certificate and its key, both in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The certificate chain, the ledger's own first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Why a certificate or its key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file can't be read.
    #[error("{}: {}", .0.display(), .1)]
    Unread(PathBuf, #[source] std::io::Error),
    /// The file is not PEM of this kind.
    #[error("{}: {}", .0.display(), .1)]
    File(PathBuf, #[source] rustls_pki_types::pem::Error),
    /// The file has no certificate.
    #[error("{} holds no certificate in PEM", .0.display())]
    Empty(PathBuf),
    /// The key does not match the certificate.
    #[error("certificate and key: {0}")]
    Mismatch(#[source] rustls::Error),
}

/// The contents of both files.
#[derive(PartialEq, Eq)]
struct Pair {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// The certificate in use.
pub(crate) struct Served {
    files: Tls,
    acceptor: Mutex<TlsAcceptor>,
    reload_now: Notify,
}

impl Served {
    /// Reads both files.
    pub(crate) fn new(files: Tls) -> Result<(Served, Checked), TlsError> {
        let pair = files.read()?;
        let acceptor = Mutex::new(files.acceptor(&pair)?);
        Ok((Served { files, acceptor, reload_now: Notify::new() }, Checked(pair)))
    }

    /// The acceptor for a new connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files now.
    pub(crate) fn reload(&self) {
        self.reload_now.notify_one();
    }

    /// Follows the files until the ledger stops. A fault is logged once, and again on [`Served::reload`].
    pub(crate) async fn follow(self: Arc<Served>, checked: Checked, mut stopping: watch::Receiver<bool>) {
        let Checked(mut checked) = checked;
        let (mut refused, mut unread) = (None, None);
        loop {
            let is_asked = tokio::select! {
                requested = timeout(POLL_EVERY, self.reload_now.notified()) => requested.is_ok(),
                _ = stopping.wait_for(|stopping| *stopping) => return,
            };
            let (logged, fault) = match self.files.read() {
                Err(cause) => (&mut unread, Some(cause.to_string())),
                Ok(pair) if pair == checked => {
                    unread = None;
                    let fault = refused.clone();
                    (&mut refused, fault)
                }
                Ok(pair) => {
                    unread = None;
                    refused = None;
                    let acceptor = self.files.acceptor(&pair);
                    checked = pair;
                    (
                        &mut refused,
                        acceptor.map(|acceptor| self.replace(acceptor)).err().map(|cause| cause.to_string()),
                    )
                }
            };
            if let Some(cause) = &fault
                && (is_asked || *logged != fault)
            {
                warn!(cause, "the changed certificate can't be used; the earlier one stays in use");
            }
            *logged = fault;
        }
    }

    fn replace(&self, acceptor: TlsAcceptor) {
        *self.acceptor.lock().unwrap_or_else(PoisonError::into_inner) = acceptor;
        info!(certificate = %self.files.certificate.display(), "a new certificate is in use");
    }
}

/// The pair that was checked last, valid or not.
pub(crate) struct Checked(Pair);

impl Tls {
    fn read(&self) -> Result<Pair, TlsError> {
        let read =
            |path: &PathBuf| std::fs::read(path).map_err(|cause| TlsError::Unread(path.clone(), cause));
        Ok(Pair { certificate: read(&self.certificate)?, key: read(&self.key)? })
    }

    fn acceptor(&self, pair: &Pair) -> Result<TlsAcceptor, TlsError> {
        let faulty = |path: &PathBuf| {
            let path = path.clone();
            move |cause| TlsError::File(path, cause)
        };
        let chain = CertificateDer::pem_slice_iter(&pair.certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(faulty(&self.certificate))?;
        if chain.is_empty() {
            return Err(TlsError::Empty(self.certificate.clone()));
        }
        let key = PrivateKeyDer::from_pem_slice(&pair.key).map_err(faulty(&self.key))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
            .map_err(TlsError::Mismatch)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}
