//! The listening socket: connections in bounded number, each with a bound on how long its headers may take, in TLS
//! where asked, and finished in order at a stop. What is answered is `http`'s.

pub(crate) mod connections;
pub(crate) mod tls;

use axum::Router;
use connections::{Connection, Connections};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

/// How long a request's headers may take, and how long a connection may be idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// After an accept that failed, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until the stop, then finishes what is under way.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<tls::Served>>,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let graceful = GracefulShutdown::new();
    let connections = Connections::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stopping| *stopping) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(cause) => {
                warn!(%cause, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = connections.open(peer.ip());
        let service =
            Served { connection: Arc::clone(&connection), api: TowerToHyperService::new(router.clone()) };
        let (tls, watcher) = (tls.as_ref().map(|tls| tls.acceptor()), graceful.watcher());
        tokio::spawn(async move {
            tokio::select! {
                () = converse(stream, tls, service, watcher) => {}
                () = connection.closing() => debug!(%peer, "a connection was closed to make room, or had no credential"),
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// The API, told on which connection each request comes.
struct Served {
    connection: Arc<Connection>,
    api: TowerToHyperService<Router>,
}

impl Service<Request<Incoming>> for Served {
    type Response = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Error;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.connection.requested();
        request.extensions_mut().insert(Arc::clone(&self.connection));
        self.api.call(request)
    }
}

async fn converse(stream: TcpStream, tls: Option<TlsAcceptor>, service: Served, watcher: Watcher) {
    // Answers are small and awaited, so Nagle's delay would only be latency.
    if let Err(cause) = stream.set_nodelay(true) {
        warn!(%cause, "TCP_NODELAY could not be set");
    }
    let Some(tls) = tls else { return exchange(stream, service, watcher).await };
    match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => exchange(stream, service, watcher).await,
        Ok(Err(cause)) => debug!(%cause, "a TLS handshake failed"),
        Err(_) => debug!("a TLS handshake took too long"),
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: Served,
    watcher: Watcher,
) {
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(cause) = watcher.watch(serving).await {
        debug!(%cause, "a connection ended early");
    }
}
