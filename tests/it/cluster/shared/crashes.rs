//! The gateway that has a device is killed under load.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::Redis;
use crate::support::{Gateway, LocalServer, Over, Ptth, RawPeer, TempDir, eventually, say};

/// Gateways as processes that share a table.
pub struct Processes {
    folder: TempDir,
    url: String,
}

impl Processes {
    pub fn of(redis: &Redis) -> Processes {
        let folder = TempDir::new("processes");
        std::fs::write(folder.0.join("secret"), "the-secret-of-this-cluster\n").unwrap();
        Processes { folder, url: redis.url() }
    }

    /// The options of a gateway.
    pub fn options(&self) -> Vec<String> {
        let secret = self.folder.0.join("secret").display().to_string();
        let options =
            ["--peers", "127.0.0.1:0", "--peer-secret", &secret, "--directory", &self.url];
        options.map(str::to_owned).into()
    }

    #[track_caller]
    pub fn start(&self) -> Gateway {
        let options = self.options();
        let gateway = Gateway::start(&options.iter().map(String::as_str).collect::<Vec<_>>());
        gateway.process.line_like("peers ");
        gateway
    }
}

/// A request, and what became of it.
struct Asked {
    began: Instant,
    ended: Instant,
    failure: Option<String>,
}

/// Asks one request after the other, each second one a POST with a number of its own.
fn visit(of: &Gateway, who: usize, stop: &AtomicBool) -> Vec<Asked> {
    let (mut all, mut number) = (Vec::new(), 0);
    while !stop.load(SeqCst) {
        number += 1;
        let began = Instant::now();
        let method = ["GET", "POST"][number % 2];
        let came = catch_unwind(AssertUnwindSafe(|| {
            let mut visitor = RawPeer::connect(of.visitors);
            visitor.deadline = Duration::from_secs(60);
            visitor.write(format!(
                "{method} /lamp/{who}-{number} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            ));
            visitor.read_answer_or_cut(method)
        }));
        let failure = match came {
            Ok(Ok(answer))
                if answer.status() == 200 && answer.text() == format!("/{who}-{number}") =>
            {
                None
            }
            Ok(Ok(answer)) => Some(format!("{} {}", answer.head.text(), answer.text())),
            Ok(Err(_)) => Some("cut".to_owned()),
            Err(_) => Some("no answer".to_owned()),
        };
        all.push(Asked { began, ended: Instant::now(), failure });
    }
    all
}

#[test]
fn a_gateway_that_is_killed_loses_what_was_in_flight_alone() {
    let Some(redis) = Redis::start(&[]) else { return };
    let ran: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let runs = ran.clone();
    let local = LocalServer::with(move |c| {
        let (method, target) = (c.head.method().to_owned(), c.head.target().to_owned());
        if method == "POST" {
            *runs.lock().unwrap().entry(target.clone()).or_default() += 1;
        }
        c.text(target);
    });
    let cluster = Processes::of(&redis);
    let [mut first, second, third] = [(); 3].map(|()| cluster.start());
    let device = Ptth::start(&[
        "device",
        &first.device_url("lamp"),
        "--gateway",
        &second.device_url("lamp"),
        "--failover",
        "--to",
        &local.url(),
        "--backoff",
        "10ms..200ms",
    ]);
    device.line_like("connected");
    let stop = AtomicBool::new(false);
    let (killed, all): (Instant, Vec<Vec<Asked>>) = std::thread::scope(|scope| {
        let (third, stop) = (&third, &stop);
        let _over = Over(stop);
        let visitors: Vec<_> =
            (0..4).map(|who| scope.spawn(move || visit(third, who, stop))).collect();
        std::thread::sleep(Duration::from_secs(1)); // of load
        first.process.signal("KILL");
        eventually("the signal has ended it", || first.process.has_ended().then_some(()));
        let killed = Instant::now();
        device.line_like("connected");
        std::thread::sleep(Duration::from_secs(2)); // of load
        stop.store(true, SeqCst);
        (killed, visitors.into_iter().map(|visitor| visitor.join().unwrap()).collect())
    });
    let all: Vec<&Asked> = all.iter().flatten().collect();
    let failed: Vec<&&Asked> = all.iter().filter(|asked| asked.failure.is_some()).collect();
    let served = all.iter().filter(|asked| asked.began > killed && asked.failure.is_none());
    let again = served.map(|asked| asked.ended).min().expect("it is served again");
    let slowest = all.iter().map(|asked| asked.ended - asked.began).max().unwrap();
    say(&format!(
        "a gateway was killed under load: served again after {:?}; {} requests, {} failed, slowest {slowest:?}",
        again - killed,
        all.len(),
        failed.len(),
    ));
    for asked in failed {
        assert!(
            asked.began <= killed,
            "{:?} after it was killed: {:?}",
            asked.began - killed,
            asked.failure
        );
    }
    let twice: Vec<_> =
        ran.lock().unwrap().iter().filter(|(_, n)| **n > 1).map(|(t, _)| t.clone()).collect();
    assert!(twice.is_empty(), "{twice:?} ran twice");
}
