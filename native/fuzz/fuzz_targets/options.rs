//! Any text as the options of every verb. Nothing is started: some would write.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pvback_core::backup::BackupOptions;
use pvback_core::globs::Globs;
use pvback_core::look::check::CheckOptions;
use pvback_core::look::diff::DiffOptions;
use pvback_core::look::find::FindOptions;
use pvback_core::look::limits::LimitsOptions;
use pvback_core::look::list::ListOptions;
use pvback_core::look::stats::StatsOptions;
use pvback_core::restore::{DumpOptions, RestoreOptions};
use pvback_core::tree::Root;
use serde_json::from_str;

fuzz_target!(|text: &str| {
    if let Ok(options) = from_str::<BackupOptions>(text) {
        for earlier in [&options.parent, &options.resume].into_iter().flatten() {
            let _ = Root::try_from(&earlier.root);
        }
        let _ = Globs::new(&options.excludes);
    }
    if let Ok(options) = from_str::<RestoreOptions>(text) {
        let _ = Globs::new(&options.includes);
        assert!(from_str::<DumpOptions>(text).is_ok() || text.contains("path_b64"));
    }
    if let Ok(options) = from_str::<ListOptions>(text) {
        let _ = Root::try_from(&options.tree.root);
    }
    if let Ok(options) = from_str::<FindOptions>(text) {
        let _ = Globs::new(&options.patterns);
    }
    let _ = from_str::<CheckOptions>(text);
    let _ = from_str::<DiffOptions>(text);
    let _ = from_str::<LimitsOptions>(text);
    let _ = from_str::<StatsOptions>(text);
});
