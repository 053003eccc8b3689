//! The simulated table against the scripts in a real Redis: the same questions, the same answers and
//! the same published changes. Only expiry is not compared, since the two have different clocks.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use ptth_test_support::{Process, TempDir, eventually, need, program};

use super::*;
use crate::RedisDirectory;
use crate::limits::Limits;
use crate::sim::net::{Conditions, Net};
use crate::sim::rng::Rng;

const GATEWAYS: [&str; 2] = ["http://10.0.0.1:7000", "http://10.0.0.2:7000"];
const NAMES: [&str; 2] = ["lamp", "door"];
const QUESTIONS: usize = 1_000;

/// The two tables, and which epoch of the one is which of the other.
struct Both<'a> {
    real: &'a dyn SharedTable,
    simulated: Table,
    /// Maps epochs of the real table to those of the simulated one; 0 is 0.
    epochs: BTreeMap<u64, u64>,
}

impl Both<'_> {
    fn same(&self, of: u64) -> u64 {
        self.epochs[&of]
    }

    /// Draws the next query of a gateway.
    fn ask(&mut self, rng: &mut Rng) -> String {
        let by = GATEWAYS[rng.size(0, 1)];
        let claimant = Claimant {
            credential: ["", "0c"][usize::from(rng.permille(150))].into(),
            session: ["", "01", "02", "03"][rng.size(0, 3)].into(),
        };
        let known: Vec<u64> = self.epochs.keys().copied().collect();
        let epoch = known[known.len() - 1 - (rng.skewed(known.len() as u64 - 1) as usize)];
        let name = NAMES[rng.size(0, 1)];
        match rng.range(0, 9) {
            0..=4 => self.claim(by, rng.size(1, 2), &claimant),
            5..=8 => self.renew(by, name, if rng.permille(200) { 0 } else { epoch }, claimant),
            _ => {
                self.real.release(by, &[(name.into(), epoch)]).unwrap();
                self.simulated.release(by, &[(name.into(), self.same(epoch))]).unwrap();
                format!("{by} releases {name} {epoch}")
            }
        }
    }

    fn claim(&mut self, by: &str, count: usize, claimant: &Claimant) -> String {
        let names: Vec<String> = NAMES[..count].iter().map(ToString::to_string).collect();
        let asked = format!("{by} claims {names:?} for {claimant:?}");
        let real = self.real.claim(by, &names, claimant).unwrap();
        match (real, self.simulated.claim(by, &names, claimant).unwrap()) {
            (Verdict::Granted { epoch }, Verdict::Granted { epoch: simulated }) => {
                self.epochs.insert(epoch, simulated);
            }
            (real, simulated) => assert_eq!(real, simulated, "{asked}"),
        }
        asked
    }

    fn renew(&mut self, by: &str, name: &str, epoch: u64, claimant: Claimant) -> String {
        let asked = format!("{by} renews {name} {epoch} for {claimant:?}");
        let renewal = |epoch| [Renewal { name: name.into(), epoch, claimant: claimant.clone() }];
        let simulated = self.simulated.renew(by, &renewal(self.same(epoch))).unwrap()[0];
        match (self.real.renew(by, &renewal(epoch)).unwrap()[0], simulated) {
            (Renewed::Kept { epoch }, Renewed::Kept { epoch: simulated }) => {
                let known = *self.epochs.entry(epoch).or_insert(simulated);
                assert_eq!(known, simulated, "{asked}");
            }
            (real, simulated) => assert_eq!(real, simulated, "{asked}"),
        }
        asked
    }

    fn owners(table: &dyn SharedTable) -> Vec<Vec<String>> {
        let mut found = table.find(&NAMES).unwrap();
        found.iter_mut().for_each(|owners| owners.sort_unstable());
        found
    }
}

/// Ends a thread, also if the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// A server on a Unix socket in this folder.
fn server(folder: &TempDir) -> (Process, String) {
    let (config, socket) = (folder.0.join("redis.conf"), folder.0.join("socket"));
    let (socket, within) = (socket.display().to_string(), folder.0.display());
    std::fs::write(&config, format!("port 0\nsave \"\"\nunixsocket {socket}\ndir {within}\n"))
        .unwrap();
    let mut command = Command::new(program("redis-server"));
    command.arg(&config);
    let process = Process::start(&mut command);
    eventually("the server listens", || std::os::unix::net::UnixStream::connect(&socket).ok());
    (process, socket)
}

fn compare(socket: &str, shares: bool) {
    let limits = Limits::default();
    let hour = Duration::from_secs(3600);
    let directory = RedisDirectory::new(&format!("redis+unix://{socket}")).unwrap();
    let directory = directory.prefix(if shares { "shared" } else { "own" }).unwrap();
    let real = directory.claim_time(hour).unwrap().into_table(&limits, shares);
    let simulated = Table::new(shares, hour, limits.remember);
    let epochs = BTreeMap::from([(0, 0)]);
    let mut both = Both { real: &real, simulated: simulated.clone(), epochs };
    let (listens, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    let heard = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let ends = Ends(&is_over);
        scope.spawn(|| {
            let ended = real.listen(&mut |change| {
                listens.store(true, Relaxed);
                heard.lock().unwrap().extend(change);
                !is_over.load(Relaxed)
            });
            ended.unwrap();
        });
        eventually("changes are told", || listens.load(Relaxed).then_some(()));
        let mut rng = Rng::new(u64::from(shares));
        let mut story = Vec::new();
        for _ in 0..QUESTIONS {
            story.push(both.ask(&mut rng));
            let of_two = (Both::owners(&real), Both::owners(&simulated));
            assert_eq!(of_two.0, of_two.1, "{:#?}", &story[story.len().saturating_sub(12)..]);
        }
        let expected = simulated.take_changes();
        eventually("all changes are told", || {
            (heard.lock().unwrap().len() >= expected.len()).then_some(())
        });
        drop(ends);
        let told: Vec<Change> = heard.lock().unwrap().drain(..).collect();
        let same = |change: Change| Change { epoch: both.same(change.epoch), ..change };
        assert_eq!(told.into_iter().map(same).collect::<Vec<_>>(), expected);
        assert!(expected.len() > 20, "{}", expected.len());
    });
}

#[test]
fn the_simulated_table_follows_the_rules_of_the_scripts() {
    if !need("redis-server") {
        return;
    }
    let conditions =
        Conditions { cuts: 0, refusals: 0, delay: 0, splits: false, narrow: 0, work: 0 };
    let folder = TempDir::new("table");
    let (_server, socket) = server(&folder);
    net::install(Some(Net::new(Rng::new(1), conditions, false)));
    for shares in [false, true] {
        compare(&socket, shares);
    }
    net::install(None);
}
