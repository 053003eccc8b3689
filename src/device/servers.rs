//! The local servers of a device by their paths, and the request that each of them gets.

use std::sync::Arc;
use std::time::Instant;

use crate::device::local_pool::ServerId;
use crate::device::target::Edits;
use crate::device::target::Target;
use crate::engine::connections::Id;
use crate::error::Error;
use crate::error::Refusal;
use crate::limits::Limits;
use crate::proto::alias::Alias;
use crate::proto::body::Framing;
use crate::proto::bound_login;
use crate::proto::forward;
use crate::proto::forward::RequestRules;
use crate::proto::forwarded::path_prefix;
use crate::proto::framed::FramedRequest;
use crate::proto::head;
use crate::proto::prefixes::Prefixes;
use crate::proto::prefixes::path_of;
use crate::proto::prefixes::without_prefix;
use crate::proto::upgrade;
use crate::relay::Exchange;
use crate::relay::LocalAnswer;
use crate::stream::Connector;

/// A local server for [`Device::forward_to`](crate::Device::forward_to), and the paths that it
/// serves. A URL converts into a server for all paths.
///
/// ```no_run
/// use reverse_http::{Device, device::LocalServer};
/// let device = Device::builder("https://gw.example/lamp").build()?;
/// device.forward_to([
///     LocalServer::new("http://127.0.0.1:3000"),                                       // all else
///     LocalServer::new("http://127.0.0.1:8080").path("/api")?,                         // /api/x as /api/x
///     LocalServer::new("http://192.168.1.20").path("/cam")?.strip_path(true).connections(1), // /cam/x as /x
/// ])?; // blocks
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalServer {
    url: String,
    /// Without a slash at its end: `/` becomes empty.
    path: String,
    strips_path: bool,
    host_header: Option<String>,
    connections: Option<usize>,
}

impl LocalServer {
    /// `http://127.0.0.1:3000`, `https://nas.internal` (feature `tls`) or `unix:/run/app.sock`, for
    /// all paths.
    pub fn new(url: impl Into<String>) -> Self {
        LocalServer {
            url: url.into(),
            path: String::new(),
            strips_path: false,
            host_header: None,
            connections: None,
        }
    }

    /// Restricts it to paths that begin with these segments: `/api` matches `/api`, `/api/` and
    /// `/api/x`, but not `/apix`. Of several servers the one with the longest path is chosen. Paths
    /// are compared byte for byte, without decoding, and case matters.
    ///
    /// # Errors
    /// No path can match: it does not begin with `/`, or has an empty segment, a segment of dots, a
    /// query or a fragment.
    pub fn path(mut self, path: &str) -> Result<Self, Error> {
        let prefix = path_prefix(path)
            .map_err(|why| Error::usage(format!("path {path:?}: {why}; write it like /api")))?;
        prefix.clone_into(&mut self.path);
        Ok(self)
    }

    /// Whether these segments are removed from the path, sent in `X-Forwarded-Prefix`, and put back
    /// into paths in the server's `Location`, `Content-Location`, `Refresh` and `Set-Cookie`.
    /// Default: the path is passed on unchanged.
    #[must_use]
    pub fn strip_path(mut self, strip: bool) -> Self {
        self.strips_path = strip;
        self
    }

    /// Replaces [`DeviceBuilder::host_header`](crate::DeviceBuilder::host_header) for this server.
    pub fn host_header(mut self, host: impl Into<String>) -> Self {
        self.host_header = Some(host.into());
        self
    }

    /// Replaces [`Limits::local_connections_max`] for this server; 0: as many as there are
    /// requests.
    #[must_use]
    pub fn connections(mut self, most: usize) -> Self {
        self.connections = Some(most);
        self
    }
}

impl From<&str> for LocalServer {
    fn from(url: &str) -> Self {
        LocalServer::new(url)
    }
}

impl From<&String> for LocalServer {
    fn from(url: &String) -> Self {
        LocalServer::new(url)
    }
}

impl From<String> for LocalServer {
    fn from(url: String) -> Self {
        LocalServer::new(url)
    }
}

/// The local servers of a device: one, or several for different paths.
///
/// ```
/// use reverse_http::device::{LocalServer, LocalServers};
///
/// let one = LocalServers::from("http://127.0.0.1:3000");
/// let two = [LocalServer::new("http://127.0.0.1:3000"), LocalServer::new("unix:/run/cam.sock").path("/cam")?];
/// assert_ne!(one, LocalServers::from(two));
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalServers(Vec<LocalServer>);

impl<S: Into<LocalServer>> From<S> for LocalServers {
    fn from(server: S) -> Self {
        LocalServers(vec![server.into()])
    }
}

impl From<Vec<LocalServer>> for LocalServers {
    fn from(servers: Vec<LocalServer>) -> Self {
        LocalServers(servers)
    }
}

impl<const N: usize> From<[LocalServer; N]> for LocalServers {
    fn from(servers: [LocalServer; N]) -> Self {
        LocalServers(servers.into())
    }
}

/// The most servers; more are probably a mistake.
const SERVERS_CEILING: usize = 64;

/// Settings for all local servers of a device.
pub(super) struct Common<'a> {
    pub(super) host_header: Option<&'a str>,
    pub(super) maps_origin: bool,
    pub(super) edits: &'a Edits,
    pub(super) connections_max: usize,
    /// The program has given TLS settings.
    pub(super) has_tls: bool,
    /// The verification of servers at `https`. It is called only if needed, because reading the
    /// system's roots takes a moment and may fail.
    pub(super) connector: &'a dyn Fn() -> Result<Arc<Connector>, Error>,
}

/// Validated local servers.
#[derive(Clone, Debug)]
pub(crate) struct Servers {
    list: Vec<Target>,
    by_path: Prefixes<ServerId>,
}

impl Servers {
    pub(super) fn new(
        LocalServers(given): LocalServers,
        common: &Common<'_>,
    ) -> Result<Self, Error> {
        if given.is_empty() || given.len() > SERVERS_CEILING {
            return Err(Error::usage(format!(
                "{} local servers: it takes 1 to {SERVERS_CEILING}",
                given.len()
            )));
        }
        if let Some(server) = given
            .iter()
            .find(|_| common.has_tls)
            .filter(|_| !given.iter().any(|server| server.url.starts_with("https:")))
        {
            return Err(Error::usage(format!(
                "settings of TLS are given for the local server {}, and its URL does not begin with https://; write https:// or omit them",
                server.url
            )));
        }
        let mut servers = Servers { list: Vec::new(), by_path: Prefixes::default() };
        let mut connector = None;
        for server in given {
            let LocalServer { url, path, strips_path, host_header, connections } = server;
            let known = || {
                let known = connector.take().map_or_else(common.connector, Ok)?;
                connector = Some(known.clone());
                Ok(known)
            };
            let host_header = host_header.or(common.host_header.map(str::to_owned));
            let target = Target {
                maps_origin: common.maps_origin && host_header.is_some(),
                edits: common.edits.clone(),
                stripped: Some(path.clone()).filter(|path| strips_path && !path.is_empty()),
                connections_max: connections.unwrap_or(common.connections_max),
                ..Target::parse(&url, host_header, known)?
            };
            if strips_path && path.is_empty() {
                return Err(Error::usage(format!(
                    "local server {url} is for all paths, and there is none to strip"
                )));
            }
            if let Some(other) = servers.by_path.insert(path.clone(), servers.list.len()) {
                return Err(Error::usage(format!(
                    "local servers {} and {url} are both for the path {path}/; a path goes to one server",
                    servers.list[other].text
                )));
            }
            servers.list.push(target);
        }
        match common.maps_origin && servers.list.iter().all(|target| !target.maps_origin) {
            true => Err(Error::usage(
                "Origin is mapped to the local server's Host, and no host header is given",
            )),
            false => Ok(servers),
        }
    }

    pub(super) fn get(&self, server: ServerId) -> Option<&Target> {
        self.list.get(server)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Target> {
        self.list.iter()
    }

    /// Replaces the verification of servers at `https`, and returns these servers.
    pub(super) fn know(&mut self, connector: &Arc<Connector>) -> Vec<ServerId> {
        let mut known = Vec::new();
        for (server, target) in self.list.iter_mut().enumerate() {
            if let Some(tls) = &mut target.tls {
                *tls = connector.clone();
                known.push(server);
            }
        }
        known
    }

    /// Rewrites a gateway's request for its local server. If no server matches, the exchange has no
    /// server.
    pub(super) fn plan(
        &self,
        downstream: Id,
        request: &FramedRequest<'_>,
        limits: &Limits,
        now: Instant,
    ) -> Result<Exchange, Refusal> {
        let framing = request.framing();
        let came = forward::host_of(request)?;
        let asked = forward::origin_form(request)?;
        let found = self.by_path.find(path_of(asked)).copied();
        let Some((server, target)) = found.and_then(|server| Some((server, self.get(server)?)))
        else {
            return Ok(Exchange::new(downstream, request, framing, Vec::new(), limits, now));
        };
        let host = target.host_header.as_deref().or(came).unwrap_or(&target.authority);
        let alias = alias(target, request, host, came)?;
        let prefix = alias.as_ref().filter(|_| target.stripped.is_some()).map(Alias::prefix);
        let rules = RequestRules {
            target: &without_prefix(asked, target.stripped.as_deref().unwrap_or_default()),
            host,
            prefix,
            forwarded: None,
            via: None,
            keep_underscore: true,
            drop_authorization: false, // the gateway has dropped untrusted ones
            upgrade: upgrade::is_offer(request, framing),
            request_id: None,
            edits: target.edits.request.as_deref(),
            alias: alias.as_ref(),
            own_cookie: None,
        };
        let mut text = Vec::with_capacity(request.len + 64);
        forward::request(&mut text, request, framing, &rules)?;
        let is_odd = framing != Framing::Empty && !head::expects_content(request.method);
        let is_shared = !bound_login::has_bound_login(&request.fields)
            && request.fields.get(forward::SAME_VISITOR).is_none();
        if is_odd && is_shared {
            forward::ask_to_close(&mut text);
        }
        let mut exchange = Exchange::new(downstream, request, framing, text, limits, now);
        exchange.server = Some(server);
        exchange.edits.clone_from(&target.edits.response);
        exchange.edit_trailers(target.edits.request.clone());
        exchange.alias = alias.map(Box::new);
        Ok(exchange)
    }
}

/// The name of a server that gets another host or path than its visitors use.
fn alias(
    target: &Target,
    request: &FramedRequest<'_>,
    host: &str,
    came: Option<&str>,
) -> Result<Option<Alias>, Refusal> {
    let alias = match (&target.host_header, &target.stripped) {
        (None, None) => return Ok(None),
        (Some(told), _) => Alias::of_host(told)?.at_port(target.port()),
        (None, Some(_)) => Alias::same(host),
    };
    let alias = alias.behind_prefix(&request.fields);
    let alias = target.stripped.iter().fold(alias, |alias, stripped| alias.stripped(stripped));
    Ok(Some(alias.names_visitors(came.filter(|_| target.maps_origin))))
}

/// The answer if no server matches the path.
pub(super) const NO_SERVER: LocalAnswer<'_> = LocalAnswer {
    error: Some("destination_not_found"),
    keep: true,
    ..LocalAnswer::new(404, "this device has no local server for this path")
};

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn servers(given: impl Into<LocalServers>, has_tls: bool) -> Result<Servers, Error> {
        let common = Common {
            host_header: None,
            maps_origin: false,
            edits: &Edits::default(),
            connections_max: 0,
            has_tls,
            connector: &|| Err(Error::usage("this connector is never asked")),
        };
        Servers::new(given.into(), &common)
    }

    #[test]
    fn a_path_goes_to_one_server() {
        let server = |url: &str, path: &str| LocalServer::new(url).path(path).unwrap();
        assert!(servers("http://a", false).is_ok());
        assert!(servers([server("http://a", "/"), server("http://b", "/b")], false).is_ok());
        for (given, why) in [
            (vec![], "0 local servers"),
            (vec![server("http://a", "/"); 65], "65 local servers"),
            (vec![server("http://a", "/"), server("http://b", "/")], "for the path /;"),
            (vec![server("http://a", "/x"), server("http://b", "/x/")], "for the path /x/;"),
            (vec![server("http://a", "/").strip_path(true)], "none to strip"),
            (vec![server("http://a/x", "/x")], "omit the path"),
        ] {
            let error = servers(given, false).unwrap_err();
            assert!(error.is_usage() && error.to_string().contains(why), "{error}");
        }
        for path in ["x", "", "/x//y", "/x/..", "/x?y", "/%zz", "/a b"] {
            assert!(LocalServer::new("http://a").path(path).unwrap_err().is_usage(), "{path}");
        }
    }

    #[test]
    fn settings_of_tls_want_a_server_at_https() {
        for url in ["unix:/run/app.sock", "http://127.0.0.1:3000"] {
            assert!(servers(url, true).unwrap_err().to_string().contains("https://"), "{url}");
        }
        let both =
            [LocalServer::new("http://a"), LocalServer::new("https://b").path("/b").unwrap()];
        let why =
            if cfg!(feature = "tls") { "never asked" } else { "which this build does not have" };
        let error = servers(both, true).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
