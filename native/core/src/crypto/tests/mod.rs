//! Tests of sealing and keys: published and given vectors, roles, and what must not open.
#![expect(
    clippy::indexing_slicing,
    clippy::similar_names,
    clippy::cast_possible_truncation,
    clippy::reversed_empty_ranges,
    reason = "small numbers of tests"
)]

mod blob;
mod object;
mod packs;
mod roles;
mod signatures;
mod stretch;
mod vectors;
