//! Hard links.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde_json::json;

use crate::support::{Repo, Scratch, assert_same, noise};

fn inode(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

#[test]
fn the_first_selected_name_becomes_the_file() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    for dir in ["a", "b", "c"] {
        std::fs::create_dir(source.join(dir)).unwrap();
    }
    std::fs::write(source.join("a/first"), noise(1, 1_000_000)).unwrap();
    std::fs::hard_link(source.join("a/first"), source.join("b/second")).unwrap();
    std::fs::hard_link(source.join("a/first"), source.join("c/third")).unwrap();
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    let target = scratch.dir("target");
    let options = json!({"includes": ["/b", "/c"], "verify": true});
    let result = repo.restore_well(&snapshot, &target, options);
    assert!(!target.join("a").exists());
    assert_eq!(inode(&target.join("b/second")), inode(&target.join("c/third")));
    assert_eq!(std::fs::read(target.join("c/third")).unwrap(), noise(1, 1_000_000));
    assert_eq!((result.stats.files_new, result.stats.hard_links), (1, 1));
}

#[test]
fn other_groupings_in_the_target_are_put_right() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    // Two groups of equal content, and a file of the same content on its own.
    for name in ["a1", "b1", "c"] {
        std::fs::write(source.join(name), noise(1, 300_000)).unwrap();
    }
    std::fs::hard_link(source.join("a1"), source.join("a2")).unwrap();
    std::fs::hard_link(source.join("b1"), source.join("b2")).unwrap();
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    let target = scratch.dir("target");
    std::fs::write(target.join("a1"), noise(1, 300_000)).unwrap();
    for name in ["a2", "b1", "b2", "c"] {
        std::fs::hard_link(target.join("a1"), target.join(name)).unwrap();
    }
    for overwrite in ["always", "if-changed"] {
        let options = json!({"overwrite": overwrite, "verify": true});
        let result = repo.restore_well(&snapshot, &target, options);
        assert_eq!(result.stats.bytes_fetched, 0);
        assert_same(&source, &target);
    }
}

#[test]
fn many_links_across_windows() {
    let scratch = Scratch::in_memory();
    let source = scratch.dir("source");
    for dir in 0..30 {
        let dir = source.join(format!("{dir:02}"));
        std::fs::create_dir(&dir).unwrap();
        for number in 0..700 {
            let name = dir.join(format!("{number}"));
            let first = source.join(format!("00/{number}"));
            if first == name {
                std::fs::write(name, format!("{number}")).unwrap();
            } else {
                std::fs::hard_link(first, name).unwrap();
            }
        }
    }
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    let target = scratch.dir("target");
    let result = repo.restore_well(&snapshot, &target, json!({"verify": true}));
    assert_eq!((result.stats.files, result.stats.hard_links), (700, 29 * 700));
    assert_same(&source, &target);
}
