//! The same without privilege. A thread of this process gives its own up for good, and does the
//! work.

use std::collections::BTreeMap;
use std::path::Path;

use rustix::fs::{Gid, Mode, Uid};

use super::support::{Entry, Scratch, comparable, is_root, read_tree, write_tree};
use super::torture::build;
use crate::fs::remove::remove_tree;
use crate::fs::target::{make_dir, open_file};
use crate::fs::*;
use std::os::fd::AsFd as _;

const UID: u32 = 54_321;

/// A second group of that user.
const OTHER_GROUP: u32 = 54_322;

/// Runs `work` as a user without rights. Only for this thread: the kernel keeps
/// credentials by thread, and the standard library does not know.
fn unprivileged<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let (uid, gid) = (Uid::from_raw(UID), Gid::from_raw(UID));
            rustix::thread::set_thread_groups(&[Gid::from_raw(OTHER_GROUP)]).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

fn give_away(path: &Path) {
    let (uid, gid) = (Uid::from_raw(UID), Gid::from_raw(UID));
    rustix::fs::chown(path, Some(uid), Some(gid)).unwrap();
}

fn torture_tree(scratch: &Scratch) -> BTreeMap<Vec<u8>, Entry> {
    let source = scratch.dir("source");
    build(&source);
    // The kernel may refuse links to files that are not ours, which is for the caller to handle.
    let mut tree = read_tree(&source);
    tree.retain(|_, entry| entry.first_name.is_none());
    tree
}

#[test]
fn a_restore_without_privilege_does_what_it_may_and_says_the_rest() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    rustix::fs::chmod(scratch.path(), Mode::from_raw_mode(0o755)).unwrap();
    let before = torture_tree(&scratch);
    let target = scratch.dir("target");
    give_away(&target);
    let denied = unprivileged(|| write_tree(&before, &target)).unwrap();

    let after = read_tree(&target);
    for (path, entry) in &before {
        let kind = entry.attributes.stat.kind;
        let Some(found) = after.get(path) else {
            assert!(kind.is_device(), "{} is missing", display_path(path));
            continue;
        };
        let (mut wanted, mut found) = (comparable(entry), comparable(found));
        let stat = &mut wanted.attributes.stat;
        let is_own = stat.uid == UID;
        assert_eq!(found.attributes.stat.uid, UID);
        (stat.uid, stat.gid) = (UID, UID);
        stat.nlink = found.attributes.stat.nlink;
        if kind == FileKind::File && !is_own {
            stat.mode &= 0o1777;
        }
        if kind == FileKind::Dir {
            // Setgid of a directory whose group is ours stays.
            assert_eq!(found.attributes.stat.mode & 0o1777, stat.mode & 0o1777);
            stat.mode = found.attributes.stat.mode;
        }
        wanted
            .attributes
            .xattrs
            .retain(|(name, _)| !name.starts_with(b"trusted.") && !name.starts_with(b"security."));
        wanted.attributes.flags &= !0x30;
        found.attributes.flags &= !0x30;
        assert_eq!(wanted, found, "{}", display_path(path));
    }
    assert_eq!(denied.count(Category::Owner), before.len() as u64 - 2);
    assert_eq!(denied.count(Category::Device), 2);
    assert_eq!(denied.count(Category::XattrTrusted), 3);
    assert_eq!(denied.count(Category::XattrSecurity), 2);
    assert_eq!(denied.count(Category::XattrUser), 0);
    assert_eq!(denied.count(Category::Acl), 0);
    assert_eq!(denied.count(Category::Times), 0);
    // Two setuid files. Flags: two protected files and a protected directory.
    assert_eq!(denied.count(Category::Mode), 2);
    assert_eq!(denied.count(Category::Flags), 3);
    let text = denied.to_string();
    assert!(text.contains("device: 2 not restored (again null, big device)"), "{text}");
    assert_eq!(text.lines().count(), denied.iter().count());
}

#[test]
fn what_cannot_be_read_is_an_event_and_the_rest_goes_on() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    rustix::fs::chmod(scratch.path(), Mode::from_raw_mode(0o755)).unwrap();
    let source = scratch.dir("source");
    for name in ["a", "closed", "z"] {
        std::fs::create_dir(source.join(name)).unwrap();
        std::fs::write(source.join(name).join("file"), b"").unwrap();
    }
    rustix::fs::chmod(source.join("closed"), Mode::empty()).unwrap();
    let seen = unprivileged(|| {
        let mut seen = Vec::new();
        for event in Walk::new(&source, WalkOptions::default()).unwrap() {
            match event {
                Event::Enter(dir) => seen.push(dir.path()),
                Event::NotEntered { dir, name, why: NotEntered::Failed(error) } => {
                    // It can still be described.
                    let stat = stat_at(dir.fd().unwrap().as_fd(), &name).unwrap();
                    assert_eq!((stat.kind, stat.mode), (FileKind::Dir, 0));
                    assert_eq!(error.key.as_deref(), Some("closed"));
                    seen.push(b"not entered".to_vec());
                }
                Event::Names(..) | Event::Leave(_) => {}
                other => panic!("{other:?}"),
            }
        }
        seen
    });
    assert_eq!(seen, [&b""[..], b"a", b"not entered", b"z"]);
}

#[test]
fn an_owner_without_privilege_overwrites_and_removes_what_is_closed() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    rustix::fs::chmod(scratch.path(), Mode::from_raw_mode(0o755)).unwrap();
    let target = scratch.dir("target");
    give_away(&target);
    unprivileged(|| {
        let closed = target.join("tree/closed/closed too");
        std::fs::create_dir_all(&closed).unwrap();
        std::fs::write(closed.join("file"), b"old").unwrap();
        std::fs::write(target.join("read-only"), b"old").unwrap();
        for path in [target.join("read-only"), closed, target.join("tree/closed")] {
            rustix::fs::chmod(path, Mode::empty()).unwrap();
        }
        let root = Target::open(&target).unwrap();
        assert!(open_file(root.root(), b"read-only").unwrap().is_some());
        let (tree, is_new) = make_dir(root.root(), b"tree").unwrap();
        assert!(!is_new);
        assert!(!make_dir(tree.as_fd(), b"closed").unwrap().1);
        rustix::fs::chmod(target.join("tree/closed"), Mode::empty()).unwrap();
        remove_tree(root.root(), b"tree").unwrap();
        assert!(!target.join("tree").exists());
    });
}

#[test]
fn a_group_of_ours_is_restored_though_the_owner_is_not() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    rustix::fs::chmod(scratch.path(), Mode::from_raw_mode(0o755)).unwrap();
    let target = scratch.dir("target");
    std::fs::write(target.join("file"), b"").unwrap();
    give_away(&target);
    give_away(&target.join("file"));
    let mut wanted = read_tree(&target).remove(&b"file"[..]).unwrap().attributes;
    (wanted.stat.uid, wanted.stat.gid) = (7, OTHER_GROUP);
    wanted.stat.mode = 0o6755;
    let (stat, denied) = unprivileged(|| {
        let root = Target::open(&target).unwrap();
        let mut denied = Denied::default();
        let subject = Subject::open(root.root(), b"file").unwrap();
        apply_attributes(&subject, &wanted, b"file", &mut denied).unwrap();
        (subject.stat().unwrap(), denied)
    });
    assert_eq!((stat.uid, stat.gid), (UID, OTHER_GROUP));
    // The rights of the group are ours to lend, those of the owner are not.
    assert_eq!(stat.mode, 0o2755);
    assert_eq!(denied.count(Category::Owner), 1);
    assert_eq!(denied.count(Category::Mode), 1);
    assert_eq!(denied.iter().count(), 2);
}
