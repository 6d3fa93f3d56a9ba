//! Whole trees into an empty target.

use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::Path;

use pvback_core::fs::flags::{PROTECTING, set_flags};
use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use serde_json::json;

use crate::support::{Repo, Scratch, assert_same, is_root, noise, os, read_tree};

fn set_mtime(path: &Path, secs: i64, nanos: i64) {
    let time = Timespec { tv_sec: secs, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(CWD, path, &times, flags).unwrap();
}

fn chmod(path: &Path, mode: u32) {
    rustix::fs::chmod(path, Mode::from_raw_mode(mode)).unwrap();
}

/// One of everything.
pub fn make_torture_tree(root: &Path) {
    let file = |name: &[u8], content: &[u8]| std::fs::write(root.join(os(name)), content).unwrap();
    file(b"empty", b"");
    file(b"one", b"1");
    file(b"caf\xe9 \xff", &noise(1, 5000));
    file(b"new\nline", &noise(2, 70_000));
    file(&[b'n'; 255], b"long name");
    file(b"a.b", b"sorts around the directory a");
    for (number, size) in [(3, 300_000), (4, 1_000_000), (5, 3_333_333), (6, 262_144)] {
        file(format!("noise-{number}").as_bytes(), &noise(number, size));
    }
    file(b"again", &noise(5, 3_333_333));
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(20 << 20).unwrap();
    sparse.write_all_at(&noise(7, 200_000), 5 << 20).unwrap();
    sparse.write_all_at(&noise(8, 4096), (20 << 20) - 4096).unwrap();
    let tiny = std::fs::File::create(root.join("sparse-tiny")).unwrap();
    tiny.set_len(100_000).unwrap();
    tiny.write_all_at(b"x", 65_536).unwrap();
    file(b"zeros", &vec![0; 1 << 20]);
    std::fs::create_dir_all(root.join("a/b/c")).unwrap();
    std::fs::create_dir(root.join("a/empty")).unwrap();
    for number in 0..500_u32 {
        let name = format!("a/b/small-{number:03}");
        file(name.as_bytes(), &noise(1000 + u64::from(number), (number * 37 % 9000) as usize));
    }
    file(b"a/b/c/linked", &noise(9, 400_000));
    std::fs::hard_link(root.join("a/b/c/linked"), root.join("zz-linked")).unwrap();
    std::fs::hard_link(root.join("a/b/c/linked"), root.join("a/linked")).unwrap();
    symlink("../nowhere", root.join("a/dangling")).unwrap();
    symlink(os(&[b'l'; 4000]), root.join("long-link")).unwrap();
    let fifo = FileType::Fifo;
    rustix::fs::mknodat(CWD, root.join("fifo"), fifo, Mode::from_raw_mode(0o604), 0).unwrap();
    for (name, mode) in [("one", 0o4751), ("empty", 0o000), ("a/empty", 0o1777), ("a/b/c", 0o500)] {
        chmod(&root.join(name), mode);
    }
    let xattr = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::lsetxattr(root.join(name), key, value, XattrFlags::empty()).unwrap();
    };
    xattr("noise-3", "user.note", b"\0\xff");
    xattr("a", "user.dir", &noise(10, 2000));
    if is_root() {
        let device = rustix::fs::makedev(7, 130);
        let kind = FileType::CharacterDevice;
        rustix::fs::mknodat(CWD, root.join("null"), kind, Mode::from_raw_mode(0o600), device)
            .unwrap();
        std::os::unix::fs::lchown(root.join("one"), Some(1234), Some(4321)).unwrap();
        std::os::unix::fs::lchown(root.join("a/dangling"), Some(7), Some(8)).unwrap();
        chmod(&root.join("one"), 0o4751);
        xattr("noise-4", "trusted.note", b"t");
    }
    for (name, secs, nanos) in
        [("one", -1_000, 1), ("a/dangling", 5, 999_999_999), ("a/b/c/linked", 77, 7), ("a/b", 1, 0)]
    {
        set_mtime(&root.join(name), secs, nanos);
    }
    set_mtime(root, 1_600_000_000, 123_456_789);
}

#[test]
fn one_of_everything_comes_back() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    make_torture_tree(&source);
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    let target = scratch.dir("target");
    let result = repo.restore_well(&snapshot, &target, json!({"verify": true, "journal": true}));
    assert_same(&source, &target);
    assert!(target.join("zeros").metadata().unwrap().blocks() * 512 >= 1 << 20);
    assert_eq!(result.stats.hard_links, 2);
    assert_eq!(result.stats.files_new, result.stats.files);
    assert!(result.stats.files_verified > 500);
    assert_eq!(result.stats.nodes, 2 * result.stats.nodes_total);
    let (_, outputs) = repo.restore(&snapshot, &target, json!({"dry_run": true}));
    assert_eq!(outputs.actions(), Vec::<String>::new());
    // The same once more changes nothing and fetches nothing.
    let before = read_tree(&target);
    let again = repo.restore_well(&snapshot, &target, json!({}));
    assert_eq!((again.stats.bytes_fetched, again.stats.files_changed), (0, 0));
    assert_eq!(again.stats.files_new, 0);
    assert!(before == read_tree(&target));
}

#[test]
fn many_windows_and_little_memory_give_the_same() {
    let scratch = Scratch::in_memory();
    let source = scratch.dir("source");
    // More entries than a window takes, in a chain of directories deeper than descriptors are kept.
    let mut dir = source.clone();
    for level in 0..300_u32 {
        for number in 0..60_u32 {
            std::fs::write(dir.join(format!("f{number}")), format!("{level} {number}")).unwrap();
        }
        dir = dir.join("d");
        std::fs::create_dir(&dir).unwrap();
    }
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    let target = scratch.dir("target");
    let options = json!({"memory_bytes": 1, "threads": 1, "gets": 1, "verify": true});
    let result = repo.restore_well(&snapshot, &target, options);
    assert_eq!(result.stats.files, 300 * 60);
    assert_same(&source, &target);
}

#[test]
fn a_huge_sparse_file_is_written_out_of_order() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    let file = std::fs::File::create(source.join("image")).unwrap();
    file.set_len(8 << 40).unwrap();
    for number in 0..200_u64 {
        let offset = number * (40 << 30) + (number % 7) * 4096;
        file.write_all_at(&noise(number, 100_000 + 3000 * (number as usize % 50)), offset).unwrap();
    }
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    let target = scratch.dir("target");
    let result = repo.restore_well(&snapshot, &target, json!({}));
    assert!(result.stats.bytes_sparse > 7 << 40);
    let found = std::fs::File::open(target.join("image")).unwrap();
    assert_eq!(found.metadata().unwrap().len(), 8 << 40);
    for number in 0..200_u64 {
        let len = 100_000 + 3000 * (number as usize % 50);
        let mut bytes = vec![0; len];
        found.read_exact_at(&mut bytes, number * (40 << 30) + (number % 7) * 4096).unwrap();
        assert!(bytes == noise(number, len), "{number}");
    }
    assert!(found.metadata().unwrap().blocks() * 512 < 100 << 20);
    // Into an existing file that has data where a hole belongs.
    let other = std::fs::OpenOptions::new().write(true).open(target.join("image")).unwrap();
    other.write_all_at(&[1; 10_000], 20 << 30).unwrap();
    repo.restore_well(&snapshot, &target, json!({"verify": true}));
    let mut bytes = vec![1; 10_000];
    found.read_exact_at(&mut bytes, 20 << 30).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
}

#[test]
fn immutable_files_come_back_and_are_replaced() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    for name in ["fixed", "linked-1"] {
        std::fs::write(source.join(name), noise(1, 10_000)).unwrap();
    }
    std::fs::hard_link(source.join("linked-1"), source.join("linked-2")).unwrap();
    for name in ["fixed", "linked-1"] {
        let file = std::fs::File::open(source.join(name)).unwrap();
        if !matches!(set_flags(file.as_fd(), PROTECTING & 0x10), Ok(None)) {
            eprintln!("no immutable files here: nothing to test");
            return;
        }
    }
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    let target = scratch.dir("target");
    for _ in 0..2 {
        repo.restore_well(&snapshot, &target, json!({}));
        assert_same(&source, &target);
    }
}
