//! Whole trees: read with one half of this layer, put back with the other, and compared.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod depth;
mod hostile;
mod support;
mod torture;
mod unprivileged;
