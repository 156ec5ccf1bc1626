//! What goes wrong with a store.

use std::path::PathBuf;

/// Why a store cannot be opened, or a change was not written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// It was written by a later version, or is no store.
    #[error("{}: {why}", .folder.display())]
    Foreign {
        /// Its folder.
        folder: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// Something in it cannot be read.
    #[error("{}: {what}", .file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where in it, what is concerned, and what to do.
        what: String,
    },
    /// A line of an import cannot be taken.
    #[error("{file}:{line}: {what}")]
    Line {
        /// What is read.
        file: String,
        /// The line, from 1 on.
        line: u64,
        /// Which key is wrong, why, and what to do.
        what: String,
    },
    /// The disk, or the engine, does not do what it was told.
    #[error("{doing}: {error}")]
    Failed {
        /// What it was told.
        doing: &'static str,
        /// What it said.
        error: String,
    },
}
