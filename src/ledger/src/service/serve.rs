//! The listening socket: a bounded number of connections, a timeout for headers, optional TLS, graceful shutdown. `http`
//! answers the requests.

use super::tls;
use crate::http::connections::{Connection, Connections};
use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

/// How long a request's headers may take, and how long a connection may be idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a running request may take on a connection that is closed to make room.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause after a failed accept, for example without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until the ledger stops, then finishes running requests.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<tls::Served>>,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let connections = Connections::new();
    // Closed when the last connection has dropped its sender.
    let (open, mut all_closed) = mpsc::channel::<()>(1);
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
        let api = TowerToHyperService::new(router.clone());
        let served = Served { connection, api };
        let tls = tls.as_ref().map(|tls| tls.acceptor());
        let (open, stopping) = (open.clone(), stopping.clone());
        tokio::spawn(async move {
            let _open = open;
            serve_connection(stream, tls, served, stopping).await;
        });
    }
    drop((listener, open));
    all_closed.recv().await;
}

/// The API, which gets each request's connection as an extension.
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

async fn serve_connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    served: Served,
    stopping: watch::Receiver<bool>,
) {
    // Answers are small and awaited, so Nagle's delay would only be latency.
    if let Err(cause) = stream.set_nodelay(true) {
        warn!(%cause, "TCP_NODELAY could not be set");
    }
    let Some(tls) = tls else { return exchange(stream, served, stopping).await };
    let connection = Arc::clone(&served.connection);
    let accepted = tokio::select! {
        accepted = timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)) => accepted,
        _ = connection.closing() => return,
    };
    match accepted {
        Ok(Ok(stream)) => exchange(stream, served, stopping).await,
        Ok(Err(cause)) => debug!(%cause, "a TLS handshake failed"),
        Err(_) => debug!("a TLS handshake took too long"),
    }
}

/// Answers requests until the client leaves, the connection is closed to make room, or the ledger stops. A running request of
/// an authenticated client is finished.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    served: Served,
    mut stopping: watch::Receiver<bool>,
) {
    let connection = Arc::clone(&served.connection);
    let mut serving = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), served)
    );
    let stopped = async { drop(stopping.wait_for(|stopping| *stopping).await) };
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        is_proven = connection.closing() => {
            debug!("a connection is closed to make room, or because it had no credential");
            if !is_proven {
                return;
            }
            serving.as_mut().graceful_shutdown();
            timeout(FINISH_TIMEOUT, serving).await.unwrap_or(Ok(()))
        }
        () = stopped => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(cause) = ended {
        debug!(%cause, "a connection ended early");
    }
}
