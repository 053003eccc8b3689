//! Operators' questions to the gateway's loop, and the answers. Plain data.

#![cfg_attr(not(feature = "admin"), allow(dead_code, reason = "nobody asks"))]

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::Sender;

use crate::close_reason::CloseCause;
use crate::gateway::peer_table::PeerRow;
use crate::gateway::registry::Load;
use crate::gateway::tokens::Whose;
use crate::observe::InProgress;
use crate::observe::records::ExchangeRecord;
use crate::observe::refusals::{Refusals, Refused};
use crate::observe::row::{Change, Counts, Done, Minute, OfferSeen, Totals};
use crate::proto::turn::Transport;
use crate::subscription::Charged;

/// A question of another thread.
pub(crate) enum Question {
    /// Devices from this position of the table on, and the position for the next piece.
    Devices {
        from: usize,
        reply: Sender<(Vec<DeviceRow>, Option<usize>)>,
    },
    Device {
        name: String,
        reply: Sender<Option<Box<DeviceHistory>>>,
    },
    /// The links and held polls of a device, or of all.
    Links {
        name: Option<String>,
        reply: Sender<Vec<LinkRow>>,
    },
    Process {
        reply: Sender<Process>,
    },
    /// Other gateways.
    Peers {
        reply: Sender<Vec<PeerRow>>,
    },
    /// Sends records of requests from now on, instead of to an earlier such channel.
    Records {
        to: Sender<Charged<ExchangeRecord>>,
        /// Dropped with the last reader.
        readers: Weak<()>,
    },
    Routes {
        reply: Sender<Vec<String>>,
    },
    /// Ends every link and poll of a device at once. Returns how many there were.
    Disconnect {
        name: String,
        reply: Sender<usize>,
    },
    /// Sends a goaway on the links of a device when they are idle. Returns how many there were.
    DrainDevice {
        name: String,
        reply: Sender<usize>,
    },
}

/// A device's row of a list.
#[derive(Clone, Debug)]
pub(crate) struct DeviceRow {
    pub(crate) name: Arc<str>,
    /// The number of the event loop that has it, if it is the one that was asked.
    pub(crate) home: Option<usize>,
    pub(crate) transport: Option<Transport>,
    pub(crate) load: Load,
    pub(crate) since: Instant,
    pub(crate) last_seen: Instant,
    pub(crate) ups: u64,
    pub(crate) in_progress: u64,
    pub(crate) counts: Counts,
    pub(crate) p50: Option<Duration>,
    pub(crate) p99: Option<Duration>,
    pub(crate) offer: OfferSeen,
    /// Why it is no longer connected.
    pub(crate) cause: Option<CloseCause>,
}

impl DeviceRow {
    /// Links and polls that wait for a request.
    pub(crate) fn idle(&self) -> usize {
        self.load.idle + self.load.polls
    }

    /// Links with a request, and requests that were sent as replies to polls.
    pub(crate) fn busy(&self) -> usize {
        self.load.busy + self.load.events
    }
}

/// The recorded history of one device.
#[derive(Clone, Debug)]
pub(crate) struct DeviceHistory {
    pub(crate) row: DeviceRow,
    pub(crate) changes: Vec<Change>,
    pub(crate) recent: Vec<Done>,
    pub(crate) minutes: Vec<Minute>,
    /// The number of the current minute.
    pub(crate) minute: u32,
    /// Its offers that were refused, the newest first.
    pub(crate) refused: Vec<Refused>,
}

/// One connection of a device.
#[derive(Clone, Debug)]
pub(crate) struct LinkRow {
    pub(crate) id: u64,
    pub(crate) device: Arc<str>,
    /// `idle`, `busy`, `tunnel`, `pinned`, `leaving`, `held-offer`, `held-poll`, `answering`, `program`.
    pub(crate) state: &'static str,
    pub(crate) remote_ip: Option<IpAddr>,
    pub(crate) received: u64,
    pub(crate) written: u64,
    /// Method, path and age of its exchange.
    pub(crate) exchange: Option<InProgress>,
}

/// A loop of the gateway, or the gateway as a whole.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) connections: usize,
    /// The value for all loops; the same holds for `messages`, `totals` and `refusals`.
    pub(crate) memory: usize,
    pub(crate) messages: usize,
    pub(crate) exchanges: usize,
    pub(crate) leases: usize,
    pub(crate) is_stopping: bool,
    pub(crate) totals: Totals,
    pub(crate) refusals: Refusals,
    pub(crate) start: Instant,
    /// The listeners with certificates: their side, address, and when the certificates expire.
    pub(crate) certificates: Vec<(Whose, SocketAddr, SystemTime)>,
}

impl Process {
    /// Combines the values of several loops. `None` if there are none.
    pub(crate) fn of_loops(loops: Vec<Process>) -> Option<Process> {
        loops.into_iter().reduce(|mut all, of| {
            all.connections += of.connections;
            all.exchanges += of.exchanges;
            all.leases += of.leases;
            all.is_stopping |= of.is_stopping;
            all
        })
    }
}
