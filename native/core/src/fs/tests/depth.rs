//! Deep and wide trees, walked, restored and removed with few descriptors.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, mkdirat, openat};

use super::support::{Scratch, open_root};
use crate::fs::open::open_stepwise;
use crate::fs::remove::remove_tree;
use crate::fs::target::create_file;
use crate::fs::*;

/// Makes `depth` directories called `name` in one another, each with a file `a` and a file `z`,
/// before and behind the subdirectory in the order of their names.
fn build_deep(root: &Path, name: &[u8], depth: usize) {
    let mut dir: OwnedFd = open_root(root);
    for _ in 0..depth {
        create_file(dir.as_fd(), b"a").unwrap();
        create_file(dir.as_fd(), b"z").unwrap();
        mkdirat(&dir, name, Mode::RWXU).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        dir = openat(&dir, name, flags, Mode::empty()).unwrap();
    }
}

fn open_descriptor_count() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn six_thousand_levels_are_walked_in_order_and_removed() {
    const DEPTH: usize = 6000;
    let scratch = Scratch::in_memory();
    let root = scratch.dir("deep");
    let name = b"name of directory";
    build_deep(&root, name, DEPTH);

    let options = WalkOptions { open_count_max: 16, ..WalkOptions::default() };
    let mut walk = Walk::new(&root, options).unwrap();
    let (mut level, mut deepest, mut names_count) = (0, 0, 0);
    let mut kept = Vec::new();
    let mut left = Vec::new();
    // Some slack for other tests of this process.
    let descriptors_max = open_descriptor_count() + 200;
    while let Some(event) = walk.next() {
        match event {
            Event::Enter(dir) => {
                level += 1;
                if level > deepest {
                    deepest = level;
                    assert_eq!(
                        walk.path().len(),
                        (level - 1) * (name.len() + 1) - usize::from(level > 1)
                    );
                }
                // Held for later, though its descriptor is long closed.
                if level % 1000 == 0 {
                    assert_eq!(dir.path(), walk.path());
                    kept.push(dir);
                }
            }
            Event::Names(dir, names) => {
                let stats = stat_batch(&dir, &names);
                assert!(stats.iter().all(Result::is_ok), "{stats:?}");
                let names: Vec<_> = names.iter().map(|(name, _)| name.to_vec()).collect();
                assert_eq!(names.len(), 1);
                names_count += 1;
                left.push(names[0][0]);
            }
            Event::Leave(_) => level -= 1,
            other => panic!("{other:?}"),
        }
        if names_count % 500 == 0 {
            assert!(open_descriptor_count() < descriptors_max);
        }
    }
    assert_eq!((level, deepest, names_count), (0, DEPTH + 1, 2 * DEPTH));
    // All that sorts before the subdirectory on the way down, the rest on the way up.
    assert!(left[..DEPTH].iter().all(|&first| first == b'a'));
    assert!(left[DEPTH..].iter().all(|&first| first == b'z'));

    let target = Target::open(&root).unwrap();
    for dir in &kept {
        let stat = stat_fd(dir.fd().unwrap().as_fd()).unwrap();
        assert!(stat.is_same_inode(dir.stat()));
        // Longer than PATH_MAX, so in pieces; and name by name, as where openat2 is missing.
        let path = dir.path();
        assert!(path.len() > 4096);
        let by_path = target.dir(&path).unwrap();
        assert!(stat_fd(by_path.as_fd()).unwrap().is_same_inode(dir.stat()));
        let stepwise = open_stepwise(target.root(), &path).unwrap();
        assert!(stat_fd(stepwise.as_fd()).unwrap().is_same_inode(dir.stat()));
    }
    drop(kept);
    drop(walk);
    remove_tree(open_root(scratch.path()).as_fd(), b"deep").unwrap();
    assert!(!root.exists());
}

#[test]
fn paths_of_any_length_are_made() {
    let scratch = Scratch::in_memory();
    let root = scratch.dir("root");
    let path = vec![vec![b'd'; 255]; 100].join(&b'/');
    let target = Target::open(&root).unwrap();
    let made = target.make_dirs(&path).unwrap();
    let found = target.dir(&path).unwrap();
    let same = stat_fd(made.as_fd()).unwrap();
    assert!(stat_fd(found.as_fd()).unwrap().is_same_inode(&same));
    for bad in [&b"/a"[..], b"a/", b"a//b", b"../a", b"a/../b", b".", b"a/\0"] {
        assert!(target.make_dirs(bad).is_err(), "{}", display_path(bad));
        assert!(target.dir(bad).is_err(), "{}", display_path(bad));
    }
}

#[test]
fn wide_directories_come_in_sorted_batches() {
    let scratch = Scratch::in_memory();
    let root = scratch.dir("wide");
    let dir = open_root(&root);
    let mut expected = Vec::new();
    for index in 0..5000_u32 {
        let name = format!("{:x}", index.wrapping_mul(2_654_435_761));
        create_file(dir.as_fd(), name.as_bytes()).unwrap();
        expected.push(name.into_bytes());
    }
    expected.sort();
    let mut found = Vec::new();
    let options = WalkOptions { batch_count_max: 300, ..WalkOptions::default() };
    for event in Walk::new(&root, options).unwrap() {
        if let Event::Names(_, names) = event {
            assert!(names.len() <= 300);
            assert!(names.iter().all(|(_, kind)| kind == Some(FileKind::File)));
            found.extend(names.iter().map(|(name, _)| name.to_vec()));
        }
    }
    assert_eq!(found, expected);
}

#[test]
fn many_threads_reach_directories_whose_descriptors_come_and_go() {
    let scratch = Scratch::in_memory();
    let root = scratch.dir("root");
    for index in 0..300 {
        let dir = root.join(format!("{}/{}/{}", index % 7, index % 13, index));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("file"), b"").unwrap();
    }
    let options = WalkOptions { open_count_max: 2, ..WalkOptions::default() };
    let (send, receive) = crossbeam_channel::unbounded();
    let found: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let receive = receive.clone();
                scope.spawn(move || {
                    let batches = receive.iter();
                    let found = batches.map(|(dir, names): (Arc<Dir>, Names)| {
                        let stats = stat_batch(&dir, &names);
                        assert!(stats.iter().all(Result::is_ok), "{stats:?}");
                        assert!(stat_fd(dir.fd().unwrap().as_fd()).unwrap().ino == dir.stat().ino);
                        stats.len()
                    });
                    found.sum::<usize>()
                })
            })
            .collect();
        for event in Walk::new(&root, options).unwrap() {
            match event {
                Event::Names(dir, names) => send.send((dir, names)).unwrap(),
                Event::Enter(_) | Event::Leave(_) => {}
                other => panic!("{other:?}"),
            }
        }
        drop(send);
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!(found, 300);
}

#[test]
fn what_is_excluded_is_not_entered() {
    struct Odd;
    impl Exclude for Odd {
        fn excluded(&self, path: &[u8], is_dir: bool) -> bool {
            path == b"keep/cache" && is_dir || path.ends_with(b".tmp")
        }
    }
    let scratch = Scratch::in_memory();
    let root = scratch.dir("root");
    std::fs::create_dir_all(root.join("keep/cache/deep")).unwrap();
    std::fs::create_dir_all(root.join("cache")).unwrap();
    for name in ["keep/a", "keep/b.tmp", "keep/cache/c", "cache/d", "z.tmp"] {
        std::fs::write(root.join(name), b"").unwrap();
    }
    let options = WalkOptions { exclude: Some(Arc::new(Odd)), ..WalkOptions::default() };
    let mut seen = Vec::new();
    for event in Walk::new(&root, options).unwrap() {
        match event {
            Event::Enter(dir) => seen.push(dir.path()),
            Event::Names(dir, names) => {
                seen.extend(names.iter().map(|(name, _)| super::support::join(&dir.path(), name)));
            }
            // Right behind the directory.
            Event::LeftOut(dir) => {
                assert_eq!(*seen.last().unwrap(), dir.path());
                seen.push(b"left out".to_vec());
            }
            Event::Leave(_) => {}
            other => panic!("{other:?}"),
        }
    }
    let expected = [&b""[..], b"left out", b"cache", b"cache/d", b"keep", b"left out", b"keep/a"];
    assert_eq!(seen, expected);
}

#[test]
fn other_file_systems_are_shown_but_not_entered() {
    let options = || WalkOptions { one_file_system: true, ..WalkOptions::default() };
    // Wherever this runs, one of them is a mount of its own.
    let mut seen = Vec::new();
    for event in Walk::new(Path::new("/dev"), options()).unwrap() {
        match event {
            Event::NotEntered { dir, name, why: NotEntered::OtherDevice } => {
                let stat = stat_at(dir.fd().unwrap().as_fd(), &name).unwrap();
                assert_ne!(stat.dev, dir.stat().dev);
                seen.push(name);
            }
            Event::Enter(dir) => assert_ne!(dir.path(), b"shm"),
            _ => {}
        }
    }
    assert!(seen.contains(&b"shm".to_vec()), "{seen:?}");
    // The walk of a mount itself goes on as usual.
    let shm = Walk::new(Path::new("/dev/shm"), options()).unwrap().next();
    assert!(matches!(shm, Some(Event::Enter(_))));
}
