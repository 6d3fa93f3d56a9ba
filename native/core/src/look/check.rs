//! Whether a repository still holds what its snapshots need.
