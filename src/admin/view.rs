//! A snapshot of the gateway, which its event loops give in pieces: at most twice a second, however
//! many operators look.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::Sender;

use crate::admin::feed::Feed;
use crate::gateway::loops::Loops;
use crate::gateway::observation::LINKS_MAX;
use crate::gateway::peer_table::PeerRow;
use crate::gateway::peers::{Cluster, DirectoryRow};
use crate::gateway::questions::{DeviceHistory, DeviceRow, LinkRow, Process, Question};
use crate::gateway::settings::InForce;
use crate::gateway::state::Command;
use crate::gateway::stats::Stats;
use crate::gateway::{Gateway, GatewayStats};
use crate::limits::{Limits, PEERS_MAX};
use crate::proto::turn::Name;

/// Maximum age of a snapshot.
const FRESH: Duration = Duration::from_millis(500);
/// How long the operator waits for the loop, for all pieces together.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The loop has ended, or hangs.
#[derive(Debug)]
pub(super) struct Silent;

/// URLs of gateways, or why they are not known.
pub(super) type Elsewhere = Result<Vec<String>, String>;

/// A snapshot of the gateway.
pub(super) struct Snapshot {
    pub(super) at: Instant,
    pub(super) wall: SystemTime,
    pub(super) devices: Vec<DeviceRow>,
    pub(super) process: Process,
    pub(super) stats: GatewayStats,
    /// `None` if it knows no other gateways.
    pub(super) cluster: Option<ClusterView>,
}

/// Other gateways, and the directory of all.
pub(super) struct ClusterView {
    /// The URL of this gateway for others, if known.
    pub(super) own: Option<Arc<str>>,
    pub(super) directory: DirectoryRow,
    /// In the order of their URLs.
    pub(super) peers: Vec<PeerRow>,
}

impl Snapshot {
    /// Seconds since 1970 for a time before this snapshot, or shortly after it.
    pub(super) fn unix(&self, at: Instant) -> f64 {
        let ago = self.at.saturating_duration_since(at).as_secs_f64();
        let now = self.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        ((now.as_secs_f64() - ago) * 1000.0).round() / 1000.0
    }

    /// Seconds since 1970 for the time this long before this snapshot.
    pub(super) fn unix_ago(&self, ago: Duration) -> f64 {
        self.unix(self.at.checked_sub(ago).unwrap_or(self.at))
    }

    /// How long a device has been silent.
    pub(super) fn silence(&self, row: &DeviceRow) -> Duration {
        self.at.saturating_duration_since(row.last_seen)
    }
}

/// Access to a gateway.
pub(super) struct View {
    loops: Loops<Command>,
    stats: Arc<Stats>,
    limits: InForce,
    cluster: Option<Arc<Cluster>>,
    pub(super) feed: Arc<Feed>,
    pub(super) metrics_per_device: usize,
    latest: Latest<Snapshot>,
    configuration: Mutex<Option<Configuration>>,
}

/// The program's report on its configuration.
#[derive(Clone)]
pub(super) struct Configuration {
    pub(super) read: SystemTime,
    pub(super) told: String,
}

/// A cached value. When it is stale, one of the threads that need it makes the next one.
struct Latest<T> {
    state: Mutex<State<T>>,
    /// A value was made, or could not be.
    made: Condvar,
}

struct State<T> {
    made: Option<Arc<T>>,
    /// A thread is making the next value.
    making: bool,
}

/// The permit to make the next one; dropping it lets others try.
struct Maker<'l, T>(&'l Latest<T>);

impl<T> Drop for Maker<'_, T> {
    fn drop(&mut self) {
        self.0.state().making = false;
        self.0.made.notify_all();
    }
}

impl<T> Latest<T> {
    fn new() -> Self {
        Latest { state: Mutex::new(State { made: None, making: false }), made: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fresh value. A thread that waits for another one's waits until its own deadline.
    ///
    /// # Errors
    /// There is no value by then, or `make` failed.
    fn get(
        &self,
        end: Instant,
        is_fresh: impl Fn(&T) -> bool,
        make: impl FnOnce() -> Result<T, Silent>,
    ) -> Result<Arc<T>, Silent> {
        let mut state = self.state();
        loop {
            if let Some(made) = state.made.as_ref().filter(|made| is_fresh(made)) {
                return Ok(made.clone());
            }
            if !state.making {
                break;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Silent);
            }
            state = self.made.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.making = true;
        drop(state);
        let maker = Maker(self);
        let made = Arc::new(make()?);
        self.state().made = Some(made.clone());
        drop(maker);
        Ok(made)
    }
}

impl View {
    pub(super) fn of(gateway: &Gateway, metrics_per_device: usize) -> Self {
        let (loops, stats, limits) = gateway.parts();
        let feed = Feed::start(gateway.events_since_start());
        View {
            loops,
            stats,
            limits,
            cluster: gateway.shared(),
            feed,
            metrics_per_device,
            latest: Latest::new(),
            configuration: Mutex::default(),
        }
    }

    pub(super) fn configuration(&self) -> Option<Configuration> {
        self.configuration.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_configuration(&self, told: String) {
        let read = SystemTime::now();
        *self.configuration.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Configuration { read, told });
    }

    /// The limits in force.
    pub(super) fn limits(&self) -> Arc<Limits> {
        self.limits.get()
    }

    /// Returns true if the gateway has ended.
    pub(super) fn is_over(&self) -> bool {
        self.feed.is_over()
    }

    /// The answers of all loops, in no order.
    fn ask<T>(&self, question: impl Fn(Sender<T>) -> Question) -> Result<Vec<T>, Silent> {
        self.ask_by(Instant::now() + ANSWER_TIMEOUT, question)
    }

    fn ask_by<T>(
        &self,
        end: Instant,
        question: impl Fn(Sender<T>) -> Question,
    ) -> Result<Vec<T>, Silent> {
        let asked = self.loops.ask(|reply| Command::Observe(question(reply)));
        let answers = asked.ok_or(Silent)?;
        let answer = |_| answers.recv_deadline(end).map_err(|_| Silent);
        (0..self.loops.len()).map(answer).collect()
    }

    /// The current snapshot, at most [`FRESH`] old.
    ///
    /// # Errors
    /// The loop does not answer.
    pub(super) fn snapshot(&self) -> Result<Arc<Snapshot>, Silent> {
        let end = Instant::now() + ANSWER_TIMEOUT;
        self.latest.get(end, |snapshot| snapshot.at.elapsed() < FRESH, || self.take(end))
    }

    fn take(&self, end: Instant) -> Result<Snapshot, Silent> {
        let loops = self.ask_by(end, |reply| Question::Process { reply })?;
        let process = Process::of_loops(loops).ok_or(Silent)?;
        let (mut devices, mut from) = (Vec::new(), Some(0));
        while let Some(place) = from {
            let pieces = self.ask_by(end, |reply| Question::Devices { from: place, reply })?;
            from = pieces.iter().find_map(|(_, next)| *next);
            devices.append(&mut merged(pieces.into_iter().map(|(rows, _)| rows)));
        }
        let (at, wall, stats) = (Instant::now(), SystemTime::now(), self.stats.read());
        let cluster = self.cluster(end)?;
        Ok(Snapshot { at, wall, devices, process, stats, cluster })
    }

    fn cluster(&self, end: Instant) -> Result<Option<ClusterView>, Silent> {
        let Some(cluster) = &self.cluster else { return Ok(None) };
        let mut peers: BTreeMap<Arc<str>, PeerRow> = BTreeMap::new();
        let loops = self.ask_by(end, |reply| Question::Peers { reply })?;
        for row in loops.into_iter().flatten() {
            if let Some(known) = peers.get_mut(&row.url) {
                known.add(row);
            } else if peers.len() < PEERS_MAX {
                peers.insert(row.url.clone(), row);
            }
        }
        Ok(Some(ClusterView {
            own: cluster.own().map(|url| url.text),
            directory: cluster.directory(),
            peers: peers.into_values().collect(),
        }))
    }

    pub(super) fn process(&self) -> Result<Process, Silent> {
        let loops = self.ask(|reply| Question::Process { reply })?;
        Process::of_loops(loops).ok_or(Silent)
    }

    pub(super) fn device(&self, name: &str) -> Result<Option<Box<DeviceHistory>>, Silent> {
        let found = self.ask(|reply| Question::Device { name: name.to_owned(), reply })?;
        let found = found.into_iter().flatten();
        Ok(found.reduce(|one, other| if other.row.home.is_some() { other } else { one }))
    }

    /// At which gateways the directory has a device that is not connected here. `None` if there is
    /// no directory, or no device can have this name.
    pub(super) fn elsewhere(&self, name: &str) -> Option<Elsewhere> {
        let cluster = self.cluster.as_ref()?;
        let is_name = if name.contains("://") { Name::origin(name) } else { Name::label(name) };
        is_name.ok()?;
        Some(cluster.whereabouts(name, self.limits().directory_timeout))
    }

    pub(super) fn links(&self, name: Option<&str>) -> Result<Vec<LinkRow>, Silent> {
        let links = self.ask(|reply| Question::Links { name: name.map(str::to_owned), reply })?;
        Ok(links.into_iter().flatten().take(LINKS_MAX).collect())
    }

    pub(super) fn routes(&self) -> Result<Vec<String>, Silent> {
        let routes = self.ask(|reply| Question::Routes { reply })?; // every loop has the same
        routes.into_iter().next().ok_or(Silent)
    }

    pub(super) fn disconnect(&self, name: &str) -> Result<usize, Silent> {
        let ended = self.ask(|reply| Question::Disconnect { name: name.to_owned(), reply })?;
        Ok(ended.into_iter().sum())
    }

    pub(super) fn drain(&self, name: &str) -> Result<usize, Silent> {
        let told = self.ask(|reply| Question::DrainDevice { name: name.to_owned(), reply })?;
        Ok(told.into_iter().sum())
    }

    /// Returns true if the loop answers and is not stopping.
    pub(super) fn is_ready(&self) -> Result<bool, Silent> {
        Ok(!self.process()?.is_stopping)
    }
}

/// Merges the rows of several loops: for each device, the row of the loop that has it counts.
fn merged(loops: impl Iterator<Item = Vec<DeviceRow>>) -> Vec<DeviceRow> {
    let mut places: HashMap<Arc<str>, usize> = HashMap::new();
    let mut all: Vec<DeviceRow> = Vec::new();
    for row in loops.flatten() {
        match places.get(&row.name) {
            None => {
                places.insert(row.name.clone(), all.len());
                all.push(row);
            }
            Some(at) if row.home.is_some() => all[*at] = row,
            Some(_) => {}
        }
    }
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn one_makes_it_and_the_others_wait_no_longer_than_they_would() {
        let latest = Arc::new(Latest::new());
        let (begun, begins) = channel();
        let (end, ends) = channel();
        let soon = || Instant::now() + Duration::from_millis(20);
        let late = || Instant::now() + Duration::from_secs(60);
        let shared = latest.clone();
        let maker = std::thread::spawn(move || {
            shared.get(
                late(),
                |_| true,
                || {
                    begun.send(()).unwrap();
                    ends.recv().unwrap();
                    Ok(1)
                },
            )
        });
        begins.recv().unwrap();
        assert!(latest.get(soon(), |_| true, || panic!("a second one is made")).is_err());
        let shared = latest.clone();
        let waiter =
            std::thread::spawn(move || shared.get(late(), |_| true, || panic!("a second one")));
        end.send(()).unwrap();
        assert_eq!((*maker.join().unwrap().unwrap(), *waiter.join().unwrap().unwrap()), (1, 1));
        // A stale value is made again; if that fails, the next caller tries.
        assert!(latest.get(soon(), |_| false, || Err(Silent)).is_err());
        assert_eq!(*latest.get(soon(), |_| false, || Ok(2)).unwrap(), 2);
        assert_eq!(*latest.get(soon(), |_| true, || Err(Silent)).unwrap(), 2);
    }
}
