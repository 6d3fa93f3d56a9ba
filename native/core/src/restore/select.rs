//! Which entries a restore is about: include and exclude patterns.
//!
//! Patterns are those of [`Globs`], anchored at the root of the restored subtree. What matches brings
//! in, or leaves out, all that is below it. Excludes win.

use crate::error::Result;
use crate::globs::Globs;

/// Compiled patterns.
#[derive(Debug)]
pub(super) struct Selection {
    /// `None`: everything.
    includes: Option<Globs>,
    excludes: Globs,
}

/// What the patterns say about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// It and what is below it, unless that is excluded.
    Taken,
    /// Not itself, but there may be something below it.
    Passed,
    /// Neither it nor anything below it.
    Excluded,
}

impl Selection {
    /// Compiles patterns; a `Usage` error for one that makes no sense.
    pub(super) fn new(includes: &[String], excludes: &[String]) -> Result<Self> {
        let includes = if includes.is_empty() { None } else { Some(Globs::new(includes)?) };
        Ok(Self { includes, excludes: Globs::new(excludes)? })
    }

    /// Whether everything is taken.
    pub(super) fn is_everything(&self) -> bool {
        self.includes.is_none() && self.excludes.is_empty()
    }

    /// Whether what is below a taken entry is taken for sure.
    pub(super) fn takes_all_below(&self) -> bool {
        self.excludes.is_empty()
    }

    /// What the root of the subtree is.
    pub(super) fn root(&self) -> Choice {
        if self.includes.is_none() { Choice::Taken } else { Choice::Passed }
    }

    /// What the entry at `path` is, whose directory is `parent`. `path` is relative to the root of the
    /// subtree, `/` between names and none in front.
    pub(super) fn choose(&self, parent: Choice, path: &[u8]) -> Choice {
        if parent == Choice::Excluded {
            return Choice::Excluded;
        }
        if self.is_everything() {
            return Choice::Taken;
        }
        if self.excludes.matches(path) {
            return Choice::Excluded;
        }
        if parent == Choice::Taken
            || self.includes.as_ref().is_none_or(|includes| includes.matches(path))
        {
            Choice::Taken
        } else {
            Choice::Passed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(selection: &Selection, path: &str) -> Choice {
        let mut choice = selection.root();
        let mut end = 0;
        for name in path.split('/') {
            end += name.len();
            choice = selection.choose(choice, &path.as_bytes()[..end]);
            end += 1;
        }
        choice
    }

    #[test]
    fn patterns_bring_in_and_leave_out() {
        let owned = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
        let all = Selection::new(&[], &[]).unwrap();
        assert_eq!(chosen(&all, "a/b"), Choice::Taken);
        let some = Selection::new(&owned(&["/a/*.txt", "keep/"]), &owned(&["*.log"])).unwrap();
        for (path, choice) in [
            ("a", Choice::Passed),
            ("a/x.txt", Choice::Taken),
            ("a/b/x.txt", Choice::Passed),
            ("b/a/x.txt", Choice::Passed),
            ("x/keep", Choice::Taken),
            ("x/keep/deep/er", Choice::Taken),
            ("x/keep/deep/er.log", Choice::Excluded),
            ("x/keep/dir.log/inside", Choice::Excluded),
            ("keeper", Choice::Passed),
        ] {
            assert_eq!(chosen(&some, path), choice, "{path}");
        }
        let raw = Selection::new(&owned(&["n?n"]), &[]).unwrap();
        assert_eq!(raw.choose(Choice::Passed, b"d/n\xffn"), Choice::Taken);
        assert!(Selection::new(&owned(&["a[b"]), &[]).is_err());
        assert!(Selection::new(&[], &owned(&["/"])).is_err());
    }
}
