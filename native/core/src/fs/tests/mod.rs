//! Whole trees: read with one half of this layer, put back with the other, and compared.

mod depth;
mod hostile;
mod support;
mod torture;
mod unprivileged;
