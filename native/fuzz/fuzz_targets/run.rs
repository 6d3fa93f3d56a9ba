//! Any bytes as an index run, whole and in parts: both readers find the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pvback_core::format::ShortId;
use pvback_core::format::run::{Run, RunParts};

fuzz_target!(|bytes: &[u8]| {
    let run = Run::parse(bytes.to_vec()).ok();
    let Ok(parts) = RunParts::parse(bytes) else {
        assert!(run.is_none());
        return;
    };
    let mut ids = vec![ShortId([0; 16]), ShortId([0x80; 16]), ShortId([0xff; 16])];
    ids.extend(run.iter().flat_map(Run::iter).map(|(id, _)| id).take(64));
    for id in ids {
        let mut probe = parts.probe(id);
        let mut reads = 0;
        let is_found = loop {
            let Some(range) = probe.wanted() else {
                break true;
            };
            reads += 1;
            assert!(reads < 1000, "a lookup without end");
            let block = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
            let Some(block) = block.and_then(|(start, end)| bytes.get(start..end)) else {
                break false;
            };
            if probe.feed(&range, block).is_err() {
                break false;
            }
        };
        if let Some(run) = &run {
            let expected: Vec<_> = run.lookup(&id).collect();
            assert!(is_found && probe.into_locations() == expected);
            // Whether the filter lets it through is up to the bytes; that it answers is not.
            let _ = parts.maybe_contains(&id);
            for location in expected {
                run.envelope(location.pack, location.offset).unwrap();
            }
        }
    }
});
