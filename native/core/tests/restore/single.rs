//! Single files, and dumps.

use std::os::unix::fs::FileExt as _;

use pvback_core::ErrorKind;
use serde_json::json;

use crate::support::{Repo, Scratch, b64, noise};

#[test]
fn a_single_file_goes_to_any_path() {
    let scratch = Scratch::new();
    let source = scratch.path("disk.img");
    let file = std::fs::File::create(&source).unwrap();
    file.set_len(10 << 20).unwrap();
    file.write_all_at(&noise(1, 3_000_000), 1 << 20).unwrap();
    file.write_all_at(&noise(2, 1_000_000), 6 << 20).unwrap();
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "file");
    let wanted = std::fs::read(&source).unwrap();

    let target = scratch.path("copy");
    let first = repo.restore_well(&snapshot, &target, json!({"verify": true}));
    assert!(std::fs::read(&target).unwrap() == wanted);
    assert_eq!((first.stats.files_new, first.stats.files_verified), (1, 1));
    let copy = std::fs::OpenOptions::new().write(true).open(&target).unwrap();
    copy.write_all_at(b"changed", 2 << 20).unwrap();
    copy.write_all_at(b"not a hole", 5 << 20).unwrap();
    let second = repo.restore_well(&snapshot, &target, json!({}));
    assert!(std::fs::read(&target).unwrap() == wanted);
    assert!(second.stats.bytes_fetched < 500_000, "{:?}", second.stats);
    let dir = scratch.dir("dir");
    let refused = repo.try_restore(&snapshot, &dir, json!({})).0.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Usage);
    let (dumped, bytes) = repo.dump(&snapshot, "");
    assert_eq!(dumped.unwrap().bytes, 10 << 20);
    assert!(bytes == wanted);
}

#[test]
fn a_file_of_a_tree_goes_to_a_path_or_out() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    std::fs::create_dir(source.join("d")).unwrap();
    let large = noise(1, 40_000_000);
    std::fs::write(source.join("d/large"), &large).unwrap();
    std::fs::write(source.join("d/small"), b"small").unwrap();
    std::fs::hard_link(source.join("d/small"), source.join("d/other")).unwrap();
    std::os::unix::fs::symlink("small", source.join("d/link")).unwrap();
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    for (name, content) in [("large", &large[..]), ("small", b"small"), ("other", b"small")] {
        let path = format!("d/{name}");
        let target = scratch.path(name);
        let options = json!({"subtree_b64": b64(path.as_bytes()), "verify": true});
        repo.restore_well(&snapshot, &target, options);
        assert!(std::fs::read(&target).unwrap() == content, "{name}");
        let (dumped, bytes) = repo.dump(&snapshot, &path);
        assert_eq!(dumped.unwrap().bytes, content.len() as u64);
        assert!(bytes == content, "{name}");
    }
    let target = scratch.path("link");
    repo.restore_well(&snapshot, &target, json!({"subtree_b64": b64(b"d/link")}));
    assert_eq!(std::fs::read_link(&target).unwrap().to_str(), Some("small"));
    assert_eq!(repo.dump(&snapshot, "d").0.unwrap_err().kind, ErrorKind::Usage);
    assert_eq!(repo.dump(&snapshot, "nowhere").0.unwrap_err().kind, ErrorKind::NotFound);
}

#[test]
fn a_dump_stops_at_what_is_missing() {
    let scratch = Scratch::new();
    let source = scratch.path("file");
    std::fs::write(&source, noise(1, 5_000_000)).unwrap();
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "file");
    let pack = repo.data_packs()[0].clone();
    repo.flip(&pack, 3_000_000);
    let (result, bytes) = repo.dump(&snapshot, "");
    assert_eq!(result.unwrap_err().kind, ErrorKind::Damaged);
    assert!(bytes.len() < 3_000_000);
    assert!(noise(1, 5_000_000).starts_with(&bytes));
}
