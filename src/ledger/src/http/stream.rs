//! A body that is written while it is sent: as fast as it is read, and no more of it in memory than that.

use axum::body::{Body, Bytes};
use http_body::Frame;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// How many pieces wait to be sent.
const PIECES_MAX: usize = 4;

/// Where the body is written.
pub(super) struct Lines(mpsc::Sender<String>);

/// Nobody reads the body any more.
pub(super) struct Closed;

impl Lines {
    /// A body and where it is written. It ends when the writer is dropped.
    pub(super) fn channel() -> (Lines, Body) {
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        (Lines(sender), Body::new(Pieces(pieces)))
    }

    /// Waits for room.
    pub(super) async fn send(&self, text: String) -> Result<(), Closed> {
        self.0.send(text).await.map_err(|_| Closed)
    }
}

struct Pieces(mpsc::Receiver<String>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|text| Ok(Frame::data(Bytes::from(text)))))
    }
}
