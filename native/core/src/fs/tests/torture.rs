//! A tree with one of everything, there and back.

use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, makedev, mknodat,
    utimensat,
};

use super::support::{Scratch, assert_same, is_root, join, read_tree, write_tree};
use crate::fs::flags::{read_flags, set_flags};
use crate::fs::*;

fn mknod(path: &Path, file_type: FileType, device: (u32, u32)) {
    let device = makedev(device.0, device.1);
    mknodat(CWD, path, file_type, Mode::from_raw_mode(0o640), device).unwrap();
}

fn set_mtime(path: &Path, secs: i64, nanos: i64) {
    let time = Timespec { tv_sec: secs, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn chmod(path: &Path, mode: u32) {
    rustix::fs::chmod(path, Mode::from_raw_mode(mode)).unwrap();
}

fn chown(path: &Path, uid: u32, gid: u32) {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(CWD, path, Some(uid), Some(gid), flags).unwrap();
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// An access control list as the kernel keeps it: version 2, then tag, permissions and id of each.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn named_user_acl() -> Vec<u8> {
    let none = u32::MAX;
    acl(&[(1, 6, none), (2, 7, 4242), (4, 4, none), (16, 5, none), (32, 0, none)])
}

/// `security.capability` with `cap_net_bind_service`, effective and permitted, revision 2.
fn file_capability() -> Vec<u8> {
    let mut bytes = 0x0200_0001_u32.to_le_bytes().to_vec();
    for word in [1_u32 << 10, 0, 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}

fn add_names(root: &Path) {
    for name in [
        &b"caf\xe9 latin-1"[..],
        b"\xff\xfe\x80",
        b"new\nline",
        b" leading and trailing ",
        b"-rf",
        b"\\x41",
        "t\u{65e5}\u{672c}".as_bytes(),
        &[b'n'; 255],
        &[0xfe; 255],
        b"...",
    ] {
        std::fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
    }
}

fn add_kinds(root: &Path) {
    std::fs::write(root.join("empty"), b"").unwrap();
    symlink(OsStr::from_bytes(b"nowhere/\xff\xfe\n"), root.join("dangling")).unwrap();
    symlink(OsStr::from_bytes(&[b'l'; 4095]), root.join("long link")).unwrap();
    symlink("/", root.join("absolute")).unwrap();
    mknod(&root.join("fifo"), FileType::Fifo, (0, 0));
    mknod(&root.join("socket"), FileType::Socket, (0, 0));
    mknod(&root.join("null"), FileType::CharacterDevice, (1, 3));
    mknod(&root.join("big device"), FileType::BlockDevice, (4095, 0xf_ffff));
    let links = root.join("links");
    std::fs::create_dir(&links).unwrap();
    for name in ["null", "fifo", "dangling", "empty"] {
        std::fs::hard_link(root.join(name), links.join(name)).unwrap();
        std::fs::hard_link(root.join(name), root.join(format!("again {name}"))).unwrap();
    }
}

fn add_holes(root: &Path) {
    use std::os::unix::fs::FileExt as _;
    let make = |name: &str, size: u64, data: &[u64]| {
        let file = std::fs::File::create(root.join(name)).unwrap();
        file.set_len(size).unwrap();
        for &offset in data {
            file.write_all_at(&[7; 4096], offset).unwrap();
        }
    };
    make("all hole", 1 << 20, &[]);
    make("hole first", 1 << 20, &[(1 << 20) - 4096]);
    make("hole last", (1 << 20) + 17, &[0]);
    make("swiss", 1 << 20, &[65536, 196_608, 589_824]);
}

fn add_attributes(root: &Path) {
    let file = |name: &str| {
        let path = root.join(name);
        std::fs::write(&path, name).unwrap();
        path
    };
    set_mtime(&file("before 1970"), -86_400 * 365, 999_999_999);
    set_mtime(&file("after 2106"), 4_294_967_296 + 1_000_000, 1);
    set_mtime(&root.join("dangling"), 1_234_567_890, 123_456_789);
    set_mtime(&root.join("fifo"), -5, 500_000_000);
    chown(&file("last owner"), u32::MAX - 1, u32::MAX - 1);
    chown(&root.join("absolute"), 12, 34);
    chown(&root.join("socket"), 56, 78);
    chmod(&file("no access"), 0);
    let setuid = file("setuid");
    chown(&setuid, 1000, 1001);
    chmod(&setuid, 0o6755);
    chmod(&root.join("null"), 0o666);

    let attributed = file("xattrs");
    set_xattr(&attributed, "user.empty", b"");
    set_xattr(&attributed, "user.bin\u{e9}", &[0, 255, 10]);
    set_xattr(&attributed, "user.large", &[b'v'; 2000]);
    set_xattr(&attributed, "trusted.secret", b"t");
    set_xattr(&attributed, "security.custom", b"s");
    set_xattr(&attributed, "system.posix_acl_access", &named_user_acl());
    let capable = file("capable");
    chown(&capable, 1000, 1000);
    set_xattr(&capable, "security.capability", &file_capability());
    chmod(&capable, 0o4755);
    set_xattr(&root.join("dangling"), "trusted.link", b"on a symlink");
    set_xattr(&root.join("fifo"), "trusted.fifo", b"on a fifo");
    let read_only = file("read-only with xattr");
    set_xattr(&read_only, "user.a", b"b");
    chmod(&read_only, 0o400);
}

fn add_dirs(root: &Path) {
    let shared = root.join("default acl");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("made before the acl"), b"").unwrap();
    std::fs::create_dir(shared.join("dir made before")).unwrap();
    set_xattr(&shared, "system.posix_acl_default", &named_user_acl());
    std::fs::write(shared.join("inherits"), b"").unwrap();
    chmod(&shared, 0o3775);

    let closed = root.join("closed");
    std::fs::create_dir_all(closed.join("inside/deeper")).unwrap();
    std::fs::write(closed.join("inside/file"), b"seen").unwrap();
    set_mtime(&closed.join("inside"), 1, 1);
    chmod(&closed.join("inside"), 0);
    chmod(&closed, 0);
}

/// Immutable, append-only and plain flags, on whatever file system takes them.
fn add_flags(root: &Path) {
    let dir = root.join("flags");
    std::fs::create_dir(&dir).unwrap();
    for (name, flags) in [("immutable", 0x10), ("append", 0x20), ("nodump noatime", 0xc0)] {
        let file = std::fs::File::create(dir.join(name)).unwrap();
        std::fs::hard_link(dir.join(name), dir.join(format!("link to {name}"))).unwrap();
        assert_eq!(set_flags(file.as_fd(), flags).unwrap(), None);
        assert_eq!(read_flags(file.as_fd()).unwrap(), flags);
    }
    std::fs::create_dir(dir.join("sub")).unwrap();
    let fd = std::fs::File::open(&dir).unwrap();
    assert_eq!(set_flags(fd.as_fd(), 0x10 | 0x40).unwrap(), None);
}

pub(super) fn build(root: &Path) {
    add_names(root);
    add_kinds(root);
    add_holes(root);
    add_attributes(root);
    add_dirs(root);
    add_flags(root);
    chmod(root, 0o751);
    set_mtime(root, 999, 999);
}

fn there_and_back(scratch: &Scratch) {
    let (source, target) = (scratch.dir("source"), scratch.dir("target"));
    build(&source);
    // Nothing that the target's own defaults give away may stick to what is restored.
    set_xattr(&target, "system.posix_acl_default", &named_user_acl());
    let before = read_tree(&source);
    let denied = write_tree(&before, &target).unwrap();
    assert!(denied.is_empty(), "{denied}");
    assert_same(&before, &read_tree(&target));
    assert_same(&before, &read_tree(&source));
}

#[test]
fn everything_comes_back_on_the_default_file_system() {
    if !is_root() {
        return;
    }
    there_and_back(&Scratch::new());
}

#[test]
fn everything_comes_back_on_tmpfs() {
    if !is_root() {
        return;
    }
    there_and_back(&Scratch::in_memory());
}

#[test]
fn what_was_built_is_what_is_read() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let root = scratch.dir("source");
    build(&root);
    let tree = read_tree(&root);
    let get = |path: &str| tree.get(path.as_bytes()).unwrap_or_else(|| panic!("no {path}"));
    assert_eq!(get("before 1970").attributes.stat.mtime.secs, -31_536_000);
    assert_eq!(get("before 1970").attributes.stat.mtime.nanos, 999_999_999);
    assert_eq!(get("after 2106").attributes.stat.mtime.secs, 4_295_967_296);
    assert_eq!(get("last owner").attributes.stat.uid, u32::MAX - 1);
    assert_eq!(get("big device").attributes.stat.rdev, (4095, 0xf_ffff));
    assert_eq!(get("long link").attributes.link_target, [b'l'; 4095]);
    assert_eq!(get("links/null").first_name.as_deref(), Some(&b"again null"[..]));
    assert_eq!(get("capable").attributes.stat.mode, 0o4755);
    assert_eq!(get("setuid").attributes.stat.mode, 0o6755);
    assert_eq!(get("closed/inside").attributes.stat.mode, 0);
    assert_eq!(get("closed/inside/file").content, b"seen");
    assert_eq!(get("flags/immutable").attributes.flags, 0x10);
    assert!(tree.contains_key(&join(b"", &[0xfe; 255])));
    let xattrs: Vec<_> =
        get("xattrs").attributes.xattrs.iter().map(|(name, _)| name.as_slice()).collect();
    let expected: [&[u8]; 6] = [
        b"security.custom",
        b"system.posix_acl_access",
        b"trusted.secret",
        "user.bin\u{e9}".as_bytes(),
        b"user.empty",
        b"user.large",
    ];
    assert_eq!(xattrs, expected);
    let hole = |offset, len| Segment { offset, len, is_hole: true };
    let data = |offset, len| Segment { offset, len, is_hole: false };
    assert_eq!(get("all hole").segments, [hole(0, 1 << 20)]);
    assert_eq!(get("hole first").segments, [hole(0, 1_044_480), data(1_044_480, 4096)]);
    assert_eq!(get("hole last").segments, [data(0, 4096), hole(4096, 1_044_497)]);
    assert_eq!(get("swiss").segments.len(), 7);
}

#[test]
fn applying_twice_changes_nothing_and_applying_over_other_attributes_replaces_them() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let (source, target) = (scratch.dir("source"), scratch.dir("target"));
    std::fs::write(source.join("file"), b"").unwrap();
    chown(&source.join("file"), 7, 8);
    set_xattr(&source.join("file"), "user.wanted", b"new");
    set_xattr(&source.join("file"), "user.same", b"same");
    chmod(&source.join("file"), 0o2711);
    set_mtime(&source.join("file"), 11, 22);
    let wanted = read_tree(&source).remove(&b"file"[..]).unwrap();

    let path = target.join("file");
    std::fs::write(&path, b"").unwrap();
    set_xattr(&path, "user.stale", b"x");
    set_xattr(&path, "user.wanted", b"old");
    set_xattr(&path, "user.same", b"same");
    set_xattr(&path, "security.custom", b"a label that is not ours");
    set_xattr(&path, "security.capability", &file_capability());
    set_xattr(&path, "system.posix_acl_access", &named_user_acl());
    let file = std::fs::File::open(&path).unwrap();
    assert_eq!(set_flags(file.as_fd(), 0x10 | 0x80).unwrap(), None);

    let mut denied = Denied::default();
    for round in 0..2 {
        let subject = Subject::Open(file.as_fd());
        apply_attributes(&subject, &wanted.attributes, b"file", &mut denied).unwrap();
        assert!(denied.is_empty(), "round {round}: {denied}");
        let mut found = read_tree(&target).remove(&b"file"[..]).unwrap();
        let label = (b"security.custom".to_vec(), b"a label that is not ours".to_vec());
        assert_eq!(found.attributes.xattrs.remove(0), label);
        let comparable = super::support::comparable;
        assert_eq!(comparable(&found), comparable(&wanted), "round {round}");
    }
}

#[test]
fn lists_and_values_larger_than_the_first_buffer_are_read() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::in_memory();
    let path = scratch.path().join("file");
    std::fs::write(&path, b"").unwrap();
    for index in 0..300 {
        set_xattr(&path, &format!("trusted.attribute number {index}"), &[b'v'; 7]);
    }
    set_xattr(&path, "trusted.limit", &vec![b'v'; 65_536]);
    let found = read_tree(scratch.path()).remove(&b"file"[..]).unwrap();
    let xattrs = found.attributes.xattrs;
    assert_eq!(xattrs.len(), 301);
    assert!(xattrs.is_sorted());
    let limit = xattrs.iter().find(|(name, _)| name == b"trusted.limit").unwrap();
    assert_eq!(limit.1.len(), 65_536);
}

#[test]
fn attributes_that_no_file_system_takes_are_counted_not_failed_on() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path().join("file"), b"").unwrap();
    let mut wanted = read_tree(scratch.path()).remove(&b"file"[..]).unwrap().attributes;
    wanted.stat.uid = u32::MAX;
    wanted.stat.mtime.nanos = 1_073_741_823;
    wanted.xattrs = vec![
        (b"no namespace".to_vec(), vec![]),
        (b"user.nul\0inside".to_vec(), vec![]),
        (b"user.".to_vec(), vec![]),
        (b"user.too large".to_vec(), vec![0; 70_000]),
    ];
    wanted.flags = 0x8000_0000 | 0x40;
    let file = std::fs::File::open(scratch.path().join("file")).unwrap();
    let mut denied = Denied::default();
    apply_attributes(&Subject::Open(file.as_fd()), &wanted, b"file", &mut denied).unwrap();
    assert_eq!(denied.count(Category::XattrUser), 3);
    assert_eq!(denied.count(Category::XattrOther), 1);
    assert_eq!(denied.count(Category::Times), 1);
    assert_eq!(denied.count(Category::Owner), 1);
    assert_eq!(denied.count(Category::Flags), 0);
    assert_eq!(read_flags(file.as_fd()).unwrap(), 0x40);
    wanted.stat.kind = FileKind::Fifo;
    let subject = Subject::Open(file.as_fd());
    assert!(apply_attributes(&subject, &wanted, b"file", &mut denied).is_err());
}
