//! Any lines as patterns, the first one as a path: patterns without magic match what they say, and
//! a directory that matches stands for what is below it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pvback_core::globs::Globs;

fuzz_target!(|bytes: &[u8]| {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let path = lines.next().unwrap_or_default();
    let patterns: Option<Vec<&str>> = lines.map(|line| str::from_utf8(line).ok()).collect();
    let Some(patterns) = patterns else {
        return;
    };
    let Ok(globs) = Globs::new(&patterns) else {
        return;
    };
    assert_eq!(globs.is_empty(), patterns.is_empty());
    let (matches, covers) = (globs.matches(path), globs.covers(path));
    assert!(covers || !matches);
    let above = path.iter().rposition(|byte| *byte == b'/').map(|end| &path[..end]);
    assert_eq!(covers, matches || above.is_some_and(|above| globs.covers(above)));
    let each = patterns.iter().map(|pattern| Globs::new(&[pattern]).unwrap().matches(path));
    assert_eq!(matches, each.fold(false, |any, one| any || one));
    literal(path);
});

/// A path as a pattern of its own, every character escaped.
fn literal(path: &[u8]) {
    let Ok(text) = str::from_utf8(path) else {
        return;
    };
    let is_path = text.split('/').all(|name| !["", ".", ".."].contains(&name));
    if is_path {
        let escaped: String = text.chars().flat_map(|char| ['\\', char]).collect();
        let escaped = escaped.replace("\\/", "/");
        assert!(Globs::new(&[format!("/{escaped}")]).unwrap().matches(path), "{text:?}");
        assert!(Globs::new(&[&escaped]).unwrap().matches(&[b"above/", path].concat()), "{text:?}");
        assert!(!Globs::new(&[format!("/{escaped}")]).unwrap().matches(&[path, b"x"].concat()));
    }
}
