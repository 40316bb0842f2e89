//! The certificate of the listening socket and its key. Both files are read again when they change, and a pair that can't be
//! used leaves the former one in force.

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

/// How often the files are looked at. By content: links may be swapped above them, and dates may be set back.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A certificate and its key, both in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The chain, the ledger's own certificate first.
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
    /// The file is no PEM of the kind.
    #[error("{}: {}", .0.display(), .1)]
    File(PathBuf, #[source] rustls_pki_types::pem::Error),
    /// The two do not go together.
    #[error("certificate and key: {0}")]
    Mismatch(#[source] rustls::Error),
}

/// What both files hold.
#[derive(PartialEq, Eq)]
struct Pair {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// The certificate that is served.
pub(crate) struct Served {
    files: Tls,
    acceptor: Mutex<TlsAcceptor>,
    look_now: Notify,
}

impl Served {
    /// Reads both files.
    pub(crate) fn new(files: Tls) -> Result<(Served, Judged), TlsError> {
        let pair = files.read()?;
        let acceptor = Mutex::new(files.acceptor(&pair)?);
        Ok((Served { files, acceptor, look_now: Notify::new() }, Judged(pair)))
    }

    /// For a connection that begins now.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the files at once.
    pub(crate) fn look(&self) {
        self.look_now.notify_one();
    }

    /// Follows the files until the stop. What can't be used is said once, and again when somebody asks for a look.
    pub(crate) async fn follow(self: Arc<Served>, judged: Judged, mut stopping: watch::Receiver<bool>) {
        let Judged(mut judged) = judged;
        let (mut refused, mut unread) = (None, None);
        loop {
            let is_asked = tokio::select! {
                look = timeout(LOOK_EVERY, self.look_now.notified()) => look.is_ok(),
                _ = stopping.wait_for(|stopping| *stopping) => return,
            };
            let (said, fault) = match self.files.read() {
                Err(cause) => (&mut unread, Some(cause.to_string())),
                Ok(pair) if pair == judged => {
                    unread = None;
                    let fault = refused.clone();
                    (&mut refused, fault)
                }
                Ok(pair) => {
                    unread = None;
                    refused = None;
                    let taken = self.files.acceptor(&pair);
                    judged = pair;
                    (
                        &mut refused,
                        taken.map(|acceptor| self.replace(acceptor)).err().map(|cause| cause.to_string()),
                    )
                }
            };
            if let Some(cause) = &fault
                && (is_asked || *said != fault)
            {
                warn!(cause, "the changed certificate can't be used; the former one is served");
            }
            *said = fault;
        }
    }

    fn replace(&self, acceptor: TlsAcceptor) {
        *self.acceptor.lock().unwrap_or_else(PoisonError::into_inner) = acceptor;
        info!(certificate = %self.files.certificate.display(), "a new certificate is served");
    }
}

/// What was read last, taken or not: it is said once why it was not.
pub(crate) struct Judged(Pair);

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
