//! A body that is written while it is sent: as fast as it is read, and no more of it in memory than that.
//!
//! A body whose writer stops before its end breaks the transfer off, so that no reader takes a part for the whole.

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

/// Nobody reads the body any more.
pub(super) struct Closed;

enum Piece {
    Text(String),
    End,
}

impl Lines {
    /// A body and where it is written.
    pub(super) fn channel() -> (Lines, Body) {
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        (Lines(sender), Body::new(Pieces { pieces, is_ended: false }))
    }

    /// Waits for room.
    pub(super) async fn send(&self, text: String) -> Result<(), Closed> {
        self.0.send(Piece::Text(text)).await.map_err(|_| Closed)
    }

    /// The body is whole. Where this is never said, the transfer is aborted.
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
