//! The list of connected devices for programs. The directory has the names; each loop is asked for
//! its devices in pieces, so that none of its steps is long.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::bounded;

use crate::error::Error;
use crate::gateway::device_info::DeviceInfo;
use crate::gateway::handle::{Gateway, stopped};
use crate::gateway::state::Command;
use crate::limits::MOVES_MAX;

/// Devices of one piece of the list.
const PIECE: usize = 256;

impl Gateway {
    /// The connected devices, each name once, at most
    /// [`Limits::devices_max`](crate::Limits::devices_max). The list is not a snapshot of one
    /// instant: devices come and go while it is made.
    ///
    /// A program that subscribes to events first, and takes the list afterwards, misses nothing: a
    /// device that came before is in the list, one that comes or goes later is reported by an
    /// event, and one that comes meanwhile may be in both. So take the list, and then apply every
    /// event to it, in order:
    ///
    /// ```
    /// use std::collections::BTreeSet;
    /// use reverse_http::{Gateway, GatewayEventKind};
    ///
    /// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    /// let events = gateway.events(); // first
    /// let mut here: BTreeSet<String> = gateway.devices()?.into_iter().map(|d| d.name).collect();
    /// for event in events.try_iter() {
    ///     match event.kind {
    ///         GatewayEventKind::Up => drop(here.insert(event.name)),
    ///         GatewayEventKind::Down => drop(here.remove(&event.name)),
    ///         _ => {}
    ///     }
    /// }
    /// assert!(here.is_empty());
    /// # Ok::<(), reverse_http::Error>(())
    /// ```
    ///
    /// # Errors
    /// The gateway was stopped.
    pub fn devices(&self) -> Result<Vec<DeviceInfo>, Error> {
        let mut found = BTreeMap::new();
        let mut asked = self.0.loops.connected_names();
        self.devices_of(0, Vec::new())?; // even without devices, this fails if the gateway was stopped
        for _ in 0..=MOVES_MAX {
            let mut of_loops: BTreeMap<usize, Vec<Arc<str>>> = BTreeMap::new();
            for (name, owner) in &asked {
                of_loops.entry(*owner).or_default().push(name.clone());
            }
            for (owner, names) in of_loops {
                for piece in names.chunks(PIECE) {
                    let devices = self.devices_of(owner, piece.to_vec())?;
                    found.extend(devices.into_iter().map(|info| (info.name.clone(), info)));
                }
            }
            // Names that have moved to another loop meanwhile.
            asked.retain_mut(|(name, owner)| {
                let now = self.0.loops.home_of_connected(name).filter(|now| now != owner);
                now.map(|now| *owner = now).is_some() && !found.contains_key(&**name)
            });
            if asked.is_empty() {
                break;
            }
        }
        Ok(found.into_values().collect())
    }

    fn devices_of(&self, number: usize, names: Vec<Arc<str>>) -> Result<Vec<DeviceInfo>, Error> {
        let (reply, answer) = bounded(1);
        self.command(number, Command::Devices { names, reply })?;
        answer.recv().map_err(|_| stopped())
    }
}
