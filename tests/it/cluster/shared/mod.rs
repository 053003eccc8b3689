//! A table in Redis that gateways share: the server is a real one, started on a Unix socket or a free
//! port of its own.

mod balancers;
mod claims;
mod crashes;
mod emptied;
mod error_texts;
mod failures;
mod hostile;
#[cfg(target_os = "linux")]
mod partitions;
mod reload;
mod servers;
mod stale;
mod takeovers;
mod twins;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use http::Response;
use reverse_http::{Body, Device, DeviceHandle, Gateway, Limits, Peers, RedisDirectory, Routes};

use crate::support::{Process, RawPeer, TempDir, eventually, free_port, need, program};

/// A server with nothing in it.
pub struct Redis {
    // Ends first.
    pub process: Process,
    pub port: u16,
    folder: TempDir,
    options: Vec<String>,
}

impl Redis {
    /// `None`: it is not installed, and the test is skipped.
    pub fn start(options: &[&str]) -> Option<Redis> {
        if !need("redis-server") {
            return None;
        }
        let (folder, port) = (TempDir::new("redis"), free_port());
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        let process = run(port, &folder, &options);
        Some(Redis { process, port, folder, options })
    }

    /// The same server again, without what it knew.
    pub fn restart(&mut self) {
        self.process.signal("KILL");
        eventually("it has ended", || self.process.has_ended().then_some(()));
        self.process = run(self.port, &self.folder, &self.options);
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn socket(&self) -> String {
        self.folder.0.join("socket").display().to_string()
    }

    /// What the server answers, a line for each value.
    #[track_caller]
    pub fn ask(&self, words: &[&str]) -> String {
        let mut asked = Command::new(program("redis-cli"));
        asked.args(["-s", &self.socket()]).args(words);
        let output = asked.output().expect("redis-cli comes with redis-server");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// The gateways that have this name, as the table says.
    #[track_caller]
    pub fn owners(&self, name: &str) -> Vec<String> {
        let fields = self.ask(&["HKEYS", &format!("ptth:n:{name}")]);
        fields.lines().filter(|line| line.starts_with("http")).map(str::to_owned).collect()
    }
}

#[track_caller]
fn run(port: u16, folder: &TempDir, options: &[String]) -> Process {
    let socket = folder.0.join("socket");
    let mut command = Command::new(program("redis-server"));
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.args(["--appendonly", "no", "--dir", &folder.0.display().to_string()]);
    command.args([
        "--unixsocket",
        &socket.display().to_string(),
        "--daemonize",
        "no",
        "--repl-diskless-sync-delay",
        "0",
    ]);
    command.args(options);
    let process = Process::start(&mut command);
    eventually("the server answers", || {
        let asked = Command::new(program("redis-cli")).arg("-s").arg(&socket).arg("PING").output();
        let text = String::from_utf8(asked.unwrap().stdout).unwrap();
        (text.contains("PONG") || text.contains("NOAUTH")).then_some(())
    });
    process
}

/// A gateway in this process.
pub struct One {
    pub gateway: Gateway,
    pub visitors: SocketAddr,
    pub url: String,
}

impl One {
    pub fn of(redis: &Redis) -> One {
        One::with(Limits::default(), RedisDirectory::new(&redis.url()).unwrap())
    }

    pub fn with(limits: Limits, directory: RedisDirectory) -> One {
        One::built(crate::support::gateway().limits(limits), directory)
    }

    pub fn built(builder: reverse_http::GatewayBuilder, directory: RedisDirectory) -> One {
        let gateway =
            builder.peers(Peers::shared_in(directory)).listen("127.0.0.1:0").start().unwrap();
        let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap();
        let url = format!("http://{}", gateway.listen_peers("127.0.0.1:0").unwrap());
        One { gateway, visitors, url }
    }

    pub fn device_url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.gateway.devices_addr())
    }

    /// A device that is connected.
    pub fn device(&self, name: &str, says: &'static str) -> DeviceHandle {
        let device = dial(&self.device_url(name), says);
        self.gateway.device(name).wait_connected(Duration::from_secs(20)).unwrap();
        device
    }

    pub fn ask(&self, request: impl AsRef<[u8]>) -> crate::support::Answer {
        let mut visitor = RawPeer::connect(self.visitors);
        visitor.deadline = Duration::from_secs(30);
        visitor.write(request);
        visitor.read_answer("GET")
    }

    /// Waits until every device of this gateway is in the table.
    #[track_caller]
    pub fn is_noted(&self, names: usize) {
        eventually("the devices are in the table", || {
            let status = self.gateway.directory_status().unwrap();
            (status.claimed == names && status.unclaimed == 0 && status.away.is_none())
                .then_some(())
        });
    }
}

pub fn dial(url: &str, says: &'static str) -> DeviceHandle {
    built(url).spawn(move |_| Response::new(Body::from(says))).unwrap()
}

pub fn built(url: &str) -> Device {
    let quick = Duration::from_millis(5)..Duration::from_millis(50);
    Device::builder(url).backoff(quick).build().unwrap()
}
