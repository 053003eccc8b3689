//! The command: options, files, signals, exit codes, output.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on has failed

mod check;
mod checked;
mod commands;
mod config;
mod contract;
mod contradictions;
mod deployed;
mod pages;
mod peers;
mod reload;
mod supervised;
