//! A streamed answer of any length, checked against its closing record.

use crate::Error;
use crate::error::causes;
use protocol::audit::Digest;
use protocol::lines::{END, Tally};
use reqwest::Response;
use serde::Deserialize;

/// The longest line of an answer.
const LINE_BYTES_MAX: usize = 64 << 20;

/// An answer of any length. It is complete only after [`Export::piece`] returned `None`.
pub struct Export {
    answer: Response,
    ledger: String,
    call: String,
    lines: Checked,
}

impl Export {
    pub(crate) fn new(answer: Response, ledger: String, call: String) -> Export {
        Export { answer, ledger, call, lines: Checked::default() }
    }

    /// The next complete lines with their line feeds; `None` after the last, if the answer is complete.
    pub async fn piece(&mut self) -> Result<Option<Vec<u8>>, Error> {
        loop {
            let piece =
                self.answer.chunk().await.map_err(|error| {
                    self.faulty(format!("it broke off: {}", causes(&error.without_url())))
                })?;
            let Some(piece) = piece else {
                return self.lines.finish().map(|()| None).map_err(|cause| self.faulty(cause));
            };
            let complete = self.lines.add(&piece).map_err(|cause| self.faulty(cause))?;
            if !complete.is_empty() {
                return Ok(Some(complete));
            }
        }
    }

    fn faulty(&self, cause: impl Into<String>) -> Error {
        Error::Incomplete { ledger: self.ledger.clone(), call: self.call.clone(), cause: cause.into() }
    }
}

#[derive(Deserialize)]
struct Closing {
    lines: Option<u64>,
    sha256: Option<Digest>,
}

/// Collects lines, and compares them with the closing record.
#[derive(Default)]
struct Checked {
    begun: Vec<u8>,
    tally: Tally,
    is_closed: bool,
}

impl Checked {
    /// Adds the next bytes, and returns the lines that they complete.
    fn add(&mut self, piece: &[u8]) -> Result<Vec<u8>, &'static str> {
        // The bytes before have no line feed.
        let last = piece.iter().rposition(|byte| *byte == b'\n');
        let end = last.map_or(0, |at| self.begun.len().saturating_add(at).saturating_add(1));
        self.begun.extend_from_slice(piece);
        let begun = self.begun.split_off(end);
        let complete = std::mem::replace(&mut self.begun, begun);
        if self.begun.len() > LINE_BYTES_MAX {
            return Err("it has a line that is too long");
        }
        for line in complete.split_inclusive(|byte| *byte == b'\n') {
            if self.is_closed {
                return Err("it continues after its closing record");
            }
            if line.starts_with(END) {
                self.close(line)?;
            } else {
                self.tally.add(line);
            }
        }
        Ok(complete)
    }

    fn close(&mut self, line: &[u8]) -> Result<(), &'static str> {
        let closing: Closing =
            serde_json::from_slice(line).map_err(|_| "its closing record can't be read")?;
        let (lines, sha256) = self.tally.closing();
        self.is_closed = true;
        match closing {
            Closing { lines: Some(claimed), sha256: Some(hash) } if claimed == lines && hash == sha256 => {
                Ok(())
            }
            Closing { lines: Some(_), sha256: Some(_) } => {
                Err("lines are missing or were changed: they contradict its closing record")
            }
            _ => Err("its closing record has no count: the ledger is an older release than this program"),
        }
    }

    fn finish(&self) -> Result<(), &'static str> {
        if self.is_closed && self.begun.is_empty() {
            Ok(())
        } else {
            Err("it broke off: its closing record is missing")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8], piece_bytes: usize) -> Result<Vec<u8>, &'static str> {
        let mut checked = Checked::default();
        let mut lines = Vec::new();
        for piece in text.chunks(piece_bytes) {
            lines.extend(checked.add(piece)?);
        }
        checked.finish().map(|()| lines)
    }

    #[test]
    fn only_a_complete_answer_is_read_to_its_end() {
        let mut lines = vec!["{\"a\":1}\n".to_owned(), "{\"a\":2}\n".to_owned(), "{\"a\":3}\n".to_owned()];
        let mut tally = Tally::default();
        lines.iter().for_each(|line| tally.add(line.as_bytes()));
        let (count, sha256) = tally.closing();
        lines.push(format!("{{\"type\":\"end\",\"lines\":{count},\"sha256\":\"{sha256}\"}}\n"));
        let complete = lines.concat().into_bytes();
        for piece_bytes in [1, 7, 1000] {
            assert_eq!(read(&complete, piece_bytes).as_deref(), Ok(complete.as_slice()));
        }
        for cut in 0..complete.len() {
            assert!(read(&complete[..cut], 5).is_err(), "cut at {cut}");
        }
        for (at, _) in lines.iter().enumerate() {
            let mut fewer = lines.clone();
            fewer.remove(at);
            assert!(read(fewer.concat().as_bytes(), 5).is_err(), "without line {at}");
            let mut more = lines.clone();
            more.insert(at, lines[at].clone());
            assert!(read(more.concat().as_bytes(), 5).is_err(), "line {at} twice");
            let mut moved = lines.clone();
            moved.rotate_left(at);
            assert_eq!(read(moved.concat().as_bytes(), 5).is_err(), at > 0, "rotated by {at}");
        }
    }
}
