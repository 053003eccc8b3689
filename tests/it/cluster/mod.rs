//! Several gateways: a request that comes to one of them reaches a device of another in one hop.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on has failed

mod check;
mod directory;
mod find;
mod floods;
mod hops;
mod hung;
mod kept;
mod options;
mod programs;
#[cfg(feature = "redis")]
pub mod shared;
mod trust;
pub mod view;

use crate::support::{Gateway, Process, Ptth, TempDir};

/// Gateways as processes, each with a directory of its own, and all with one secret.
pub struct Cluster {
    pub folder: TempDir,
}

pub const SECRET: &str = "the-secret-of-this-cluster";

impl Cluster {
    pub fn new() -> Cluster {
        let folder = TempDir::new("cluster");
        std::fs::write(folder.0.join("secret"), format!("{SECRET}\n")).unwrap();
        Cluster { folder }
    }

    pub fn path(&self, file: &str) -> String {
        self.folder.0.join(file).display().to_string()
    }

    /// Says for one gateway where devices are.
    pub fn say(&self, of: &str, lines: &str) {
        std::fs::write(self.folder.0.join(of), lines).unwrap();
    }

    /// A gateway of this name; the URL of its peers' listener.
    #[track_caller]
    pub fn gateway(&self, name: &str, more: &[&str]) -> (Gateway, String) {
        if !self.folder.0.join(name).exists() {
            self.say(name, "# nothing\n");
        }
        let (directory, secret) = (format!("file:{}", self.path(name)), self.path("secret"));
        let options =
            ["--peers", "127.0.0.1:0", "--directory", &directory, "--peer-secret", &secret];
        let gateway = Gateway::start(&[&options[..], more].concat());
        let url = peers_of(&gateway.process);
        (gateway, url)
    }
}

/// The ready line of other gateways.
#[track_caller]
pub fn peers_of(process: &Process) -> String {
    process.line().strip_prefix("peers ").expect("a line peers URL").to_owned()
}

/// The address in a URL.
#[track_caller]
pub fn at(url: &str) -> std::net::SocketAddr {
    url.split_once("://").expect("a URL").1.parse().unwrap()
}

/// A device with a short back-off.
#[track_caller]
pub fn device(gateway: &Gateway, name: &str, to: &str) -> Process {
    Ptth::device(gateway, name, &["--to", to])
}
