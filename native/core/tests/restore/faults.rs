//! Stores that have lost, damaged or refuse something.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pvback_core::fs::{Event, Walk, WalkOptions};
use pvback_core::restore::LostRow;
use pvback_core::{Error, ErrorKind};
use serde_json::json;

use crate::support::{Repo, Scratch, assert_same, b64, noise, unb64};

#[test]
fn a_damaged_chunk_costs_its_files_only() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    for number in 0..20 {
        std::fs::write(source.join(format!("{number:02}")), noise(number, 400_000)).unwrap();
    }
    std::fs::write(source.join("copy-of-07"), noise(7, 400_000)).unwrap();
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    let pack = repo.data_packs()[0].clone();
    let size = repo.objects.lock().unwrap()[&pack].len();
    repo.flip(&pack, size / 3);
    let target = scratch.dir("target");
    let (result, outputs) = repo.restore(&snapshot, &target, json!({"verify": true}));
    let damaged = outputs.problem_paths();
    // A flipped bit spoils one segment of 64 KiB, and at most the three chunks in it.
    assert!((1..=6).contains(&damaged.len()), "{damaged:?}");
    assert_eq!(result.errors, damaged.len() as u64);
    for problem in &outputs.problems {
        assert_eq!(problem["what"], "damaged");
        assert!(!problem["ranges"].as_array().unwrap().is_empty());
    }
    for entry in std::fs::read_dir(&source).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let wanted = std::fs::read(source.join(&name)).unwrap();
        let mut found = std::fs::read(target.join(&name)).unwrap();
        for problem in outputs.problems.iter().filter(|p| p["path_b64"] == b64(name.as_bytes())) {
            for range in problem["ranges"].as_array().unwrap() {
                let start = usize::try_from(range[0].as_u64().unwrap()).unwrap();
                let end = start + usize::try_from(range[1].as_u64().unwrap()).unwrap();
                assert!(found[start..end].iter().all(|byte| *byte == 0), "{name}");
                found[start..end].copy_from_slice(&wanted[start..end]);
            }
            // It must not pass for whole later on.
            let time =
                |dir: &std::path::Path| dir.join(&name).metadata().unwrap().modified().unwrap();
            assert_ne!(time(&source), time(&target));
        }
        assert!(wanted == found, "{name}");
    }
    // Once the store is well again, the same restore mends what is missing.
    repo.flip(&pack, size / 3);
    repo.restore_well(&snapshot, &target, json!({"overwrite": "if-changed"}));
    assert_same(&source, &target);
}

#[test]
fn another_copy_is_used() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    std::fs::write(source.join("file"), noise(1, 5_000_000)).unwrap();
    let repo = Repo::new(64 << 10);
    repo.backup(&source, "directory");
    let first = repo.data_packs();
    // A backup that does not see the first one stores everything again.
    let snapshot = repo.without_index(|repo| repo.backup(&source, "directory"));
    assert!(repo.data_packs().len() > first.len());
    for pack in &first {
        repo.objects.lock().unwrap().remove(pack);
    }
    let target = scratch.dir("target");
    repo.restore_well(&snapshot, &target, json!({}));
    assert_same(&source, &target);
}

#[test]
fn missing_packs_in_place_leave_zeros_and_tell_where() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    std::fs::write(source.join("file"), noise(1, 1_000_000)).unwrap();
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    for pack in repo.data_packs() {
        repo.objects.lock().unwrap().remove(&pack);
    }
    let target = scratch.dir("target");
    let mut old = noise(1, 1_000_000);
    old[500_000] ^= 1;
    std::fs::write(target.join("file"), &old).unwrap();
    let (result, outputs) = repo.restore(&snapshot, &target, json!({}));
    assert_eq!(result.errors, 1);
    assert_eq!(outputs.problems[0]["what"], "missing");
    let range = &outputs.problems[0]["ranges"][0];
    let start = usize::try_from(range[0].as_u64().unwrap()).unwrap();
    let end = start + usize::try_from(range[1].as_u64().unwrap()).unwrap();
    assert!(start <= 500_000 && 500_000 < end && end - start <= 96 << 10);
    old[start..end].fill(0);
    assert!(std::fs::read(target.join("file")).unwrap() == old);
}

#[test]
fn a_store_that_fails_ends_the_restore() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    for number in 0..50 {
        std::fs::write(source.join(format!("{number}")), noise(number, 300_000)).unwrap();
    }
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    let target = scratch.dir("target");
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    *repo.fault.lock().unwrap() = Some(Arc::new(move |key, _| {
        let is_failing = key.contains("/data/") && counter.fetch_add(1, Ordering::SeqCst) > 1;
        is_failing.then(|| Error::new(ErrorKind::Storage, "the store is on fire"))
    }));
    let (result, _) = repo.try_restore(&snapshot, &target, json!({}));
    assert_eq!(result.unwrap_err().kind, ErrorKind::Storage);
    *repo.fault.lock().unwrap() = None;
    repo.restore_well(&snapshot, &target, json!({}));
    assert_same(&source, &target);
}

/// Directories of files with long names that do not compress: many pages, some of which end within a
/// directory.
fn make_wide_tree(top: &Path) {
    for number in 0..60 {
        let dir = top.join(format!("d{number:02}"));
        std::fs::create_dir(&dir).unwrap();
        for file in 0..80 {
            let mut name = format!("{file:02}-");
            for byte in noise(number * 100 + file, 100) {
                write!(name, "{byte:02x}").unwrap();
            }
            std::fs::write(dir.join(name), b"").unwrap();
        }
    }
}

/// Everything below `top`: key (zero bytes between names), and whether it is a directory.
fn keys_below(top: &Path) -> BTreeMap<Vec<u8>, bool> {
    let mut found = BTreeMap::new();
    for entry in Walk::new(top, WalkOptions::default()).unwrap() {
        match entry {
            Event::Enter(dir) => drop(found.insert(key(&dir.path()), true)),
            Event::Names(dir, names) => {
                for (name, _) in names.iter() {
                    found.insert(key(&[&dir.path(), &b"/"[..], name].concat()), false);
                }
            }
            _ => {}
        }
    }
    found
}

fn key(path: &[u8]) -> Vec<u8> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    path.iter().map(|byte| if *byte == b'/' { 0 } else { *byte }).collect()
}

/// Whether `key` lies in one of the ranges that a restore has named as lost.
fn is_in(lost: &[LostRow], key: &[u8]) -> bool {
    let bound = |path: &Option<String>| path.as_ref().map(|path| self::key(&unb64(path)));
    lost.iter().any(|row| {
        bound(&row.after_b64).is_none_or(|after| *after < *key)
            && bound(&row.before_b64).is_none_or(|before| *key < *before)
    })
}

/// The object that holds the tree, and its size.
fn tree_pack(repo: &Repo) -> (String, usize) {
    let objects = repo.objects.lock().unwrap();
    let mut meta = objects.iter().filter(|(key, _)| key.contains("/meta/"));
    let (key, object) = meta.next().unwrap();
    assert!(meta.next().is_none());
    (key.clone(), object.len())
}

#[test]
fn a_damaged_page_costs_the_paths_in_it_only() {
    let scratch = Scratch::in_memory();
    let source = scratch.dir("source");
    make_wide_tree(&source);
    let wanted = keys_below(&source);
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    let (pack, size) = tree_pack(&repo);
    let (mut roots, mut firsts, mut dirs, mut ranges) = (0, 0, 0, 0);
    // One in each segment of 64 KiB: all pages that lie in it are lost.
    for at in (1000..size).step_by(64 << 10) {
        let target = scratch.dir(&format!("target-{at}"));
        repo.flip(&pack, at);
        let (result, outputs) =
            repo.try_restore(&snapshot, &target, json!({"verify": true, "journal": true}));
        repo.flip(&pack, at);
        let result = match result {
            Ok(result) => result,
            // The root page, without which nothing can be found.
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Damaged);
                roots += 1;
                continue;
            }
        };
        assert_eq!(result.errors, result.lost.len() as u64);
        assert_eq!(outputs.problems.len(), result.lost.len());
        ranges += result.lost.len();
        firsts += result.lost.iter().filter(|row| row.after_b64.is_none()).count();
        let found = keys_below(&target);
        let files = found.values().filter(|is_dir| !**is_dir).count();
        assert_eq!(result.stats.files_verified, files as u64, "what is there is compared");
        for (key, is_dir) in &wanted {
            let is_there = found.get(key) == Some(is_dir);
            assert!(is_there || is_in(&result.lost, key), "{}", String::from_utf8_lossy(key));
            dirs += usize::from(*is_dir && is_there && is_in(&result.lost, key));
        }
        assert!(found.keys().all(|key| wanted.contains_key(key)));
        assert!(found.len() > wanted.len() / 3, "only {} of {}", found.len(), wanted.len());
        repo.restore_well(&snapshot, &target, json!({"overwrite": "if-changed"}));
        assert_same(&source, &target);
        std::fs::remove_dir_all(&target).unwrap();
    }
    // A page may reach from one segment into the next.
    assert!((1..=2).contains(&roots) && (1..=2).contains(&firsts), "{roots} {firsts}");
    assert!(ranges > 4, "{ranges}");
    assert!(dirs > 2, "no directory was made for what is below it: {dirs}");
}

#[test]
fn nothing_is_deleted_that_may_be_in_a_lost_page() {
    let scratch = Scratch::in_memory();
    let source = scratch.dir("source");
    make_wide_tree(&source);
    let target = scratch.dir("target");
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    repo.restore_well(&snapshot, &target, json!({}));
    let extras: Vec<_> = (0..60)
        .flat_map(|number| [format!("d{number:02}/40-extra"), format!("d{number:02}-extra")])
        .collect();
    let (pack, size) = tree_pack(&repo);
    let (mut kept, mut removed) = (0, 0);
    for at in (1000..size).step_by(64 << 10) {
        for extra in &extras {
            std::fs::write(target.join(extra), b"mine").unwrap();
        }
        repo.flip(&pack, at);
        let options = json!({"delete": true, "overwrite": "if-changed"});
        let (result, _) = repo.try_restore(&snapshot, &target, options);
        repo.flip(&pack, at);
        let lost = result.map_or_else(|_| Vec::new(), |result| result.lost);
        for extra in &extras {
            let is_there = target.join(extra).exists();
            let may_be_lost = is_in(&lost, &key(extra.as_bytes()));
            assert!(is_there || !may_be_lost, "{extra} was deleted");
            kept += usize::from(is_there && may_be_lost);
            removed += usize::from(!is_there);
        }
        assert_eq!(keys_below(&source).len() - 1, count_without(&target, "-extra"));
    }
    assert!(kept > 20 && removed > 20, "{kept} {removed}");
}

/// Entries below `top` but those whose names end so.
fn count_without(top: &Path, end: &str) -> usize {
    keys_below(top).keys().filter(|key| !key.is_empty() && !key.ends_with(end.as_bytes())).count()
}
