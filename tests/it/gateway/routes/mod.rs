//! Who is believed and where a request goes: `--trusted-proxies`, `--forwarded`, `--config` with
//! its table, and SIGHUP, from outside.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod edits;
mod file;
mod rates;
mod replies;
mod rewrites;
mod table;
mod trust;

use std::path::PathBuf;

use crate::support::{Answer, Gateway, TempDir, eventually};

fn ask_host(host: &str, target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")
}

/// The reason of a refusal, which its body and `Proxy-Status` have to tell alike.
#[track_caller]
fn reason(answer: &Answer, status: u16, error: &str) -> String {
    answer.expect_refusal(status);
    let reason = answer.text().trim_end().to_owned();
    let expected = format!("ptth; error={error}; details=\"{reason}\"");
    assert_eq!(answer.head.get("proxy-status"), Some(expected.as_str()), "{}", answer.head.text());
    reason
}

/// A file of routes that a test writes and changes.
struct Config {
    dir: TempDir,
}

impl Config {
    fn new(text: &str) -> Config {
        let config = Config { dir: TempDir::new("routes") };
        config.write(text);
        config
    }
    fn path(&self) -> PathBuf {
        self.dir.0.join("routes.toml")
    }
    fn write(&self, text: &str) {
        std::fs::write(self.path(), text).unwrap();
    }
    #[track_caller]
    fn gateway(&self, more: &[&str]) -> Gateway {
        Gateway::start(&[&["--config", self.path().to_str().unwrap()], more].concat())
    }
    /// Writes another table and waits until `gateway` has read it, or has said why it does not.
    #[track_caller]
    fn reload(&self, gateway: &Gateway, text: &str) {
        self.write(text);
        hang_up(gateway);
    }
}

/// SIGHUP, and its line in the log.
#[track_caller]
fn hang_up(gateway: &Gateway) {
    let lines = || {
        let said = [" read from ", "the routes stay as they were", "nothing to read again"];
        gateway
            .process
            .stderr()
            .lines()
            .filter(|line| said.iter().any(|said| line.contains(said)))
            .count()
    };
    let before = lines();
    gateway.process.signal("HUP");
    eventually("the gateway says what became of SIGHUP", || (lines() > before).then_some(()));
}
