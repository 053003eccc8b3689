//! Slow requests at a device that polls.

use crate::support::process::get;
use crate::support::{DEADLINE, Gateway, LocalServer, Ptth, RawPeer, eventually};

/// As with links, the polls follow what is in progress: while some have a slow request in hand,
/// another is free to hear of the next one.
#[test]
fn slow_requests_keep_nobody_else_waiting() {
    for encoding in ["message", "json"] {
        let gateway = Gateway::start(&["--fallback", "only"]);
        let (release, hold) = crossbeam_channel::bounded::<()>(0);
        let local = LocalServer::with(move |c| {
            if c.head.target().starts_with("/slow") {
                let _ = hold.recv_timeout(DEADLINE * 2); // until the test lets them go
            }
            c.text("done");
        });
        let (url, to) = (gateway.device_url("lamp"), local.url());
        let device = Ptth::start(&["device", &url, "--to", &to, "--comet", encoding]);
        assert!(device.line().contains("COMET"));
        let mut slow: Vec<RawPeer> = Vec::new();
        for n in 0..8 {
            let mut visitor = gateway.visitor();
            visitor.write(get(&format!("/lamp/slow{n}")));
            slow.push(visitor);
            // One after the other, so that none of them waits while a poll is handed out.
            eventually("it is in progress", || (local.count() > 2 * n).then_some(()));
            gateway.get(&format!("/lamp/quick{n}")).expect_ok("done");
        }
        drop(release);
        slow.iter_mut().for_each(|visitor| visitor.read_answer("GET").expect_ok("done"));
    }
}
