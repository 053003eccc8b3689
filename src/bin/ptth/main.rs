//! The command `ptth`: a gateway, a device, and tools. It uses only the public API of the library.
//!
//! Ready lines are written to standard output, flushed one by one. Logs are written to standard
//! error, with the level of `RUST_LOG` (default `info`). Exit codes: 0 stopped, 1 failed (a device:
//! after `--max-retries`), 2 wrong usage, 3 refused by the gateway, or by all of them (401, 403,
//! 404, 410).

#![cfg_attr(
    not(feature = "cli"),
    allow(dead_code, reason = "a device alone needs a part of what the commands share")
)]
#![allow(rustdoc::bare_urls, reason = "the doc comments of the arguments are the text of --help")]

mod addresses;
mod arguments;
mod certificate_pairs;
mod certificates;
mod config;
mod contradictions;
mod device;
mod device_status;
mod environment;
mod files;
mod local_servers;
mod log_levels;
mod output;
mod proxy;
mod secrets;
mod signals;
mod supervise;

// What only the commands beside `device` need.
#[cfg(feature = "cli")]
mod access_log;
#[cfg(feature = "cli")]
mod admin;
#[cfg(feature = "cli")]
mod call;
#[cfg(feature = "cli")]
mod check;
#[cfg(feature = "cli")]
mod cluster;
#[cfg(feature = "cli")]
mod connect;
#[cfg(feature = "cli")]
mod demo;
#[cfg(feature = "cli")]
mod gateway;
#[cfg(feature = "cli")]
mod gateway_arguments;
#[cfg(feature = "cli")]
mod listeners;
#[cfg(feature = "cli")]
mod pages;
#[cfg(feature = "cli")]
mod peers;
#[cfg(feature = "cli")]
mod reload;
#[cfg(feature = "cli")]
mod status;
#[cfg(feature = "cli")]
mod tokens;
#[cfg(feature = "cli")]
mod tools;
#[cfg(feature = "cli")]
mod visitors;
#[cfg(feature = "cli")]
mod wire;

use std::fmt::Display;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use reverse_http::Error;
use serde_json::json;

use crate::arguments::DeviceArgs;
#[cfg(feature = "cli")]
use crate::{gateway_arguments::GatewayArgs, tools::Tool};

#[derive(Parser)]
#[command(
    name = "ptth",
    version,
    about = "Reverse HTTP: reach devices behind NAT over connections that they dialled themselves",
    after_help = "Three terminals and any HTTP server on port 3000:\n  \
        ptth gateway --devices 127.0.0.1:9999 --visitors 127.0.0.1:8080\n  \
        ptth device http://127.0.0.1:9999/lamp --to http://127.0.0.1:3000\n  \
        curl -i http://127.0.0.1:8080/lamp/anything\n\n\
        Every option can also be set as an environment variable: --wait-for-link as PTTH_WAIT_FOR_LINK.\n\
        Durations are written 500ms, 10s, 5m, 1h; sizes 1048576, 512M, 1Gi. Logs go to standard error; RUST_LOG=debug shows more."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[cfg(feature = "cli")]
    /// Accept devices' connections, and let visitors reach the devices over HTTP
    Gateway(Box<GatewayArgs>),
    /// Connect to a gateway and answer its requests
    Device(Box<DeviceArgs>),
    #[cfg(feature = "cli")]
    #[command(flatten)]
    Tool(Tool),
}

/// Why the command ends: a message, if any, and the exit code.
struct Failure {
    text: String,
    code: u8,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match () {
            () if error.is_usage() => 2,
            () if error.is_refused() => 3,
            () => 1,
        };
        Failure { text: error.to_string(), code }
    }
}

/// The command line, for help texts, completions and the file of --config.
fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

fn usage(text: impl Into<String>) -> Failure {
    Failure { text: text.into(), code: 2 }
}

fn failed(text: impl Display) -> Failure {
    Failure { text: text.to_string(), code: 1 }
}

fn main() -> ExitCode {
    let done = output::start()
        .map_err(|e| failed(format_args!("starting a thread for standard output: {e}")))
        .and_then(run);
    let code = match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { text, code }) => {
            match log_levels::are_json() {
                _ if text.is_empty() => {}
                true => {
                    output::complain(json!({ "level": "ERROR", "target": "ptth", "message": text }))
                }
                false => output::complain(format_args!("ptth: {text}")),
            }
            ExitCode::from(code)
        }
    };
    output::finish();
    code
}

fn run(errors: output::Output) -> Result<(), Failure> {
    log_levels::start(errors);
    if let Err(e) = rlimit::increase_nofile_limit(u64::MAX) {
        log::debug!("the limit of open files stays as it is: {e}");
    }
    let (cli, merged) = environment::parse::<Cli>()?;
    match &cli.command {
        #[cfg(feature = "cli")]
        Command::Gateway(args) => log_levels::set_format(args.log_format),
        Command::Device(args) => log_levels::set_format(args.log_format),
        #[cfg(feature = "cli")]
        Command::Tool(_) => {}
    }
    let done = match cli.command {
        #[cfg(feature = "cli")]
        Command::Gateway(args) => gateway::run(*args, &merged),
        Command::Device(args) => device::run(*args, &merged),
        #[cfg(feature = "cli")]
        Command::Tool(tool) => tool.run(),
    };
    done.map_err(|failure| merged.located(failure))
}
