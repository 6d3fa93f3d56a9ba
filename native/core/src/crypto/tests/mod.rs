//! Tests of sealing and keys: published and given vectors, roles, and what must not open.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::similar_names,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::reversed_empty_ranges
)]

mod blob;
mod object;
mod packs;
mod roles;
mod signatures;
mod vectors;
