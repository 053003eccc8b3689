//! The listeners: for each address its clients (devices, visitors, other gateways), its
//! certificates, and the routes of its visitors.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::time::SystemTime;

use crate::error::{Error, Fault};
use crate::gateway::routes::Table;
use crate::gateway::tokens::Whose;
use crate::proto::digits::number;
use crate::stream::GatewayTls;

/// The clients of a listener.
#[derive(Clone)]
pub(crate) enum Side {
    Devices,
    /// Visitors, whose requests go by these routes.
    Visitors(Arc<Table>),
    /// Other gateways, with their visitors' requests. They count as visitors do.
    Peers,
}

impl Side {
    fn whose(&self) -> Whose {
        match self {
            Side::Devices => Whose::Devices,
            Side::Visitors(_) | Side::Peers => Whose::Visitors,
        }
    }

    fn table(&self) -> Option<&Arc<Table>> {
        if let Side::Visitors(table) = self { Some(table) } else { None }
    }

    /// Returns true if a listener of one side may be opened again as one of the other.
    fn is_like(&self, other: &Side) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

struct Listening {
    at: Option<SocketAddr>,
    /// The TLS settings, if TLS is used.
    tls: Option<GatewayTls>,
    side: Side,
    /// No new connection is accepted; older ones still find their routes here.
    closed: bool,
}

pub(super) struct Listeners {
    all: Vec<Listening>,
    /// A route of a visitors' listener has a sign-in.
    sign_in: bool,
}

impl Listeners {
    pub(super) fn of_devices(devices: Vec<(SocketAddr, Option<GatewayTls>)>) -> Self {
        let side = Side::Devices;
        let listening =
            |(at, tls)| Listening { at: Some(at), tls, side: side.clone(), closed: false };
        Listeners { all: devices.into_iter().map(listening).collect(), sign_in: false }
    }

    pub(super) fn add(&mut self, at: Option<SocketAddr>, tls: Option<GatewayTls>, side: Side) {
        self.all.push(Listening { at, tls, side, closed: false });
        self.look_for_sign_in();
    }

    /// The number of a closed listener at this address, for the same side.
    pub(super) fn closed(&self, at: SocketAddr, side: &Side) -> Option<usize> {
        self.all.iter().position(|listening| {
            listening.closed && listening.at == Some(at) && listening.side.is_like(side)
        })
    }

    /// Opens a closed listener again; the counts of its routes continue.
    pub(super) fn open_again(&mut self, number: usize, tls: Option<GatewayTls>, side: Side) {
        let Some(listening) = self.all.get_mut(number) else { return };
        (listening.tls, listening.side, listening.closed) = (tls, side, false);
        self.look_for_sign_in();
    }

    /// Marks the listener at this address as closed, and returns its number.
    pub(super) fn close(&mut self, at: SocketAddr) -> Option<usize> {
        let mut open = self.all.iter_mut().enumerate().filter(|(_, listening)| !listening.closed);
        let (number, listening) = open.find(|(_, listening)| listening.at == Some(at))?;
        listening.closed = true;
        Some(number)
    }

    /// The routes of the open visitors' listeners as text, each line with its listener's address.
    #[cfg_attr(not(feature = "admin"), allow(dead_code))]
    pub(super) fn rows(&self, most: usize) -> Vec<String> {
        let of = |listening: &Listening| {
            let at = listening.at.map_or_else(String::new, |at| at.to_string());
            let routes = listening.side.table().map(|table| table.told(most)).unwrap_or_default();
            routes.into_iter().map(move |route| format!("{at} {route}"))
        };
        self.all.iter().filter(|listening| !listening.closed).flat_map(of).take(most).collect()
    }

    /// The open listeners with certificates: their side, address, and when the certificates expire.
    #[cfg_attr(not(feature = "admin"), allow(dead_code))]
    pub(super) fn certificates(&self) -> Vec<(Whose, SocketAddr, SystemTime)> {
        let of = |(number, listening): (usize, &Listening)| {
            let expires = listening.tls.as_ref().filter(|_| !listening.closed)?.expires()?;
            Some((self.side(number)?, listening.at?, expires))
        };
        self.all.iter().enumerate().filter_map(of).collect()
    }

    pub(super) fn side(&self, listener: usize) -> Option<Whose> {
        Some(self.all.get(listener)?.side.whose())
    }

    /// Returns true if this listener is for other gateways.
    pub(super) fn is_for_peers(&self, listener: usize) -> bool {
        self.all.get(listener).is_some_and(|listening| matches!(listening.side, Side::Peers))
    }

    pub(super) fn tls(&self, listener: usize) -> Option<&GatewayTls> {
        self.all.get(listener)?.tls.as_ref()
    }

    /// The routes and the port of a visitors' listener.
    pub(super) fn visitors(&self, listener: usize) -> Option<(&Table, u16)> {
        let Listening { at, side, .. } = self.all.get(listener)?;
        Some((side.table()?, at.map_or(0, |at| at.port())))
    }

    /// Returns true if any listener has a sign-in. A cookie belongs to its host, regardless of the
    /// port.
    pub(super) fn sign_in(&self) -> bool {
        self.sign_in
    }

    fn look_for_sign_in(&mut self) {
        let mut tables = self.all.iter().filter_map(|listening| listening.side.table());
        self.sign_in = tables.any(|table| table.signs_in_anywhere());
    }

    /// Returns true if a route names this device.
    pub(super) fn name(&self, device: &str) -> bool {
        self.all.iter().filter_map(|listening| listening.side.table()).any(|t| t.names(device))
    }

    /// Replaces the certificates of the listener at this address, and returns its number.
    pub(super) fn set_tls(&mut self, at: SocketAddr, new: GatewayTls) -> Result<usize, Error> {
        let found =
            self.all.iter_mut().enumerate().filter(|(_, listening)| listening.at == Some(at));
        let mut with_tls = found.filter_map(|(n, listening)| Some((n, listening.tls.as_mut()?)));
        let Some((number, tls)) = with_tls.next() else {
            return Err(Error::usage(format!(
                "this gateway does not speak TLS at {at}; give the address of a listener that was begun with TLS"
            )));
        };
        *tls = new;
        Ok(number)
    }

    /// Replaces the routes of the listener at this address, and returns the old ones.
    pub(super) fn set_routes(
        &mut self,
        at: SocketAddr,
        new: Arc<Table>,
    ) -> Result<Arc<Table>, Error> {
        let found = self.all.iter_mut().filter(|listening| listening.at == Some(at));
        let mut tables = found.filter_map(|listening| match &mut listening.side {
            Side::Visitors(table) => Some(table),
            Side::Devices | Side::Peers => None,
        });
        let Some(table) = tables.next() else {
            return Err(Error::usage(format!(
                "this gateway has no visitors' listener at {at}; give the address that listen_visitors() returned"
            )));
        };
        let old = std::mem::replace(table, new);
        self.look_for_sign_in();
        Ok(old)
    }
}

/// Binds with a large backlog (std and mio use 128, which devices that reconnect at once would
/// overflow). Of several sockets, each gets a share of the connections.
pub(super) fn bind(
    address: &str,
    whose: &str,
    sockets: usize,
) -> Result<(Vec<TcpListener>, SocketAddr), Error> {
    let doing = |e: io::Error| {
        let hint = why_not_bound(&e);
        Error::io(Fault::Network, format_args!("listening for {whose} on {address}{hint}"), e)
    };
    if let Some(why) = why_no_address(address) {
        return Err(Error::usage(format!("listening for {whose} on {address:?}: {why}")));
    }
    let candidates: Vec<SocketAddr> = address.to_socket_addrs().map_err(doing)?.collect();
    let Some(at) = candidates.first() else {
        return Err(Error::usage(format!("listening for {whose}: {address} names no address")));
    };
    let mut listeners = vec![open(*at, sockets, true).map_err(doing)?];
    let at = listeners[0].local_addr().map_err(doing)?;
    for _ in 1..sockets {
        listeners.push(open(at, sockets, false).map_err(doing)?);
    }
    Ok((listeners, at))
}

/// The error in the syntax of an address, and the correct form.
fn why_no_address(address: &str) -> Option<String> {
    const LIKE: &str = "write it HOST:PORT, like 127.0.0.1:9999 or 0.0.0.0:9999";
    match address.rsplit_once(':') {
        None => Some(LIKE.to_owned()),
        Some((_, port)) if number::<u16>(port).is_none() => {
            Some(format!("{port:?} is no port (0 to 65535); {LIKE}"))
        }
        Some(("", port)) => Some(format!("the host is missing; 0.0.0.0:{port} is every address")),
        Some(_) => None,
    }
}

/// Why an address cannot be bound, and the remedy.
pub(crate) fn why_not_bound(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program has this port, or this gateway itself at another address: stop it or choose another port"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need privileges: choose another port, or grant CAP_NET_BIND_SERVICE"
        }
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        _ => "",
    }
}

fn open(at: SocketAddr, sockets: usize, is_first: bool) -> io::Result<TcpListener> {
    let socket =
        socket2::Socket::new(socket2::Domain::for_address(at), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    // The first is bound without SO_REUSEPORT, so that another process that listens there is
    // detected. The option is set afterwards for the others.
    if !is_first {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&at.into())?;
    if is_first && sockets > 1 {
        socket.set_reuse_port(true)?;
    }
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// The kernel cuts it to `net.core.somaxconn` (4,096 on Linux since 5.4).
const BACKLOG: i32 = 4096;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::gateway::routes::Routes;

    #[test]
    fn routes_are_told_of_listeners_that_are_open() {
        let at: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        let table = || Side::Visitors(Arc::new(Table::new(Routes::path())));
        let mut listeners = Listeners::of_devices(Vec::new());
        listeners.add(Some(at), None, table());
        let told = listeners.rows(9);
        assert!(told.iter().all(|row| row.starts_with("127.0.0.1:8080 ")) && !told.is_empty());
        let number = listeners.close(at).unwrap();
        assert!(listeners.rows(9).is_empty());
        listeners.open_again(number, None, table());
        assert_eq!(listeners.rows(9), told);
    }
}
