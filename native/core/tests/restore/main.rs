//! Restores through the whole data path: a source on disk, a backup into a store in memory, and back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod faults;
mod in_place;
mod journal;
mod links;
mod selected;
mod single;
mod speed;
mod support;
mod trees;
