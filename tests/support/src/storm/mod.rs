//! Storms of any size: small in the tests, full in `benches/storm.rs`.

pub mod cuts;
pub mod group;
pub mod scenes;
