//! A body that is written while it is sent. Only a few pieces are in memory: the writer waits until the client has read.
//!
//! If the writer stops before the end, the transfer is aborted, so that no client takes a part for the whole.

use axum::body::{Body, Bytes};
use http_body::Frame;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// How many pieces wait to be sent.
const PIECES_MAX: usize = 4;

/// Where the body is written.
pub(super) struct Lines(mpsc::Sender<Piece>);

/// The client no longer reads the body.
pub(super) struct Closed;

enum Piece {
    Text(String),
    End,
}

impl Lines {
    /// A body, and the end that writes to it.
    pub(super) fn channel() -> (Lines, Body) {
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        (Lines(sender), Body::new(Pieces { pieces, is_ended: false }))
    }

    /// Writes a piece, once there is room for it.
    pub(super) async fn send(&self, text: String) -> Result<(), Closed> {
        self.0.send(Piece::Text(text)).await.map_err(|_| Closed)
    }

    /// Ends the body. Without this call the transfer is aborted.
    pub(super) async fn end(self) -> Result<(), Closed> {
        self.0.send(Piece::End).await.map_err(|_| Closed)
    }
}

struct Pieces {
    pieces: mpsc::Receiver<Piece>,
    is_ended: bool,
}

#[derive(Debug)]
struct BrokeOff;

impl fmt::Display for BrokeOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answer broke off")
    }
}

impl std::error::Error for BrokeOff {}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = BrokeOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        if self.is_ended {
            return Poll::Ready(None);
        }
        self.pieces.poll_recv(context).map(|piece| match piece {
            Some(Piece::Text(text)) => Some(Ok(Frame::data(Bytes::from(text)))),
            Some(Piece::End) => {
                self.is_ended = true;
                None
            }
            None => {
                self.is_ended = true;
                Some(Err(BrokeOff))
            }
        })
    }
}
