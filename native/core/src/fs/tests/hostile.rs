//! Others change what we read, and plant things where we write.

use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, symlink};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::support::{Scratch, is_root, open_root};
use crate::fs::content::{punch_hole, reserve, zero_range};
use crate::fs::flags::set_flags;
use crate::fs::remove::remove_tree;
use crate::fs::target::{create_file, make_dir, make_symlink, open_file};
use crate::fs::*;

#[test]
fn a_planted_symlink_is_not_followed() {
    let scratch = Scratch::new();
    let (outside, root) = (scratch.dir("outside"), scratch.dir("root"));
    std::fs::create_dir(outside.join("dir")).unwrap();
    std::fs::write(outside.join("file"), b"precious").unwrap();
    symlink(&outside, root.join("link")).unwrap();
    symlink(outside.join("file"), root.join("file")).unwrap();
    let target = Target::open(&root).unwrap();

    let planted = rustix::io::Errno::LOOP.raw_os_error();
    assert_eq!(target.dir(b"link/dir").unwrap_err().os_error, Some(planted));
    assert!(target.dir(b"link").is_err());
    assert!(target.make_dirs(b"link/new").is_err());
    assert!(make_dir(target.root(), b"link").is_err());
    assert!(create_file(target.root(), b"file").is_err());
    assert!(open_file(target.root(), b"file").unwrap().is_none());
    // Attributes go to the symlink itself.
    let subject = Subject::open(target.root(), b"file").unwrap();
    assert_eq!(subject.stat().unwrap().kind, FileKind::Symlink);
    // Removing a symlink leaves what it points to.
    remove_tree(target.root(), b"link").unwrap();
    assert!(outside.join("dir").exists());
    assert!(!outside.join("new").exists());
    assert_eq!(std::fs::read(outside.join("file")).unwrap(), b"precious");
}

#[test]
fn names_that_are_paths_are_refused() {
    let scratch = Scratch::new();
    let root = open_root(scratch.path());
    for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b", &[b'a'; 256]] {
        assert!(create_file(root.as_fd(), bad).is_err());
        assert!(make_dir(root.as_fd(), bad).is_err());
        assert!(make_symlink(root.as_fd(), bad, b"x").is_err());
        assert!(open_file(root.as_fd(), bad).is_err());
        assert!(remove_tree(root.as_fd(), bad).is_err());
    }
}

#[test]
fn a_fifo_swapped_in_for_a_file_does_not_hang() {
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        swap_files();
        done.send(())
    });
    let outcome = wait.recv_timeout(std::time::Duration::from_secs(20));
    assert!(outcome.is_ok(), "failed, or hangs in an open");
}

fn swap_files() {
    let scratch = Scratch::new();
    let path = scratch.path().join("name");
    let root = open_root(scratch.path());
    std::fs::write(&path, b"file").unwrap();
    let stat = stat_at(root.as_fd(), b"name").unwrap();
    std::fs::remove_file(&path).unwrap();
    mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
    assert!(matches!(open_regular(root.as_fd(), b"name", &stat), Ok(Opened::Replaced)));
    assert!(open_file(root.as_fd(), b"name").unwrap().is_none());

    std::fs::remove_file(&path).unwrap();
    symlink("/etc/passwd", &path).unwrap();
    assert!(matches!(open_regular(root.as_fd(), b"name", &stat), Ok(Opened::Replaced)));

    // Another regular file under the same name; the old one is kept so that its inode is not
    // reused.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"a").unwrap();
    let stat = stat_at(root.as_fd(), b"name").unwrap();
    std::fs::rename(&path, scratch.path().join("old")).unwrap();
    std::fs::write(&path, b"b").unwrap();
    assert!(matches!(open_regular(root.as_fd(), b"name", &stat), Ok(Opened::Replaced)));
    assert!(matches!(open_regular(root.as_fd(), b"old", &stat), Ok(Opened::File(..))));
    assert!(open_regular(root.as_fd(), b"gone", &stat).is_err());
}

#[test]
fn a_directory_replaced_while_its_descriptor_is_closed_is_noticed() {
    let scratch = Scratch::new();
    for name in ["a", "b", "c", "d", "e"] {
        scratch.dir(name);
    }
    let root = Dir::open_root(scratch.path(), 2).unwrap();
    let first = root.open_child(b"a").unwrap();
    let others: Vec<_> =
        [b"b", b"c", b"d", b"e"].iter().map(|name| root.open_child(*name).unwrap()).collect();
    assert!(first.fd().is_ok(), "reopened");
    for other in &others {
        other.fd().unwrap();
    }
    std::fs::rename(scratch.path().join("a"), scratch.path().join("moved")).unwrap();
    std::fs::create_dir(scratch.path().join("a")).unwrap();
    let error = first.fd().unwrap_err();
    assert_eq!(error.key.as_deref(), Some("a"));
    std::fs::remove_dir(scratch.path().join("a")).unwrap();
    symlink("moved", scratch.path().join("a")).unwrap();
    assert!(first.fd().is_err());
}

#[test]
fn segments_cover_the_size_whatever_happens_to_the_file() {
    let scratch = Scratch::new();
    let file = std::fs::File::create_new(scratch.path().join("file")).unwrap();
    let size = 1 << 20;
    file.write_all_at(&vec![1; size], 0).unwrap();
    for cut in [0, 5000, size / 2, size] {
        let mut next = 0;
        for (index, segment) in Segments::new(file.as_fd(), size as u64).enumerate() {
            assert_eq!(segment.offset, next);
            assert!(segment.len > 0);
            next += segment.len;
            match index {
                0 => punch_hole(file.as_fd(), segment.offset + segment.len / 2, 1 << 18).unwrap(),
                1 => file.set_len(cut as u64).unwrap(),
                _ => {}
            }
        }
        assert_eq!(next, size as u64, "cut at {cut}");
        file.write_all_at(&vec![1; size], 0).unwrap();
    }
    // A pipe cannot be asked: all of it is data.
    let (reader, _writer) = std::io::pipe().unwrap();
    let all: Vec<_> = Segments::new(reader.as_fd(), 10).collect();
    assert_eq!(all, [Segment { offset: 0, len: 10, is_hole: false }]);
}

#[test]
fn holes_and_zeros_replace_what_was_there() {
    for scratch in [Scratch::new(), Scratch::in_memory()] {
        let path = scratch.path().join("file");
        let file = std::fs::File::create_new(&path).unwrap();
        file.write_all_at(&vec![9; 1 << 18], 0).unwrap();
        punch_hole(file.as_fd(), 65536, 65536).unwrap();
        zero_range(file.as_fd(), 196_608, 131_072).unwrap();
        punch_hole(file.as_fd(), 0, 0).unwrap();
        reserve(file.as_fd(), 0, 1 << 20).unwrap();
        let mut expected = vec![9; 1 << 18];
        expected[65536..131_072].fill(0);
        expected[196_608..].fill(0);
        expected.resize(196_608 + 131_072, 0);
        assert!(std::fs::read(&path).unwrap() == expected);
    }
}

#[test]
fn an_immutable_file_is_overwritten_and_removed() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let root = scratch.dir("root");
    std::fs::write(root.join("file"), b"old").unwrap();
    let file = std::fs::File::open(root.join("file")).unwrap();
    let dir = open_root(&root);
    assert_eq!(set_flags(file.as_fd(), 0x10).unwrap(), None);
    assert!(std::fs::write(root.join("file"), b"new").is_err());
    let (open, stat) = open_file(dir.as_fd(), b"file").unwrap().unwrap();
    assert_eq!(stat.size, 3);
    assert_eq!(rustix::io::pwrite(&open, b"new", 0).unwrap(), 3);
    assert_eq!(set_flags(file.as_fd(), 0x20).unwrap(), None);
    assert_eq!(set_flags(dir.as_fd(), 0x10).unwrap(), None);
    assert!(std::fs::remove_file(root.join("file")).is_err());
    remove_tree(open_root(scratch.path()).as_fd(), b"root").unwrap();
    assert!(!root.exists());
    remove_tree(open_root(scratch.path()).as_fd(), b"root").unwrap();
}

#[test]
fn text_for_people_hides_nothing() {
    assert_eq!(display_path(b"a\xff\n/\xc3\xa9"), "a\\xff\\x0a/\u{e9}");
    let long = display_path(&[b'x'; 5000]);
    assert!(long.len() < 1100 && long.contains("[...]"));
}
