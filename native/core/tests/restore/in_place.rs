//! Into a target that has something in it.

use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::Path;

use serde_json::json;

use crate::support::{Repo, Scratch, assert_same, noise, read_tree};

fn edit(path: &Path, offset: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

#[test]
fn only_changed_ranges_are_fetched() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    std::fs::write(source.join("big"), noise(1, 30_000_000)).unwrap();
    for number in 0..100 {
        std::fs::write(source.join(format!("small-{number}")), noise(number, 3000)).unwrap();
    }
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    let target = scratch.dir("target");
    let first = repo.restore_well(&snapshot, &target, json!({}));
    assert!(first.stats.bytes_fetched > 30_000_000);
    let inode = std::fs::metadata(target.join("big")).unwrap().ino();
    for offset in [0, 7_000_000, 29_999_990] {
        edit(&target.join("big"), offset, b"edited");
    }
    edit(&target.join("small-7"), 2000, b"edited");
    let dry = repo.restore(&snapshot, &target, json!({"dry_run": true}));
    assert_eq!(dry.1.actions(), ["change big", "change small-7"]);
    let second = repo.restore_well(&snapshot, &target, json!({"verify": true}));
    assert_same(&source, &target);
    let stats = &second.stats;
    assert_eq!((stats.files_changed, stats.files_unchanged, stats.files_new), (2, 99, 0));
    assert!(stats.bytes_fetched < 1_000_000, "{stats:?}");
    assert!(stats.bytes_written < 400_000, "{stats:?}");
    assert_eq!(std::fs::metadata(target.join("big")).unwrap().ino(), inode);
}

#[test]
fn longer_and_shorter_files_are_mended() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    for (name, seed) in [("short", 1), ("long", 2), ("gone", 3), ("empty", 4)] {
        let len = if name == "empty" { 0 } else { 2_000_000 };
        std::fs::write(source.join(name), noise(seed, len)).unwrap();
    }
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    let target = scratch.dir("target");
    std::fs::write(target.join("short"), noise(1, 1_000_000)).unwrap();
    std::fs::write(target.join("long"), noise(2, 2_500_000)).unwrap();
    std::fs::write(target.join("empty"), b"not so").unwrap();
    let result = repo.restore_well(&snapshot, &target, json!({"verify": true}));
    assert_same(&source, &target);
    assert!(result.stats.bytes_unchanged > 2_800_000, "{:?}", result.stats);
}

#[test]
fn wrong_kinds_and_planted_symlinks_give_way() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    std::fs::create_dir_all(source.join("dir/inner")).unwrap();
    std::fs::write(source.join("dir/inner/file"), b"content").unwrap();
    std::fs::write(source.join("file"), b"content").unwrap();
    std::fs::write(source.join("other"), b"content").unwrap();
    symlink("file", source.join("link")).unwrap();
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");

    let outside = scratch.dir("outside");
    std::fs::create_dir(outside.join("inner")).unwrap();
    std::fs::write(outside.join("precious"), b"precious").unwrap();
    std::fs::write(outside.join("inner/file"), b"precious").unwrap();
    let before = read_tree(&outside);
    let target = scratch.dir("target");
    symlink(&outside, target.join("dir")).unwrap();
    symlink(outside.join("precious"), target.join("file")).unwrap();
    std::fs::create_dir_all(target.join("other/full/of")).unwrap();
    std::fs::write(target.join("link"), b"a file").unwrap();
    repo.restore_well(&snapshot, &target, json!({"delete": true, "verify": true}));
    assert_same(&source, &target);
    assert!(before == read_tree(&outside));
}

#[test]
fn overwrite_modes() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    for name in ["kept", "edited", "missing"] {
        std::fs::write(source.join(name), noise(1, 500_000)).unwrap();
    }
    std::fs::create_dir(source.join("dir")).unwrap();
    std::fs::write(source.join("dir/below"), b"below").unwrap();
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    let target = scratch.dir("target");
    repo.restore_well(&snapshot, &target, json!({}));

    // Same size and time, other content: if-changed does not see it, always does.
    let times = std::fs::metadata(target.join("kept")).unwrap().modified().unwrap();
    edit(&target.join("kept"), 100, b"unseen");
    let file = std::fs::OpenOptions::new().write(true).open(target.join("kept")).unwrap();
    file.set_modified(times).unwrap();
    edit(&target.join("edited"), 100, b"seen");
    std::fs::remove_file(target.join("missing")).unwrap();
    let result = repo.restore_well(&snapshot, &target, json!({"overwrite": "if-changed"}));
    assert_eq!((result.stats.files_changed, result.stats.files_new), (1, 1));
    assert_eq!(&std::fs::read(target.join("kept")).unwrap()[100..106], b"unseen");
    repo.restore_well(&snapshot, &target, json!({"overwrite": "always"}));
    assert_same(&source, &target);

    edit(&target.join("edited"), 100, b"mine");
    std::fs::remove_file(target.join("missing")).unwrap();
    std::fs::remove_dir_all(target.join("dir")).unwrap();
    std::fs::write(target.join("dir"), b"in the way").unwrap();
    let options = json!({"overwrite": "never", "verify": true});
    let result = repo.restore_well(&snapshot, &target, options);
    assert_eq!((result.stats.files_skipped, result.stats.files_new), (3, 1));
    assert_eq!(&std::fs::read(target.join("edited")).unwrap()[100..104], b"mine");
    assert_eq!(std::fs::read(target.join("dir")).unwrap(), b"in the way");
    assert_eq!(std::fs::read(target.join("missing")).unwrap(), noise(1, 500_000));
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 4);
}

#[test]
fn a_file_with_a_name_outside_is_not_written_through() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    let content = noise(1, 3_000_000);
    std::fs::write(source.join("alone"), &content).unwrap();
    std::fs::write(source.join("pair-1"), &content).unwrap();
    std::fs::hard_link(source.join("pair-1"), source.join("pair-2")).unwrap();
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");

    let outside = scratch.dir("outside");
    let mut old = content.clone();
    old[1_500_000..1_500_010].fill(0);
    let target = scratch.dir("target");
    for name in ["alone", "pair-1", "pair-2"] {
        std::fs::write(outside.join(name), &old).unwrap();
        std::fs::hard_link(outside.join(name), target.join(name)).unwrap();
    }
    let time = |name: &str| outside.join(name).metadata().unwrap().modified().unwrap();
    let times = ["alone", "pair-1", "pair-2"].map(time);
    let result = repo.restore_well(&snapshot, &target, json!({"verify": true}));
    assert!(result.stats.bytes_fetched < 1_000_000, "{:?}", result.stats);
    assert_same(&source, &target);
    let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
    assert_ne!(inode(&outside.join("alone")), inode(&target.join("alone")));
    assert_eq!(times, ["alone", "pair-1", "pair-2"].map(time));
    for name in ["alone", "pair-1", "pair-2"] {
        assert!(std::fs::read(outside.join(name)).unwrap() == old, "{name}");
    }
}
