//! Restores through the whole data path: a source on disk, a backup into a store in memory, and back.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by it, and helpers of tests are not seen as such"
)]
#![expect(unreachable_pub, reason = "helpers of one test program")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::needless_pass_by_value,
    reason = "small numbers of tests, and JSON that is put together where it is passed"
)]

mod asking;
mod faults;
mod in_place;
mod index;
mod journal;
mod links;
mod selected;
mod single;
mod support;
mod trees;
