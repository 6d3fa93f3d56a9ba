//! Restores through the whole data path: a source on disk, a backup into a store in memory, and back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::default_trait_access,
    clippy::format_collect,
    clippy::items_after_statements,
    clippy::needless_for_each,
    clippy::needless_pass_by_value,
    clippy::similar_names,
    clippy::unchecked_time_subtraction,
    reason = "numbers and values made up here are small and used once"
)]

mod faults;
mod in_place;
mod journal;
mod links;
mod selected;
mod single;
mod speed;
mod support;
mod trees;
