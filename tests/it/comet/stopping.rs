//! Devices that stop while they poll, among visitors that go on asking.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use crate::support::process::get;
use crate::support::{Gateway, LocalServer, Process, Ptth, eventually};

/// With a device of the same name that stays, nobody waits for one that has gone; what just then
/// was on its way is answered 503, since nothing of it ran.
#[test]
fn no_visitor_waits_for_a_device_that_stops_while_it_polls() {
    let gateway =
        Gateway::start(&["--fallback", "only", "--shared-names", "--wait-for-link", "9s"]);
    let local = LocalServer::start();
    let device = || -> Process {
        let (url, to) = (gateway.device_url("lamp"), local.url());
        let device = Ptth::start(&["device", &url, "--to", &to, "--polls", "2"]);
        assert!(device.line().contains("COMET"));
        device
    };
    let _stays = device();
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut visitor = gateway.visitor();
                while !over.load(SeqCst) {
                    let answer = visitor.ask(&get("/lamp/x"));
                    assert!(matches!(answer.status(), 200 | 503), "{}", answer.text());
                    served.fetch_add(1, SeqCst);
                }
            });
        }
        let _over = Over(&over);
        for _ in 0..5 {
            let mut leaves = device();
            let before = served.load(SeqCst);
            eventually("visitors are served", || (served.load(SeqCst) > before + 20).then_some(()));
            leaves.signal("TERM");
            assert_eq!(leaves.exit_code(), 0, "{}", leaves.stderr());
        }
    });
}

/// Says that all is over, also where a test has failed.
struct Over<'o>(&'o AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}
