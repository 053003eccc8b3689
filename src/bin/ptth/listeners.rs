//! The addresses at which `ptth gateway` listens, and their changes on SIGHUP: a new address is
//! bound before the old one is closed, so a failed bind changes nothing. Connections stay open.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use reverse_http::admin::AdminListener;
use reverse_http::{Gateway, Routes};

use crate::Failure;
use crate::admin::AdminArgs;
use crate::files::Reading;
use crate::gateway::check_addresses;
use crate::gateway_arguments::GatewayArgs;
use crate::output::say;
use crate::peers::{PeersArgs, PeersInForce};
use crate::reload::wrong;

/// The operators' listener, which is taken out when the gateway stops.
pub(crate) type SharedAdmin = Arc<Mutex<Option<AdminListener>>>;

/// One address.
struct Address {
    /// The text of its option.
    said: String,
    at: SocketAddr,
    scheme: &'static str,
}

impl Address {
    fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.at)
    }
}

/// All of them.
pub(crate) struct Listeners {
    devices: Address,
    visitors: Address,
    /// Former addresses of visitors: their connections use the same routes.
    former: Vec<SocketAddr>,
    admin: SharedAdmin,
    admin_args: AdminArgs,
    peers: Option<PeersInForce>,
}

/// The changes of listeners.
#[derive(Default)]
struct Changes {
    added: Vec<String>,
    removed: Vec<String>,
    kept: Vec<String>,
}

impl Listeners {
    /// The listeners of the start. `visitors` is already bound.
    ///
    /// # Errors
    /// The operators' address cannot be bound.
    pub(crate) fn start(
        gateway: &Gateway,
        args: &GatewayArgs,
        visitors: SocketAddr,
        (schemes, peers): ((&'static str, &'static str), Option<PeersInForce>),
    ) -> Result<Self, Failure> {
        let address = |said: &str, at, scheme| Address { said: said.to_owned(), at, scheme };
        Ok(Listeners {
            devices: address(&args.devices, gateway.devices_addr(), schemes.0),
            visitors: address(&args.visitors, visitors, schemes.1),
            former: Vec::new(),
            admin: Arc::new(Mutex::new(args.admin.listen(gateway)?)),
            admin_args: args.admin.clone(),
            peers,
        })
    }

    /// The ready lines.
    pub(crate) fn say(&self) {
        say(format_args!("devices {}", self.devices.url()));
        say(format_args!("visitors {}", self.visitors.url()));
        let peers = self.peers.as_ref().and_then(PeersInForce::url);
        peers.into_iter().for_each(|url| say(format_args!("peers {url}")));
        self.admin_url().into_iter().for_each(|url| say(format_args!("admin {url}")));
    }

    /// The status line for a supervisor.
    pub(crate) fn serving(&self) -> String {
        format!("devices {}, visitors {}", self.devices.url(), self.visitors.url())
    }

    pub(crate) fn admin(&self) -> SharedAdmin {
        self.admin.clone()
    }

    pub(crate) fn devices_at(&self) -> SocketAddr {
        self.devices.at
    }

    pub(crate) fn visitors_at(&self) -> SocketAddr {
        self.visitors.at
    }

    /// All addresses for visitors, including former ones.
    pub(crate) fn with_routes(&self) -> impl Iterator<Item = SocketAddr> {
        self.former.iter().copied().chain([self.visitors.at])
    }

    /// Reports the outcome of a reload to operators.
    pub(crate) fn tell_configuration(&self, told: &str) {
        let admin = self.admin.lock().unwrap_or_else(PoisonError::into_inner);
        admin.iter().for_each(|admin| admin.configuration_read(told));
    }

    /// Reads the operators' tokens again, and the files about other gateways.
    /// `new`: the options about these as they are now.
    pub(crate) fn read_others_again(&self, gateway: &Gateway, args: &GatewayArgs, new: &PeersArgs) {
        self.admin_args.read_again(&self.admin);
        self.peers.iter().for_each(|peers| peers.read_again(gateway, &args.others, new));
    }

    fn admin_url(&self) -> Option<String> {
        let admin = self.admin.lock().unwrap_or_else(PoisonError::into_inner);
        admin.as_ref().map(|admin| admin.url().to_owned())
    }

    /// Listens at the addresses of the current options. `args` are those of the start, whose tokens
    /// and certificates are in force.
    pub(crate) fn follow(
        &mut self,
        gateway: &Gateway,
        args: &GatewayArgs,
        new: &GatewayArgs,
        routes: &Routes,
    ) {
        let is_same = self.devices.said == new.devices
            && self.visitors.said == new.visitors
            && self.admin_args.address() == new.admin.address();
        if is_same {
            return;
        }
        if let Err(e) = check_addresses(args, new) {
            return wrong!("{}; the listeners stay as they were", e.text);
        }
        let mut changes = Changes::default();
        let devices = || match args.tls.devices(Reading::Again)? {
            Some(tls) => gateway.listen_tls(&new.devices, tls).map_err(|e| e.to_string()),
            None => gateway.listen(&new.devices).map_err(|e| e.to_string()),
        };
        changes.follow(gateway, ("devices", &new.devices), &mut self.devices, devices);
        let visitors = || {
            match args.tls.visitors(Reading::Again)? {
                Some(tls) => gateway.listen_visitors_tls(&new.visitors, routes.clone(), tls),
                None => gateway.listen_visitors(&new.visitors, routes.clone()),
            }
            .map_err(|e| e.to_string())
        };
        let left =
            changes.follow(gateway, ("visitors", &new.visitors), &mut self.visitors, visitors);
        self.former.extend(left);
        self.former.retain(|at| *at != self.visitors.at); // it may be back at an earlier address
        self.follow_admin(gateway, args, new, &mut changes);
        changes.tell();
    }

    fn follow_admin(
        &mut self,
        gateway: &Gateway,
        args: &GatewayArgs,
        new: &GatewayArgs,
        changes: &mut Changes,
    ) {
        let name = |url: String| format!("admin {url}");
        let before = self.admin_url().map(name);
        if self.admin_args.address() == new.admin.address() {
            return changes.kept.extend(before);
        }
        if !args.admin.is_on() && !args.access_log.is_on() {
            return log::warn!(
                "--admin counts from the next start on: this gateway was started without one, and observes nothing"
            );
        }
        let listening = new.admin.check().and_then(|()| new.admin.listen(gateway));
        match listening {
            Ok(listener) => {
                let old = {
                    let mut admin = self.admin.lock().unwrap_or_else(PoisonError::into_inner);
                    std::mem::replace(&mut *admin, listener)
                };
                drop(old);
                self.admin_args = new.admin.clone();
                changes.removed.extend(before);
                changes.added.extend(self.admin_url().map(name));
            }
            Err(e) => {
                wrong!("{}; the operators' listener stays as it was", e.text);
                changes.kept.extend(before);
            }
        }
    }
}

impl Changes {
    /// Moves to another address, if it has changed. Returns the old one.
    fn follow(
        &mut self,
        gateway: &Gateway,
        (option, said): (&str, &str),
        address: &mut Address,
        listen: impl FnOnce() -> Result<SocketAddr, String>,
    ) -> Option<SocketAddr> {
        let before = format!("{option} {}", address.url());
        if address.said == said {
            self.kept.push(before);
            return None;
        }
        let at = match listen() {
            Ok(at) => at,
            Err(e) => {
                wrong!("--{option} {said}: {e}; {option} stay at {}", address.at);
                self.kept.push(before);
                return None;
            }
        };
        let left = std::mem::replace(&mut address.at, at);
        address.said = said.to_owned();
        if let Err(e) = gateway.unlisten(left) {
            wrong!("--{option}: the listener at {left} cannot be closed: {e}");
        }
        self.removed.push(before);
        self.added.push(format!("{option} {}", address.url()));
        Some(left)
    }

    fn tell(&self) {
        let parts = [("added", &self.added), ("removed", &self.removed), ("kept", &self.kept)];
        let parts = parts.iter().filter(|(_, names)| !names.is_empty());
        let parts: Vec<String> =
            parts.map(|(what, names)| format!("{what} {}", names.join(", "))).collect();
        log::info!("listeners: {}; connections stay", parts.join("; "));
    }
}
