//! The gateway at one moment, as its event loop told it in pieces: asked at most twice a second,
//! however many look.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Sender, bounded};

use crate::admin::feed::Feed;
use crate::engine::event_loop::Remote;
use crate::gateway::questions::{DeviceHistory, DeviceRow, LinkRow, Process, Question};
use crate::gateway::state::Command;
use crate::gateway::stats::Stats;
use crate::gateway::{Gateway, GatewayStats};
use crate::limits::Limits;

/// How old what is shown may be.
const FRESH: Duration = Duration::from_millis(500);
/// How long the loop may take for one piece.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The loop has ended, or stands still.
#[derive(Debug)]
pub(super) struct Silent;

/// Everything at one moment.
pub(super) struct Snapshot {
    pub(super) at: Instant,
    pub(super) wall: SystemTime,
    pub(super) devices: Vec<DeviceRow>,
    pub(super) process: Process,
    pub(super) stats: GatewayStats,
}

impl Snapshot {
    /// Seconds since 1970 of a moment before this one, or shortly after it.
    pub(super) fn unix(&self, at: Instant) -> f64 {
        let ago = self.at.saturating_duration_since(at).as_secs_f64();
        let now = self.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        ((now.as_secs_f64() - ago) * 1000.0).round() / 1000.0
    }

    /// How long nothing was heard of a device.
    pub(super) fn silence(&self, row: &DeviceRow) -> Duration {
        self.at.saturating_duration_since(row.last_seen)
    }
}

/// The way to a gateway.
pub(super) struct View {
    remote: Remote<Command>,
    stats: Arc<Stats>,
    pub(super) limits: Arc<Limits>,
    pub(super) feed: Arc<Feed>,
    pub(super) metrics_per_device: usize,
    latest: Mutex<Option<Arc<Snapshot>>>,
}

impl View {
    pub(super) fn of(gateway: &Gateway, metrics_per_device: usize) -> Self {
        let (remote, stats, limits) = gateway.parts();
        let feed = Feed::start(gateway.events());
        View { remote, stats, limits, feed, metrics_per_device, latest: Mutex::default() }
    }

    /// Whether the gateway has ended.
    pub(super) fn is_over(&self) -> bool {
        self.feed.is_over()
    }

    fn ask<T>(&self, question: impl FnOnce(Sender<T>) -> Question) -> Result<T, Silent> {
        let (reply, answer) = bounded(1);
        if !self.remote.send(Command::Observe(question(reply))) {
            return Err(Silent);
        }
        answer.recv_timeout(ANSWER_TIMEOUT).map_err(|_| Silent)
    }

    /// What is known now.
    ///
    /// # Errors
    /// The loop does not answer.
    pub(super) fn snapshot(&self) -> Result<Arc<Snapshot>, Silent> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(snapshot) = latest.as_ref().filter(|snapshot| snapshot.at.elapsed() < FRESH) {
            return Ok(snapshot.clone());
        }
        let snapshot = Arc::new(self.take()?);
        *latest = Some(snapshot.clone());
        Ok(snapshot)
    }

    fn take(&self) -> Result<Snapshot, Silent> {
        let process = self.process()?;
        let (mut devices, mut from) = (Vec::new(), Some(0));
        while let Some(place) = from {
            let (mut rows, next) = self.ask(|reply| Question::Devices { from: place, reply })?;
            devices.append(&mut rows);
            from = next;
        }
        let (at, wall, stats) = (Instant::now(), SystemTime::now(), self.stats.read());
        Ok(Snapshot { at, wall, devices, process, stats })
    }

    pub(super) fn process(&self) -> Result<Process, Silent> {
        self.ask(|reply| Question::Process { reply })
    }

    pub(super) fn device(&self, name: &str) -> Result<Option<Box<DeviceHistory>>, Silent> {
        self.ask(|reply| Question::Device { name: name.to_owned(), reply })
    }

    pub(super) fn links(&self, name: Option<&str>) -> Result<Vec<LinkRow>, Silent> {
        self.ask(|reply| Question::Links { name: name.map(str::to_owned), reply })
    }

    pub(super) fn routes(&self) -> Result<Vec<String>, Silent> {
        self.ask(|reply| Question::Routes { reply })
    }

    pub(super) fn disconnect(&self, name: &str) -> Result<usize, Silent> {
        self.ask(|reply| Question::Disconnect { name: name.to_owned(), reply })
    }

    pub(super) fn drain(&self, name: &str) -> Result<usize, Silent> {
        self.ask(|reply| Question::DrainDevice { name: name.to_owned(), reply })
    }

    /// Whether the loop answers, and does not stop.
    pub(super) fn is_ready(&self) -> Result<bool, Silent> {
        Ok(!self.process()?.is_stopping)
    }
}
