//! `ptth device`: what it dials, offers and answers, and the files it serves.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on has failed

mod aliases;
mod demand;
mod dialling;
mod fields;
mod files;
mod leaving;
mod names;
mod proxies;
mod reach;
mod servers;
mod silence;
mod tcp;
mod wire;
