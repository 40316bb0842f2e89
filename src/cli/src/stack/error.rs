//! Why a stack did not start.

use std::io;
use std::path::{Path, PathBuf};

/// A part of the stack could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something is missing or invalid; the text says what to do.
    #[error("{0}")]
    Setup(String),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A program could not be run at all.
    #[error("{name} can't be run: {source}")]
    Spawn {
        /// Which part of the stack.
        name: String,
        /// The cause.
        source: io::Error,
    },
    /// A process ended, or was not ready in time. The error shows the end of its log.
    #[error("{name} {reason}; its log is {}\n{tail}", log.display())]
    NotReady {
        /// Which part of the stack.
        name: String,
        /// How it failed.
        reason: String,
        /// Its log.
        log: PathBuf,
        /// The end of the log.
        tail: String,
    },
}

impl Error {
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::File { path: path.to_owned(), source }
    }
}
