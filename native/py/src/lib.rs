//! Python binding of the data path.
