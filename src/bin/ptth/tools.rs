//! The commands for operators, apart from gateway and device.

use clap::Subcommand;

use crate::call::CallArgs;
use crate::check::CheckArgs;
use crate::cluster::ClusterArgs;
use crate::connect::ConnectArgs;
use crate::status::{HealthArgs, StatusArgs};
use crate::{Failure, call, check, cluster, connect, demo, pages, status, tokens};

#[derive(Subcommand)]
pub(crate) enum Tool {
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
    /// Go the way of a gateway to the directory and to the other gateways, and say what is wrong, or
    /// where a device is: ptth cluster check --config FILE, ptth cluster find NAME --config FILE
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

impl Tool {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self {
            Tool::Token { names, label, expires } => {
                tokens::print_new(&names, expires.as_deref(), label.as_deref())
            }
            Tool::Status(args) => status::status(&args),
            Tool::Health(args) => status::health(&args),
            Tool::Check(args) => check::run(*args),
            Tool::Cluster(args) => cluster::run(&args),
            Tool::Call(args) => call::run(*args),
            Tool::Connect(args) => connect::run(*args),
            Tool::Completions { shell } => pages::completions(shell),
            Tool::Man(args) => pages::man(&args),
            Tool::Demo => demo::run(),
        }
    }
}
