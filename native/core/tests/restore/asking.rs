//! What is asked of a store, and when.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use pvback_core::crypto::object::HEADER_BYTES;
use pvback_core::{Error, ErrorKind};
use serde_json::json;

use super::support::{Repo, Scratch, noise};

#[test]
fn the_header_of_a_pack_and_what_it_opens_are_on_their_way_at_once() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    std::fs::write(source.join("file"), noise(1, 200_000)).unwrap();
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    let asked = Arc::new((Mutex::new(BTreeSet::new()), Condvar::new()));
    *repo.fault.lock().unwrap() = Some(Arc::new(move |key, length| {
        let (ranges, changed) = &*asked;
        let mut ranges = ranges.lock().unwrap();
        if length != HEADER_BYTES as u64 {
            ranges.insert(key.to_owned());
            changed.notify_all();
            return None;
        }
        // A header is not given before a range of its pack was asked for.
        let is_missing = |ranges: &mut BTreeSet<String>| !ranges.contains(key);
        let limit = Duration::from_secs(20);
        let (_ranges, waited) = changed.wait_timeout_while(ranges, limit, is_missing).unwrap();
        waited.timed_out().then(|| Error::new(ErrorKind::Storage, "the header comes first"))
    }));
    repo.restore_well(&snapshot, &scratch.dir("target"), json!({}));
}
