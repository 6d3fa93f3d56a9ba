//! Restores through the whole data path: a source on disk, a backup into a store in memory, and back.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub)]
// Small numbers of tests, and JSON that is put together where it is passed.
#![allow(clippy::cast_possible_truncation, clippy::needless_pass_by_value)]

mod faults;
mod in_place;
mod index;
mod journal;
mod links;
mod selected;
mod single;
mod speed;
mod support;
mod trees;
