//! The command `ptth`: a gateway, a device, and a demonstration, on the public API of the library
//! alone.
//!
//! Ready lines go to standard output, one each, flushed; logs go to standard error, level by
//! `RUST_LOG` (default `info`). Exit codes: 0 stopped, 1 failed (a device: after `--max-retries`),
//! 2 wrong usage, 3 refused by the gateway, or by all of them (401, 403, 404, 410).

#![allow(rustdoc::bare_urls, reason = "the doc comments of the arguments are the text of --help")]

mod access_log;
mod addresses;
mod admin;
mod arguments;
mod board;
mod call;
mod certificates;
mod check;
mod cluster;
mod config;
mod connect;
mod contradictions;
mod demo;
mod device;
mod environment;
mod files;
mod gateway;
mod levels;
mod listeners;
mod local_servers;
mod output;
mod pages;
mod pairs;
mod peers;
mod proxy;
mod reload;
mod secrets;
mod signals;
mod status;
mod supervise;
mod tokens;
mod visitors;
mod wire;

use std::fmt::Display;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use reverse_http::Error;
use serde_json::json;

use crate::arguments::{DeviceArgs, GatewayArgs};
use crate::call::CallArgs;
use crate::check::CheckArgs;
use crate::cluster::ClusterArgs;
use crate::connect::ConnectArgs;
use crate::status::{HealthArgs, StatusArgs};

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
    /// Accept devices' connections, and let visitors reach the devices over HTTP
    Gateway(Box<GatewayArgs>),
    /// Connect to a gateway and answer its requests
    Device(Box<DeviceArgs>),
    /// Make a token for devices or visitors: prints it, then the line for the gateway's file of
    /// tokens
    Token {
        /// The names it is for: device names, origins, `*` (any device), https://*.example (any
        /// host one label below)
        names: String,
        /// Its name in logs and lists
        #[arg(long, value_name = "TEXT")]
        label: Option<String>,
        /// Its last valid day, in UTC, like 2026-12-31 (default: it does not expire)
        #[arg(long, value_name = "DATE")]
        expires: Option<String>,
    },
    /// Show a gateway's devices, or one of them, by its --admin: a table, or JSON
    Status(StatusArgs),
    /// Check by its --admin whether a gateway serves: exit code 0, else 1 (for containers)
    Health(HealthArgs),
    /// Connect to a gateway as a device would, step by step, and report faults
    Check(Box<CheckArgs>),
    /// Go the way of a gateway to the directory and to the other gateways, and say what is wrong:
    /// ptth cluster check --config FILE
    Cluster(Box<ClusterArgs>),
    /// Send one request to a device, as a visitor: ptth call lamp GET /status
    Call(Box<CallArgs>),
    /// Connect to a TCP target of a device: as ProxyCommand of ssh, or with -L from a port of this
    /// machine
    Connect(Box<ConnectArgs>),
    /// Print completions for a shell: source <(ptth completions bash)
    Completions {
        #[arg(value_enum)]
        shell: pages::For,
    },
    /// Print a manual page, or write all: ptth man gateway | man -l -
    Man(pages::ManArgs),
    /// Run a gateway, a device and one request in this process, print their bytes, and exit
    Demo,
}

/// Why the command ends: what to say, if anything, and the exit code.
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

/// The command line, as help texts, completions and the file of --config know it.
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
            match levels::are_json() {
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
    levels::start(errors);
    if let Err(e) = rlimit::increase_nofile_limit(u64::MAX) {
        log::debug!("the limit of open files stays as it is: {e}");
    }
    let (cli, merged) = environment::parse::<Cli>()?;
    match &cli.command {
        Command::Gateway(args) => levels::set_format(args.log_format),
        Command::Device(args) => levels::set_format(args.log_format),
        _ => {}
    }
    let done = match cli.command {
        Command::Gateway(args) => gateway::run(*args, &merged),
        Command::Device(args) => device::run(*args, &merged),
        Command::Token { names, label, expires } => {
            tokens::print_new(&names, expires.as_deref(), label.as_deref())
        }
        Command::Status(args) => status::status(&args),
        Command::Health(args) => status::health(&args),
        Command::Check(args) => check::run(*args),
        Command::Cluster(args) => cluster::run(&args),
        Command::Call(args) => call::run(*args),
        Command::Connect(args) => connect::run(*args),
        Command::Completions { shell } => pages::completions(shell),
        Command::Man(args) => pages::man(&args),
        Command::Demo => demo::run(),
    };
    done.map_err(|failure| merged.located(failure))
}
