//! Discovery.
mod names;
