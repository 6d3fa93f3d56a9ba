//! A backup that cannot go on ends, whatever its stages hold at that moment.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by it, and helpers of tests are not seen as such"
)]

mod support;

use std::fs;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use pvback_core::ErrorKind;
use serde_json::json;
use support::{Repository, noise};
use tempfile::TempDir;

/// Far longer than any of these takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn files(bytes: usize, count: u64) -> TempDir {
    let scratch = tempfile::tempdir().unwrap();
    for number in 0..count {
        fs::write(scratch.path().join(format!("{number:05}")), noise(number, bytes)).unwrap();
    }
    scratch
}

/// Backs up with a store that fails after so many packs, with little memory, so that every budget is used up
/// when that happens.
fn ends(source: &Path, puts: usize) {
    let (sender, receiver) = channel();
    let source = source.to_owned();
    let worker = std::thread::spawn(move || {
        let mut repository = Repository::new(64 << 10);
        repository.store.fail_after(Some(puts));
        let more = json!({"memory_bytes": 64 << 20, "pack_bytes": 4 << 20});
        let result = repository.try_backup("s", &source, &more).map(drop);
        sender.send(result.unwrap_err().kind).unwrap();
    });
    match receiver.recv_timeout(PATIENCE) {
        Ok(kind) => {
            assert_eq!(kind, ErrorKind::Storage);
            worker.join().unwrap();
        }
        Err(gone) => panic!("after {puts} packs the backup does not end: {gone}"),
    }
}

#[test]
fn with_small_files() {
    let source = files(15_000, 3_000);
    // Which stage holds what at the moment of the failure differs from time to time.
    for puts in [0, 0, 0, 1, 1, 2, 0, 0, 1, 3] {
        ends(source.path(), puts);
    }
}

#[test]
fn with_large_files() {
    let source = files(9 << 20, 4);
    for puts in [0, 1, 3] {
        ends(source.path(), puts);
    }
}
