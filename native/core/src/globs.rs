//! Patterns for names to leave out, to restore or to find.
//!
//! A pattern with a leading slash is anchored at the root of the source; any other matches at any
//! depth. `*` and `?` stop at slashes, `**` does not. A directory that matches stands for all below it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::error::{Error, ErrorKind, Result};
use crate::fs::Exclude;

/// A set of patterns.
#[derive(Clone, Debug)]
pub struct Globs {
    set: GlobSet,
}

impl Globs {
    /// Reads patterns. `Usage` for one that makes no sense.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self> {
        let mut builder = GlobSetBuilder::new();
        for pattern in patterns {
            let pattern = pattern.as_ref();
            let bad = |error: &dyn std::fmt::Display| {
                Error::new(ErrorKind::Usage, format!("bad pattern: {error}")).at(pattern)
            };
            let trimmed = pattern.trim_end_matches('/');
            let anchored = trimmed
                .strip_prefix('/')
                .map_or_else(|| format!("**/{trimmed}"), ToOwned::to_owned);
            if trimmed.trim_start_matches('/').is_empty() {
                return Err(bad(&"it is empty"));
            }
            let glob =
                GlobBuilder::new(&anchored).literal_separator(true).backslash_escape(true).build();
            builder.add(glob.map_err(|error| bad(error.kind()))?);
        }
        let set = builder.build();
        let set =
            set.map_err(|error| Error::new(ErrorKind::Usage, format!("bad patterns: {error}")))?;
        Ok(Self { set })
    }

    /// Whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Whether a pattern matches the path itself, given from the root without a leading slash.
    pub fn matches(&self, path: &[u8]) -> bool {
        let path = Path::new(OsStr::from_bytes(path));
        self.set.is_match_candidate(&Candidate::new(path))
    }

    /// Whether a pattern matches the path or a directory above it.
    pub fn covers(&self, path: &[u8]) -> bool {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        ends.chain([path.len()]).any(|end| path.get(..end).is_some_and(|path| self.matches(path)))
    }
}

impl Exclude for Globs {
    fn excluded(&self, path: &[u8], _is_dir: bool) -> bool {
        self.matches(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_depths_and_bytes() {
        let globs = Globs::new(&["*.tmp", "/cache", "logs/*.gz", "**/deep/**"]).unwrap();
        for path in ["a.tmp", "x/y/b.tmp", "cache", "logs/1.gz", "x/logs/1.gz", "q/deep/r"] {
            assert!(globs.matches(path.as_bytes()), "{path}");
        }
        for path in ["a.tmp2", "x/cache", "logs/d/1.gz", "cache/file"] {
            assert!(!globs.matches(path.as_bytes()), "{path}");
        }
        assert!(globs.covers(b"cache/file"));
        assert!(!globs.covers(b"x/cache/file"));
        assert!(globs.matches(b"\xff\xfe.tmp"));
        assert!(Globs::new(&["a[", "b"]).is_err());
        assert!(Globs::new(&["/"]).is_err());
        assert!(Globs::new::<&str>(&[]).unwrap().is_empty());
    }
}
