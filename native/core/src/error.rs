//! The one error type of the data path. The kind decides what the caller does (and which exception
//! and exit code a person sees); the rest says what happened, to what, and where.

use std::borrow::Cow;
use std::fmt;

/// What an error means to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file system operation on a source, target or cache failed.
    Io,
    /// The object store failed; the store's own error is kept by whoever implements it.
    Storage,
    /// An object that must exist does not.
    NotFound,
    /// Stored bytes are not what was written: truncated, flipped, swapped or malformed.
    Damaged,
    /// The key does not open this, or may not do this.
    WrongKey,
    /// Valid, but of a version, suite or feature that this program does not know.
    Unsupported,
    /// The arguments make no sense together.
    Usage,
    /// The caller asked to stop.
    Cancelled,
    /// A bug in this program.
    Internal,
}

/// An error of the data path.
#[derive(Clone, Debug)]
pub struct Error {
    /// What it means to the caller.
    pub kind: ErrorKind,
    /// What happened, in words, without secrets.
    pub what: Cow<'static, str>,
    /// The object key or path that it happened to, if any.
    pub key: Option<String>,
    /// The byte offset in that object or file, if known.
    pub offset: Option<u64>,
    /// The operating system's error number, if one was involved.
    pub os_error: Option<i32>,
}

/// A result of the data path.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` that says `what` happened.
    pub fn new(kind: ErrorKind, what: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, what: what.into(), key: None, offset: None, os_error: None }
    }

    /// Stored bytes are wrong.
    pub fn damaged(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Damaged, what)
    }

    /// A version, suite or feature that this program does not know.
    pub fn unsupported(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unsupported, what)
    }

    /// A bug in this program.
    pub fn internal(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Internal, what)
    }

    /// A failed system call: what was tried, and the error number.
    pub fn os(what: impl Into<Cow<'static, str>>, errno: rustix::io::Errno) -> Self {
        let mut error = Self::new(ErrorKind::Io, what);
        error.os_error = Some(errno.raw_os_error());
        error
    }

    /// The same error, with the object key or path that it happened to.
    #[must_use]
    pub fn at(mut self, key: impl Into<String>) -> Self {
        self.key.get_or_insert_with(|| key.into());
        self
    }

    /// The same error, with the offset in the object or file.
    #[must_use]
    pub fn offset(mut self, offset: u64) -> Self {
        self.offset.get_or_insert(offset);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.what)?;
        if let Some(offset) = self.offset {
            write!(f, " at offset {offset}")?;
        }
        if let Some(code) = self.os_error {
            write!(f, ": {}", std::io::Error::from_raw_os_error(code))?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
