//! Stores that have lost, damaged or refuse something.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pvback_core::{Error, ErrorKind};
use serde_json::json;

use crate::support::{Repo, Scratch, assert_same, b64, noise};

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

#[test]
fn a_damaged_tree_page_is_told_and_nothing_is_deleted() {
    let scratch = Scratch::in_memory();
    let source = scratch.dir("source");
    // Long names that do not compress make many pages.
    for number in 0..8000 {
        let random = blake3::hash(&noise(number, 8));
        let name = format!("{number:05}-{random}-{random}-{random}");
        std::fs::write(source.join(name), format!("{number}")).unwrap();
    }
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    let target = scratch.dir("target");
    repo.restore_well(&snapshot, &target, json!({}));
    std::fs::write(target.join("zzz"), b"perhaps in the lost part").unwrap();
    let meta: Vec<String> = {
        let objects = repo.objects.lock().unwrap();
        objects.keys().filter(|key| key.contains("/meta/")).cloned().collect()
    };
    assert_eq!(meta.len(), 1);
    let mut told = 0;
    let size = repo.objects.lock().unwrap()[&meta[0]].len();
    for at in (1000..size).step_by(size / 8) {
        repo.flip(&meta[0], at);
        let (result, outputs) = repo.try_restore(
            &snapshot,
            &target,
            json!({"delete": true, "overwrite": "if-changed"}),
        );
        match result {
            Ok(result) => told += result.errors,
            Err(error) => assert_eq!(error.kind, ErrorKind::Damaged),
        }
        assert!(outputs.problems.len() <= 1);
        if !outputs.problems.is_empty() {
            assert!(target.join("zzz").exists());
        }
        repo.flip(&meta[0], at);
        std::fs::write(target.join("zzz"), b"perhaps in the lost part").unwrap();
    }
    assert!(told > 0);
}
