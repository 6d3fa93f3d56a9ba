//! Parts of trees, deleting, and doing nothing.

use std::path::Path;

use serde_json::json;

use crate::support::{Repo, Scratch, assert_same, b64, read_tree};

fn paths(root: &Path) -> Vec<String> {
    read_tree(root).into_keys().filter(|path| !path.is_empty()).collect()
}

fn plant(root: &Path, files: &[&str]) {
    for file in files {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, file).unwrap();
    }
}

#[test]
fn a_subtree_becomes_the_target() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    plant(&source, &["a/b/1", "a/b/c/2", "a/b.c", "a/bb/3", "d"]);
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    let target = scratch.dir("target");
    repo.restore_well(&snapshot, &target, json!({"subtree_b64": b64(b"a/b"), "verify": true}));
    assert_same(&source.join("a/b"), &target);
    let nowhere = repo.try_restore(&snapshot, &target, json!({"subtree_b64": b64(b"a/x")}));
    assert_eq!(nowhere.0.unwrap_err().kind, pvback_core::ErrorKind::NotFound);
}

#[test]
fn includes_and_excludes() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    plant(&source, &["etc/a.conf", "etc/b.log", "var/x/a.conf", "var/x/y", "keep/1/2", "top.conf"]);
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    let target = scratch.dir("target");
    repo.restore_well(&snapshot, &target, json!({"includes": ["*.conf", "/keep"]}));
    let wanted = ["etc", "etc/a.conf", "keep", "keep/1", "keep/1/2", "top.conf", "var", "var/x"];
    assert_eq!(paths(&target), [&wanted[..], &["var/x/a.conf"]].concat());
    let other = scratch.dir("other");
    repo.restore_well(&snapshot, &other, json!({"excludes": ["*.conf", "x"]}));
    assert_eq!(paths(&other), ["etc", "etc/b.log", "keep", "keep/1", "keep/1/2", "var"]);
}

#[test]
fn delete_spares_what_may_have_been_left_out_of_the_backup() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    plant(&source, &["a/1", "a/cache/x", "a/whole/1", "b/1"]);
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup_with(&source, "directory", json!({"excludes": ["cache"]}));
    let target = scratch.dir("target");
    plant(&target, &["a/cache/mine", "a/other/mine", "a/whole/old", "b/old", "old"]);
    repo.restore_well(&snapshot, &target, json!({"delete": true}));
    let left = ["a", "a/1", "a/cache", "a/cache/mine", "a/other", "a/other/mine"];
    assert_eq!(paths(&target), [&left[..], &["a/whole", "a/whole/1", "b", "b/1"]].concat());

    // Of a snapshot that had it all, nothing is spared.
    let whole = repo.backup(&source, "directory");
    repo.restore_well(&whole, &target, json!({"delete": true}));
    assert_same(&source, &target);
}

#[test]
fn delete_spares_what_stands_where_another_file_system_was() {
    // Wherever this runs, it is one of its own.
    let source = Path::new("/dev");
    let scratch = Scratch::new();
    let repo = Repo::new(64 << 10);
    let hidden = json!({"one_file_system": true, "excludes": ["/[!s]*", "/s[!h]*"]});
    let snapshot = repo.backup_with(source, "directory", hidden);
    let target = scratch.dir("target");
    plant(&target, &["shm/mine"]);
    repo.restore_well(&snapshot, &target, json!({"delete": true}));
    assert_eq!(paths(&target), ["shm", "shm/mine"]);
}

#[test]
fn delete_removes_what_the_snapshot_does_not_have() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    plant(&source, &["a/1", "a/2", "b/1", "m/n/o", "z"]);
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    let target = scratch.dir("target");
    repo.restore_well(&snapshot, &target, json!({}));
    plant(
        &target,
        &["0", "a/0", "a/1.5", "a/3/x/y", "aa/1", "m/n/p", "m/o/1", "zz", "lost+found/x"],
    );
    let before = read_tree(&target);
    let (dry, outputs) = repo.restore(&snapshot, &target, json!({"delete": true, "dry_run": true}));
    let gone = ["0", "a/0", "a/1.5", "a/3", "aa", "m/n/p", "m/o", "zz"];
    assert_eq!(outputs.actions(), gone.map(|path| format!("delete {path}")));
    assert_eq!(dry.stats.deleted, gone.len() as u64);
    assert!(before == read_tree(&target));
    let done = repo.restore_well(&snapshot, &target, json!({"delete": true, "verify": true}));
    assert_eq!(done.stats.deleted, gone.len() as u64);
    std::fs::remove_dir_all(target.join("lost+found")).unwrap();
    // Removing it has changed the time of the root.
    repo.restore_well(&snapshot, &target, json!({}));
    assert_same(&source, &target);
}

#[test]
fn delete_spares_what_is_not_selected() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    plant(&source, &["a/1", "b/1.log"]);
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    let target = scratch.dir("target");
    plant(&target, &["a/x", "a/x.log", "c/d/1", "c/d/1.log", "c/e/2", "b/2.log"]);
    let options = json!({"delete": true, "excludes": ["*.log"]});
    repo.restore_well(&snapshot, &target, options);
    let left = ["a", "a/1", "a/x.log", "b", "b/2.log", "c", "c/d", "c/d/1.log"];
    assert_eq!(paths(&target), left);

    let target = scratch.dir("other");
    plant(&target, &["a/x", "b/2.log", "c/d/1", "c/d/1.log", "k"]);
    let options = json!({"delete": true, "includes": ["*.log"]});
    repo.restore_well(&snapshot, &target, options);
    assert_eq!(paths(&target), ["a", "a/x", "b", "b/1.log", "c", "c/d", "c/d/1", "k"]);
}

#[test]
fn a_dry_run_into_nowhere_tells_everything() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    plant(&source, &["a/1", "b"]);
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    let nowhere = scratch.path("nowhere");
    let (result, outputs) = repo.restore(&snapshot, &nowhere, json!({"dry_run": true}));
    assert_eq!(outputs.actions(), ["create a", "create a/1", "create b"]);
    assert_eq!((result.stats.files_new, result.stats.bytes_fetched), (2, 0));
    assert!(!nowhere.exists());
    repo.restore_well(&snapshot, &nowhere, json!({"verify": true}));
    assert_same(&source, &nowhere);
}
