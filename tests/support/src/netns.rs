//! Network namespaces of a test's own: device, router with NAT, gateway; and what goes wrong
//! between them.
//!
//! ```text
//!   device    10.1.0.2 ── 10.1.0.1 ┐
//!                                   ├ router (masquerades, forgets and drops on demand) 10.2.0.1 ── 10.2.0.2 gateway
//!   elsewhere 10.3.0.2 ── 10.3.0.1 ┘
//! ```
//!
//! Programs start in a namespace by `ip netns exec`; a thread of the test enters one for the
//! sockets that it opens there, which stay in it. Needs root, `ip`, `nft` and `conntrack`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Process, Ptth, need, program, skipped};

/// Where the gateway is, as devices see it.
pub const GATEWAY_IP: &str = "10.2.0.2";

const PREFIX: &str = "ptth-";
const MOUNTED: &str = "/run/netns";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    Device,
    /// Another network behind the same router.
    Elsewhere,
    Router,
    Gateway,
}

const PLACES: [Permit; 4] = [Permit::Device, Permit::Elsewhere, Permit::Router, Permit::Gateway];

/// The namespaces; gone when dropped, whatever the test came to.
pub struct Net {
    prefix: String,
}

impl Net {
    /// `None` where this machine has no namespaces for us.
    pub fn new() -> Option<Net> {
        static SWEPT: Once = Once::new();
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        if !["ip", "nft", "conntrack", "sysctl"].iter().all(|tool| need(tool)) {
            return None;
        }
        SWEPT.call_once(sweep);
        let net = Net {
            prefix: format!(
                "{PREFIX}{}-{}",
                std::process::id(),
                NUMBER.fetch_add(1, Ordering::Relaxed)
            ),
        };
        let first = Command::new(program("ip"))
            .args(["netns", "add", &net.name(Permit::Router)])
            .output()
            .unwrap();
        if !first.status.success() {
            skipped("network namespaces (root is needed)");
            return None;
        }
        net.build();
        Some(net)
    }

    fn build(&self) {
        for place in PLACES {
            if place != Permit::Router {
                succeed(Command::new(program("ip")).args(["netns", "add", &self.name(place)]), "");
            }
            self.ip(place, "link set lo up");
        }
        for (place, inner, link, outer) in [
            (Permit::Device, "10.1.0.2", "lan", "10.1.0.1"),
            (Permit::Elsewhere, "10.3.0.2", "lan2", "10.3.0.1"),
            (Permit::Gateway, GATEWAY_IP, "wan", "10.2.0.1"),
        ] {
            self.ip(
                place,
                &format!(
                    "link add eth0 type veth peer name {link} netns {}",
                    self.name(Permit::Router)
                ),
            );
            self.ip(place, &format!("addr add {inner}/24 dev eth0"));
            self.ip(place, "link set eth0 up");
            self.ip(Permit::Router, &format!("addr add {outer}/24 dev {link}"));
            self.ip(Permit::Router, &format!("link set {link} up"));
            self.ip(place, &format!("route add default via {outer}"));
        }
        // A router as they are at home: what it has forgotten it drops and says nothing.
        self.nft(
            "table ip nat {
                chain post { type nat hook postrouting priority 100; oifname \"wan\" masquerade; }
            }
            table ip filter {
                counter asked { }
                chain unknown { drop; }
                chain faults { }
                chain into { type filter hook input priority 0; ct state invalid jump unknown; jump faults; }
                chain through {
                    type filter hook forward priority 0;
                    ct state invalid jump unknown;
                    iifname \"wan\" tcp flags & psh == psh counter name asked;
                    jump faults;
                }
            }",
        );
        self.sysctl("net.ipv4.ip_forward", 1);
        self.sysctl("net.netfilter.nf_conntrack_tcp_loose", 0);
    }

    fn name(&self, place: Permit) -> String {
        format!("{}-{}", self.prefix, format!("{place:?}").to_lowercase())
    }

    /// A program that runs in this place.
    pub fn command<S: AsRef<OsStr>>(&self, place: Permit, arguments: &[S]) -> Command {
        let mut command = Command::new(program("ip"));
        command.args(["netns", "exec", &self.name(place)]).args(arguments);
        command
    }

    /// `ptth` in this place.
    pub fn ptth<S: AsRef<OsStr>>(&self, place: Permit, arguments: &[S]) -> Process {
        let plain = Ptth::command(arguments);
        let mut command = self.command(place, &[plain.get_program()]);
        command.args(plain.get_args());
        for (variable, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
        }
        Process::start(&mut command)
    }

    /// What `work` does is done in this place: the sockets that it opens, and the threads that it
    /// starts, stay there.
    #[track_caller]
    pub fn inside<T: Send>(&self, place: Permit, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(Path::new(MOUNTED).join(self.name(place))).unwrap();
        let done = std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .unwrap();
                work()
            });
            thread.join()
        });
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// `ip` with these words, in this place.
    #[track_caller]
    pub fn ip(&self, place: Permit, words: &str) {
        succeed(
            Command::new(program("ip")).args(["-n", &self.name(place)]).args(words.split(' ')),
            "",
        );
    }

    #[track_caller]
    fn nft(&self, rules: &str) -> String {
        succeed(
            &mut self.command(
                Permit::Router,
                &[program("nft").as_os_str(), "-f".as_ref(), "-".as_ref()],
            ),
            rules,
        )
    }

    /// Sets what the router's kernel does.
    #[track_caller]
    pub fn sysctl(&self, name: &str, value: u32) {
        let (tool, setting) = (program("sysctl"), format!("{name}={value}"));
        succeed(
            &mut self
                .command(Permit::Router, &[tool.as_os_str(), "-qw".as_ref(), setting.as_ref()]),
            "",
        );
    }

    /// The router forgets every connection that it has translated.
    #[track_caller]
    pub fn forget(&self) {
        let tool = program("conntrack");
        succeed(
            &mut self.command(
                Permit::Router,
                &[tool.as_os_str(), "-D".as_ref(), "-p".as_ref(), "tcp".as_ref()],
            ),
            "",
        );
    }

    /// From now on the router does this to packets, one rule a line; what it did before is over.
    #[track_caller]
    pub fn fault(&self, rules: &[&str]) {
        let added: Vec<String> =
            rules.iter().map(|rule| format!("add rule ip filter faults {rule}\n")).collect();
        self.nft(&format!("flush chain ip filter faults\n{}", added.concat()));
    }

    /// What the router forwards it forwards again.
    #[track_caller]
    pub fn heal(&self) {
        self.fault(&[]);
    }

    /// What becomes of packets of connections that the router does not know.
    #[track_caller]
    pub fn unknown(&self, verdict: &str) {
        self.nft(&format!("flush chain ip filter unknown\nadd rule ip filter unknown {verdict}\n"));
    }

    /// Packets with something to read that came from the gateway's side.
    #[track_caller]
    pub fn asked(&self) -> u64 {
        let told = self.nft("list counter ip filter asked\n");
        let number = told
            .split_once("packets ")
            .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
        number.unwrap_or_else(|| panic!("no counter in {told}"))
    }

    fn files(&self, place: Permit) -> PathBuf {
        Path::new("/etc/netns").join(self.name(place))
    }

    /// What programs that start in this place find in /etc/hosts; written again it changes for them
    /// while they run.
    pub fn hosts(&self, place: Permit, text: &str) {
        std::fs::create_dir_all(self.files(place)).unwrap();
        std::fs::write(self.files(place).join("hosts"), text).unwrap();
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for place in PLACES {
            remove(&self.name(place));
        }
    }
}

/// A namespace, and the files that were shown in it. What is not there is removed already.
fn remove(name: &str) {
    let _ = Command::new(program("ip")).args(["netns", "del", name]).stderr(Stdio::null()).status();
    let _ = std::fs::remove_dir_all(Path::new("/etc/netns").join(name));
}

/// Removes what tests left behind whose process was killed.
fn sweep() {
    let listed = [MOUNTED, "/etc/netns"]
        .into_iter()
        .filter_map(|dir| std::fs::read_dir(dir).ok())
        .flatten()
        .flatten();
    for name in listed.map(|entry| entry.file_name().to_string_lossy().into_owned()) {
        let owner =
            name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            remove(&name);
        }
    }
}

/// Runs a program with this input to its end; what it printed.
#[track_caller]
fn succeed(command: &mut Command, input: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes()); // one that does not read it says why
    let done = child.wait_with_output().unwrap();
    assert!(
        done.status.success(),
        "{command:?}: {}\n{input}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8_lossy(&done.stdout).into_owned()
}

#[test]
fn what_a_killed_test_left_behind_is_swept_away() {
    let Some(own) = Net::new() else { return };
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let name = format!("{PREFIX}{}-0-device", child.id());
    succeed(Command::new(program("ip")).args(["netns", "add", &name]), "");
    sweep();
    assert!(!Path::new(MOUNTED).join(&name).exists());
    assert!(Path::new(MOUNTED).join(own.name(Permit::Router)).exists(), "those in use stay");
}
