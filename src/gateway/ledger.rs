//! The claims of this gateway in a table that it shares with others. A claim is made before a device
//! is admitted, renewed while it is connected, and released when it disconnects. One thread renews
//! and releases claims in batches; another one receives changes.
//!
//! While the table does not answer, devices are admitted without claims. Their names are claimed
//! when the table answers again.

#![cfg_attr(not(feature = "redis"), allow(dead_code, reason = "no table is shared"))]

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::engine::{random, time};
use crate::gateway::announced::{Announced, ClusterGateway, OtherTimes};
use crate::gateway::claims::{Change, Claimant, Failed, Renewal, Renewed, SharedTable, Verdict};
use crate::gateway::restoring::Restoring;
use crate::setting::{ADVERTISE, CLAIM_TIME};
use crate::text::counted;

/// The most claims in one query that renews or releases them.
const BATCH: usize = 256;
/// A new claim is checked after this time, because it may have been replaced before it was noted
/// here. So is a table that answered again and then failed; after that, all claims are renewed.
const RECHECK: Duration = Duration::from_secs(1);
/// The interval between attempts while the table does not answer.
const RETRY: Duration = Duration::from_millis(500);
/// Claims that are due within this time are renewed together with those that are due now.
const GATHER: Duration = Duration::from_millis(200);
/// A claim is renewed after a third of its lifetime, less a random part of at most one in so many.
const JITTER_PARTS: u32 = 4;

/// The interval between two queries for the list of gateways grows by this for each known gateway.
/// So all gateways of a cluster together ask ten times a second, however many they are.
const LIST_EACH: Duration = Duration::from_millis(100);
/// The table forgets a gateway that has not announced itself for this time.
const FORGOTTEN: Duration = Duration::from_secs(86_400);

/// A notice to the event loops.
pub(crate) enum Told {
    /// Cached answers about a name are out of date, except this one; `None`: those about all names.
    Changed(Option<Change>),
    /// The claim with this epoch is lost.
    Lost { name: Arc<str>, epoch: u64, to: Rival },
}

/// The owner that has taken a name from a device of this gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rival {
    /// A newer session of the same device, at another gateway.
    Session,
    /// A device with another credential, which had the name first.
    Credential,
}

pub(super) type Tell = Arc<dyn Fn(Told) + Send + Sync>;
/// Returns the URL of this gateway for others, once it is known.
type Own = Arc<dyn Fn() -> Option<Arc<str>> + Send + Sync>;

/// A name that a device of this gateway has.
#[derive(Clone, Debug)]
struct Held {
    /// 0: the name is not claimed yet.
    epoch: u64,
    claimant: Claimant,
    /// The number of the next renewal; entries of `due` with an older number are ignored.
    turn: u64,
    /// The event loops were told that the claim is lost, and end the device's connections.
    was_lost: bool,
}

#[derive(Default)]
struct State {
    held: HashMap<Arc<str>, Held>,
    due: BinaryHeap<Reverse<(Instant, u64, Arc<str>)>>,
    releases: Vec<(Arc<str>, u64)>,
    turns: u64,
    /// Why the table does not answer, and since when; `None`: it answers.
    away: Option<(String, Instant)>,
    /// When the table last began to answer again.
    back: Option<Instant>,
    /// The gateway has to announce itself, however recently it did so.
    announces: bool,
    /// The table has lost its data, and some names are not claimed again yet.
    restoring: Option<Restoring>,
    /// The gateways in the table, and when it listed them.
    gateways: Vec<ClusterGateway>,
    listed_at: Option<Instant>,
    is_stopped: bool,
    /// Threads that have not ended.
    running: usize,
    /// When the table last answered one of them, or they were told to stop.
    answered: Option<Instant>,
}

/// The state of the thread that renews and releases, from one turn to the next.
#[derive(Default)]
pub(super) struct Keeper {
    /// When this gateway last announced itself to the table.
    announced: Option<Instant>,
    times: OtherTimes,
    /// When the last turn failed; `None`: it did not.
    failed_at: Option<Instant>,
}

/// Counts a running thread, and gives the count back when it ends.
struct Running(Arc<Ledger>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.lock().running -= 1;
        self.0.wake.notify_all();
    }
}

/// What a gateway has registered in the directory that it shares with others, and whether the
/// directory answers ([`Gateway::directory_status`](crate::Gateway::directory_status)).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DirectoryStatus {
    /// Names of connected devices that are registered in the directory.
    pub claimed: usize,
    /// Names of connected devices that are not registered in the directory yet.
    pub unclaimed: usize,
    /// Names that other gateways have taken over since this gateway was started, or had already.
    pub lost: usize,
    /// Of the [`claimed`](Self::claimed) names, those that the directory has lost (it was restarted
    /// without its data), and that are not claimed again yet.
    pub restoring: usize,
    /// Another gateway announces itself with the same URL, so requests for devices of one may go to
    /// the other.
    pub url_is_shared: bool,
    /// The gateways that have announced themselves in the directory within a day, this one
    /// included; 1,024 at most.
    pub gateways: Vec<ClusterGateway>,
    /// Why the directory does not answer, and for how long; `None`: it does answer.
    pub away: Option<(String, Duration)>,
}

/// The claims of this gateway.
pub(crate) struct Ledger {
    table: Arc<dyn SharedTable>,
    state: Mutex<State>,
    wake: Condvar,
    lost: AtomicUsize,
    /// Another gateway announces itself with the same URL.
    url_is_shared: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Ledger {
    pub(crate) fn new(table: Arc<dyn SharedTable>) -> Self {
        Ledger {
            table,
            state: Mutex::default(),
            wake: Condvar::new(),
            lost: AtomicUsize::new(0),
            url_is_shared: AtomicBool::new(false),
            threads: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the threads. `own` returns the URL of this gateway for others, once it is known.
    /// Until then nothing is claimed.
    pub(crate) fn start(
        self: &Arc<Self>,
        own: impl Fn() -> Option<Arc<str>> + Send + Sync + 'static,
        tell: impl Fn(Told) + Send + Sync + 'static,
    ) -> std::io::Result<()> {
        let (own, tell): (Own, Tell) = (Arc::new(own), Arc::new(tell));
        let (keeper, keeper_own, keeper_tell) = (self.clone(), own.clone(), tell.clone());
        let listener = self.clone();
        let threads = [
            self.run("ptth-claims", move || keeper.keep(&*keeper_own, &keeper_tell))?,
            self.run("ptth-changes", move || listener.receive_changes(&*own, &tell))?,
        ];
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).extend(threads);
        Ok(())
    }

    fn run(
        self: &Arc<Self>,
        name: &str,
        work: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<JoinHandle<()>> {
        self.lock().running += 1;
        let running = Running(self.clone()); // dropped here if no thread can be started
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _running = running;
            work();
        })
    }

    /// Releases the remaining claims, and waits for the threads while the table answers at least
    /// once in `silence_max`.
    pub(crate) fn stop(&self, silence_max: Duration) {
        let mut state = self.lock();
        state.is_stopped = true;
        state.answered = Some(time::now());
        self.wake.notify_all();
        while state.running > 0 {
            let silence = state.answered.map_or(Duration::ZERO, time::since);
            let left = silence_max.saturating_sub(silence);
            if left.is_zero() {
                log::warn!(
                    "the directory of gateways does not answer to the end; what was claimed there expires by itself"
                );
                return;
            }
            state = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                log::error!("a thread of the directory of gateways had panicked");
            }
        }
    }

    /// For each name, in the same order, the gateways that have it.
    pub(crate) fn find(&self, names: &[&str]) -> Result<Vec<Vec<String>>, Failed> {
        if let Some((why, _)) = &self.lock().away {
            return Err(why.clone().into());
        }
        self.noted(self.table.find(names))
    }

    /// Claims names for a device before it is admitted. `None`: the table does not answer.
    pub(crate) fn claim(
        self: &Arc<Self>,
        by: &str,
        names: &[String],
        claimant: &Claimant,
    ) -> Option<Result<ClaimGuard, Rival>> {
        if self.lock().away.is_some() {
            return None;
        }
        let claimed = self.noted(self.table.claim(by, names, claimant)).ok()?;
        Some(match claimed {
            Verdict::Granted { epoch } => {
                let names = names.iter().map(|name| name.as_str().into()).collect();
                Ok(ClaimGuard { ledger: self.clone(), names, epoch })
            }
            Verdict::Held => Err(Rival::Credential),
            Verdict::Newer => Err(Rival::Session),
        })
    }

    /// Notes whether the table answers.
    fn noted<T>(&self, answer: Result<T, Failed>) -> Result<T, Failed> {
        let why = answer.as_ref().err().map(ToString::to_string);
        let mut state = self.lock();
        match (why, &state.away) {
            (Some(why), None) => {
                log::warn!(
                    "the directory of gateways cannot be used: {why}; devices of this gateway are served, those of others are not found"
                );
                state.away = Some((why, time::now()));
                self.wake.notify_all();
            }
            (None, Some((_, since))) => {
                log::info!(
                    "the directory of gateways can be used again, after {:.1} s",
                    time::since(*since).as_secs_f64()
                );
                (state.away, state.back) = (None, Some(time::now()));
            }
            _ => {}
        }
        answer
    }

    /// Notes that a device with this name was admitted.
    pub(crate) fn hold(&self, name: &Arc<str>, epoch: u64, claimant: &Claimant) {
        let now = time::now();
        let mut state = self.lock();
        let held = state.held.entry(name.clone()).or_insert_with(|| Held {
            epoch,
            claimant: claimant.clone(),
            turn: 0,
            was_lost: false,
        });
        held.was_lost = false;
        held.epoch = if held.claimant == *claimant { held.epoch.max(epoch) } else { epoch };
        held.claimant = claimant.clone();
        state.schedule(name, if epoch == 0 { now } else { now + RECHECK });
        if epoch == 0 && state.away.is_none() {
            self.wake.notify_all();
        }
    }

    /// Notes that no device with this name is connected any longer.
    pub(crate) fn let_go(&self, name: &str) {
        let mut state = self.lock();
        let Some((name, held)) = state.held.remove_entry(name) else { return };
        state.restored(&name);
        if held.epoch > 0 {
            state.releases.push((name, held.epoch));
            self.wake.notify_all();
        }
    }

    /// Gives up the claim of a device that was not admitted. If another device of this gateway still
    /// has the names, its claim is renewed.
    fn release(&self, names: &[Arc<str>], epoch: u64) {
        let mut state = self.lock();
        state.releases.extend(names.iter().map(|name| (name.clone(), epoch)));
        names.iter().for_each(|name| state.schedule(name, time::now()));
        self.wake.notify_all();
    }

    /// Returns true if this gateway has this claim or an older one.
    pub(crate) fn is_lost(&self, name: &str, epoch: u64) -> bool {
        self.lock().held.get(name).is_some_and(|held| held.epoch <= epoch)
    }

    pub(crate) fn status(&self) -> DirectoryStatus {
        let state = self.lock();
        let claimed = state.held.values().filter(|held| held.epoch > 0).count();
        let since = state.listed_at.map(time::since).unwrap_or_default();
        let mut gateways = state.gateways.clone();
        gateways.iter_mut().for_each(|gateway| gateway.announced += since);
        DirectoryStatus {
            gateways,
            restoring: state.restoring.as_ref().map_or(0, Restoring::left),
            claimed,
            unclaimed: state.held.len() - claimed,
            away: state.away.as_ref().map(|(why, since)| (why.clone(), time::since(*since))),
            lost: self.lost.load(Relaxed),
            url_is_shared: self.url_is_shared.load(Relaxed),
        }
    }

    /// Runs the thread that renews and releases.
    fn keep(&self, own: &dyn Fn() -> Option<Arc<str>>, tell: &Tell) {
        let mut keeper = Keeper::default();
        loop {
            let is_stopped = self.wait(keeper.failed_at);
            self.take_turn(&mut keeper, own, tell, is_stopped);
            if is_stopped {
                return;
            }
        }
    }

    /// Renews and releases what is due. `is_last`: this gateway stops, and releases everything.
    pub(super) fn take_turn(
        &self,
        keeper: &mut Keeper,
        own: &dyn Fn() -> Option<Arc<str>>,
        tell: &Tell,
        is_last: bool,
    ) {
        let Some(by) = own() else {
            keeper.failed_at = Some(time::now()); // later
            return;
        };
        if is_last {
            self.lock().let_go_all(); // a device that polls counts as connected for a while
        }
        let was_away = self.lock().away.is_some();
        let step = self.step(&by, keeper, tell);
        keeper.failed_at = self.noted(step).err().map(|_| time::now());
        if was_away && keeper.failed_at.is_none() {
            self.renew_all(); // changes in the meantime are unknown
        }
        if is_last && keeper.failed_at.is_none() {
            // Claims that cannot be released now expire.
            let last = || -> Result<(), Failed> {
                while self.release_some(&by)? {}
                self.table.announce(&by, None, false).map(drop)
            };
            let _ = self.noted(last());
        }
    }

    /// When the next turn is due.
    #[cfg(test)]
    pub(super) fn next_turn(&self, keeper: &Keeper) -> Instant {
        let now = time::now();
        self.lock().next_step(keeper.failed_at, now).min(now + RECHECK)
    }

    /// Waits until a turn is due; returns true if the gateway stops. `failed_at`: when the previous
    /// turn failed.
    fn wait(&self, failed_at: Option<Instant>) -> bool {
        let latest = time::now() + RECHECK;
        let mut state = self.lock();
        loop {
            if state.is_stopped {
                return true;
            }
            let now = time::now();
            let next = state.next_step(failed_at, now).min(latest);
            let left = next.saturating_duration_since(now);
            if left.is_zero() {
                return false;
            }
            state = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Renews and releases what is due.
    fn step(&self, by: &Arc<str>, keeper: &mut Keeper, tell: &Tell) -> Result<(), Failed> {
        let interval = self.table.claim_time() / 3;
        let (is_wanted, names, lists) = {
            let mut state = self.lock();
            let is_wanted = std::mem::take(&mut state.announces) || state.away.is_some();
            (is_wanted, state.held.len(), state.lists())
        };
        let announced = keeper.announced.map(time::since);
        if is_wanted || announced.is_none_or(|ago| ago >= interval) {
            let told = self.table.announce(by, Some(names), lists)?;
            // An entry of another process with this URL may have been removed by that.
            let was_known =
                announced.is_some_and(|ago| ago < FORGOTTEN) && !self.url_is_shared.load(Relaxed);
            keeper.announced = Some(time::now());
            if told.is_new && was_known {
                self.restore();
            }
            self.note_gateways(by, told, &mut keeper.times);
        }
        while self.release_some(by)? {}
        while self.renew_some(by, tell)? {}
        Ok(())
    }

    /// Notes the table's list of gateways, and logs contradictions in it.
    fn note_gateways(&self, by: &str, told: Announced, times: &mut OtherTimes) {
        if told.url_is_shared && !self.url_is_shared.load(Relaxed) {
            log_names!(
                Warn,
                "another gateway announces itself by {by}, too: requests for the devices of either go to any of them; give each a URL of its own ({ADVERTISE})"
            );
        }
        self.url_is_shared.store(told.url_is_shared, Relaxed);
        let Some(mut gateways) = told.gateways else { return };
        let own = self.table.claim_time();
        if let Some(others) = times.found(&gateways, own) {
            log_names!(
                Warn,
                "claims of this gateway last {own:?} in the directory, and those of other gateways do not: {others}; give all the same, else names are dropped early, or found at a gateway that was killed ({CLAIM_TIME})"
            );
        }
        gateways.iter_mut().for_each(|gateway| gateway.lives = gateway.is_alive(own));
        let mut state = self.lock();
        (state.gateways, state.listed_at) = (gateways, Some(time::now()));
    }

    /// The table has lost its data: claims everything again.
    fn restore(&self) {
        let mut state = self.lock();
        let names = counted(state.held.len() as u64, "name");
        log::warn!(
            "the directory of gateways came back without its data (it was restarted, emptied, or is another server): {names} of this gateway are claimed again; until then other gateways do not find those that they had not asked for"
        );
        if !state.held.is_empty() {
            let all = state.held.keys().cloned();
            let restoring = Restoring::begin(all, state.restoring.as_ref(), time::now());
            state.restoring = Some(restoring);
        }
        drop(state);
        self.renew_all();
    }

    /// Returns true if there may be more.
    fn release_some(&self, by: &str) -> Result<bool, Failed> {
        let batch: Vec<_> = {
            let mut state = self.lock();
            let most = state.releases.len().min(BATCH);
            state.releases.drain(..most).collect()
        };
        if batch.is_empty() {
            return Ok(false);
        }
        // A failed release is not repeated: the claim expires.
        self.table.release(by, &batch)?;
        self.lock().answered = Some(time::now());
        Ok(batch.len() == BATCH)
    }

    /// Returns true if there may be more.
    fn renew_some(&self, by: &str, tell: &Tell) -> Result<bool, Failed> {
        let batch = self.lock().take_due(time::now() + GATHER);
        if batch.is_empty() {
            return Ok(false);
        }
        match self.table.renew(by, &batch) {
            Ok(renewed) => {
                self.renewed(&batch, &renewed, tell);
                Ok(batch.len() == BATCH)
            }
            Err(e) => {
                let at = time::now();
                let mut state = self.lock();
                batch.iter().for_each(|renewal| state.schedule(&renewal.name, at));
                Err(e)
            }
        }
    }

    fn renewed(&self, batch: &[Renewal], renewed: &[Renewed], tell: &Tell) {
        let interval = self.table.claim_time() / 3;
        for (renewal, renewed) in batch.iter().zip(renewed) {
            let to = match renewed {
                Renewed::Kept { epoch } => {
                    let mut state = self.lock();
                    match state.held.get_mut(&renewal.name) {
                        Some(held) => {
                            let is_same = held.claimant == renewal.claimant;
                            held.epoch = if is_same { held.epoch.max(*epoch) } else { held.epoch };
                            // If another device of this gateway has connected in the meantime, or
                            // in another order, the table still has that one, or an older one.
                            let is_noted = is_same && [0, *epoch].contains(&renewal.epoch);
                            let at = time::now()
                                + match is_noted {
                                    true => interval - random_up_to(interval / JITTER_PARTS),
                                    false => RECHECK,
                                };
                            state.schedule(&renewal.name, at);
                            state.restored(&renewal.name);
                        }
                        // The device disconnected during the renewal.
                        None => state.releases.push((renewal.name.clone(), *epoch)),
                    }
                    continue;
                }
                Renewed::Newer => Rival::Session,
                Renewed::Held => Rival::Credential,
            };
            self.lose(&renewal.name, renewal.epoch, to, tell);
        }
    }

    fn lose(&self, name: &Arc<str>, epoch: u64, to: Rival, tell: &Tell) {
        let mut state = self.lock();
        let held = state.held.get_mut(name).filter(|held| held.epoch <= epoch && !held.was_lost);
        let Some(held) = held else { return };
        held.was_lost = true;
        state.restored(name);
        drop(state);
        self.lost.fetch_add(1, Relaxed);
        tell(Told::Lost { name: name.clone(), epoch, to });
    }

    /// Schedules the renewal of every claim, spread over a short time.
    fn renew_all(&self) {
        let mut state = self.lock();
        let mut names: Vec<Arc<str>> = state.held.keys().cloned().collect();
        names.sort_unstable(); // so that a simulated run can be repeated
        let now = time::now();
        names.iter().for_each(|name| state.schedule(name, now + random_up_to(RETRY)));
        self.wake.notify_all();
    }

    /// Runs the thread that receives changes.
    fn receive_changes(&self, own: &dyn Fn() -> Option<Arc<str>>, tell: &Tell) {
        loop {
            let mut has_begun = false;
            let ended = self.table.listen(&mut |change| {
                if !std::mem::replace(&mut has_begun, true) {
                    self.listening_began(tell);
                }
                if let Some(change) = change {
                    self.note_change(change, own().as_deref(), tell);
                }
                !self.lock().is_stopped
            });
            let mut state = self.lock();
            if let Err(e) = ended {
                log::debug!("changes of the directory of gateways are not heard of: {e}");
                // If it does not answer either, that is known before somebody asks for a device.
                state.announces = true;
                self.wake.notify_all();
                let until = time::now() + RETRY + random_up_to(RETRY);
                while !state.is_stopped && time::now() < until {
                    let left = until.saturating_duration_since(time::now());
                    let waited = self.wake.wait_timeout(state, left);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
            if state.is_stopped {
                return;
            }
        }
    }

    /// Notes that changes are received from now on. Earlier changes are unknown, and so is whether the
    /// table has lost its data.
    pub(super) fn listening_began(&self, tell: &Tell) {
        tell(Told::Changed(None));
        self.lock().announces = true;
        self.renew_all();
    }

    /// Notes that a name has another owner. An older claim of this gateway may be lost; the table is
    /// asked, because the device may be connected to both gateways.
    pub(super) fn note_change(&self, change: Change, own: Option<&str>, tell: &Tell) {
        let mut state = self.lock();
        let is_older =
            |held: &Held| held.epoch < change.epoch && *held.claimant.session != *change.session;
        if own != Some(&*change.gateway) && state.held.get(&change.name).is_some_and(is_older) {
            state.schedule(&change.name, time::now());
            self.wake.notify_all();
        }
        drop(state);
        tell(Told::Changed(Some(change)));
    }
}

impl State {
    /// Notes that no device is connected any longer.
    fn let_go_all(&mut self) {
        let claimed = self.held.drain().filter(|(_, held)| held.epoch > 0);
        self.releases.extend(claimed.map(|(name, held)| (name, held.epoch)));
    }

    /// When the table is asked next. If a lookup or a claim has found that it does not answer, it is
    /// tried at once, because nothing else asks it until it answers; but not in a busy loop, if it
    /// answers some queries and not others.
    fn next_step(&self, failed_at: Option<Instant>, now: Instant) -> Instant {
        match failed_at {
            Some(at) => at + RETRY,
            None if self.away.is_some() => self.back.map_or(now, |at| at + RECHECK),
            None if !self.releases.is_empty() => now,
            None => self.due.peek().map_or(now + RECHECK, |Reverse((at, ..))| *at),
        }
    }

    /// Takes the renewals that are due until then, at most one batch.
    fn take_due(&mut self, until: Instant) -> Vec<Renewal> {
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            let Some(Reverse((at, ..))) = self.due.peek() else { break };
            if *at > until {
                break;
            }
            let Some(Reverse((_, turn, name))) = self.due.pop() else { break };
            if let Some(held) = self.held.get(&name).filter(|held| held.turn == turn) {
                let (epoch, claimant) = (held.epoch, held.claimant.clone());
                batch.push(Renewal { name, epoch, claimant });
            }
        }
        batch
    }

    /// Returns true if it is time to ask for the list of gateways.
    fn lists(&self) -> bool {
        let count = u32::try_from(self.gateways.len()).unwrap_or(u32::MAX);
        let ago = self.listed_at.map(time::since);
        ago.is_none_or(|ago| ago >= LIST_EACH * count)
    }

    /// Notes that a name is claimed again, or no longer has to be.
    fn restored(&mut self, name: &str) {
        let Some(restoring) = &mut self.restoring else { return };
        if let Some((names, took)) = restoring.restored(name, time::now()) {
            log::info!(
                "what the directory of gateways had lost is there again, after {:.1} s: {}",
                took.as_secs_f64(),
                counted(names as u64, "name")
            );
            self.restoring = None;
        }
    }

    /// Schedules the renewal of a claim at `at`, instead of its previous time.
    fn schedule(&mut self, name: &Arc<str>, at: Instant) {
        self.turns += 1;
        let turn = self.turns;
        let Some(held) = self.held.get_mut(name) else { return };
        held.turn = turn;
        self.due.push(Reverse((at, turn, name.clone())));
        // While nothing can be renewed, devices may come and go for hours.
        if self.due.len() > 2 * self.held.len() + BATCH {
            let held = &self.held;
            self.due.retain(|Reverse((_, turn, name))| {
                held.get(name).is_some_and(|held| held.turn == *turn)
            });
        }
    }
}

/// A random time up to `most`.
fn random_up_to(most: Duration) -> Duration {
    let mut bytes = [0; 2];
    match random::fill(&mut bytes) {
        Ok(()) => most * u32::from(u16::from_ne_bytes(bytes)) / u32::from(u16::MAX),
        Err(_) => Duration::ZERO,
    }
}

/// Names that were claimed for a device that is not admitted yet. They are released if it is not
/// admitted.
pub(crate) struct ClaimGuard {
    ledger: Arc<Ledger>,
    names: Vec<Arc<str>>,
    epoch: u64,
}

impl ClaimGuard {
    /// The epoch of the claim, which is kept: the device was admitted.
    pub(crate) fn epoch(mut self) -> u64 {
        self.names.clear();
        self.epoch
    }
}

impl Drop for ClaimGuard {
    fn drop(&mut self) {
        if !self.names.is_empty() {
            self.ledger.release(&self.names, self.epoch);
        }
    }
}
