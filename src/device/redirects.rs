//! Where a gateway may redirect a device (T57): to hosts that the operator allows, on ports that do
//! not belong to another well-known service, and never to an address that is nearer to the device
//! than the gateway itself.
//!
//! Otherwise a hostile gateway, or an impostor, could make the device send a POST to services that
//! only the device can reach: on its own loopback, or a cloud's metadata service (169.254.169.254,
//! or `fd00:ec2::254`).

use crate::device::no_proxy::Except;
use crate::device::no_proxy::network;
use crate::device::url::Reach;
use crate::device::url::Url;
use crate::error::Error;
use crate::proto::digits::number;
use crate::setting::REDIRECT_HOST;

/// The hosts to which a device may be redirected.
#[derive(Clone, Debug, Default)]
pub(crate) struct RedirectHosts {
    /// The hosts of the configured gateways, with their ports.
    pub(super) own: Vec<(String, u16)>,
    allowed: Vec<(Host, Option<u16>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Any,
    /// In lower case, without a dot at its end.
    Name(String),
    /// All names below this one, which begins with a dot.
    Below(String),
    Network(Except),
}

impl RedirectHosts {
    /// Each of `entries` is `HOST`, `*.DOMAIN`, an address, a network, or `*`; with `:PORT` it
    /// allows only that port.
    ///
    /// # Errors
    /// An invalid entry.
    pub(super) fn new<'a>(
        own: impl Iterator<Item = &'a Url>,
        entries: &[String],
    ) -> Result<Self, Error> {
        let own = own.map(|url| (normal(&url.host), url.port)).collect();
        let allowed = entries.iter().map(|entry| {
            parse(entry.trim()).ok_or_else(|| {
                Error::usage(format!(
                    "redirect host {entry:?}: write a host like gw2.example, *.gw.example for all below it, an address, a network like 10.0.0.0/8, \
                     or * for any; with :PORT for that port alone"
                ))
            })
        });
        Ok(RedirectHosts { own, allowed: allowed.collect::<Result<_, _>>()? })
    }

    /// The URL of a `Location` in a response of `from`: absolute, or a path on the same host.
    /// `reach` is how far away its sender is.
    pub(super) fn follow(&self, from: &Url, location: &str, reach: Reach) -> Result<Url, Error> {
        let to = match location.starts_with('/') && !location.starts_with("//") {
            true => {
                let scheme = if from.secure { "https" } else { "http" };
                Url::parse(&format!("{scheme}://{}{location}", from.authority), "redirect")?
            }
            false => Url::parse(location, "redirect")?,
        };
        if from.secure && !to.secure {
            return Err(Error::usage(format!(
                "redirect URL {}: it leads out of TLS, from https:// to http://",
                to.text
            )));
        }
        if !from.same_origin(&to) {
            self.check(&to).map_err(|why| Error::usage(format!("redirect URL {why}")))?;
        }
        Ok(Url { nearest: from.nearest.max(reach), ..to })
    }

    /// Checks whether the device may use this URL, without a lookup.
    ///
    /// # Errors
    /// The reason why it may not.
    pub(super) fn check(&self, url: &Url) -> Result<(), String> {
        let host = normal(&url.host);
        let own = || self.own.iter().filter(|(own, _)| *own == host);
        let listed = |port: Option<u16>| {
            self.allowed.iter().any(|(entry, only)| *only == port && entry.is(&host))
        };
        if own().any(|(_, port)| *port == url.port) || listed(Some(url.port)) {
            return Ok(());
        }
        if own().next().is_none() && !listed(None) {
            return Err(format!(
                "{}: this device is only redirected to the hosts of its own gateways; allow others ({REDIRECT_HOST})",
                url.text
            ));
        }
        let usual = if url.secure { 443 } else { 80 };
        match url.port == usual || url.port > 1023 {
            true => Ok(()),
            false => Err(format!(
                "{}: a port below 1024 that is not the scheme's own is some other service's; allow it as {host}:{} ({REDIRECT_HOST})",
                url.text, url.port
            )),
        }
    }
}

impl Host {
    fn is(&self, host: &str) -> bool {
        match self {
            Host::Any => true,
            Host::Name(name) => name == host,
            Host::Below(domain) => host.len() > domain.len() && host.ends_with(domain.as_str()),
            Host::Network(network) => host.parse().is_ok_and(|address| network.holds(address)),
        }
    }
}

fn normal(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

fn parse(entry: &str) -> Option<(Host, Option<u16>)> {
    if let Some(whole) = network(entry) {
        return Some((Host::Network(whole), None));
    }
    let (host, port) = match entry.rsplit_once(':') {
        Some((host, port)) => (host, Some(number(port).filter(|port| *port > 0)?)),
        None => (entry, None),
    };
    if host == "*" {
        return Some((Host::Any, port));
    }
    if let Some(whole) = network(host) {
        return Some((Host::Network(whole), port));
    }
    let is_name = |name: &str| {
        let labels = name.strip_suffix('.').unwrap_or(name);
        !labels.is_empty()
            && labels.split('.').all(|label| {
                !label.is_empty()
                    && label
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            })
    };
    match host.strip_prefix("*.") {
        Some(domain) => {
            is_name(domain).then(|| (Host::Below(format!(".{}", normal(domain))), port))
        }
        None => is_name(host).then(|| (Host::Name(normal(host)), port)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text, "redirect").unwrap()
    }

    #[test]
    fn redirects_lead_to_hosts_that_are_allowed_and_ports_that_are_no_other_services() {
        let own = [
            url("http://gw.example:81/lamp"),
            url("http://127.0.0.1:9999/lamp"),
            url("http://[::1]/lamp"),
        ];
        let hosts = |allowed: &[&str]| {
            let allowed: Vec<String> = allowed.iter().map(|&entry| entry.to_owned()).collect();
            RedirectHosts::new(own.iter(), &allowed).unwrap()
        };
        for (allowed, to, may) in [
            (&[][..], "http://gw.example/x", true),
            (&[], "http://GW.Example.:8080/x", true),
            (&[], "http://gw.example:1024/x", true),
            (&[], "http://gw.example:1023/x", false),
            (&[], "http://gw.example:81/x", true),
            (&[], "http://gw.example:443/x", false),
            (&[], "http://gw.example:22/x", false),
            (&[], "http://other.example/x", false),
            (&[], "http://x.gw.example/x", false),
            (&[], "http://127.0.0.1:6379/x", true), // where the gateway is on this machine
            (&[], "http://127.0.0.2:9999/x", false),
            (&[], "http://[::1]:9999/x", true),
            (&["other.example"], "http://other.example/x", true),
            (&["other.example"], "http://other.example:81/x", false),
            (&["other.example:81"], "http://other.example:81/x", true),
            (&["other.example:81"], "http://other.example/x", false),
            (&["*.example"], "http://other.example/x", true),
            (&["*.example"], "http://a.b.example/x", true),
            (&["*.example"], "http://example/x", false),
            (&["*.example"], "http://xexample/x", false),
            (&["10.0.0.0/8"], "http://10.1.2.3/x", true),
            (&["10.0.0.0/8"], "http://11.1.2.3/x", false),
            (&["10.0.0.0/8"], "http://ten.example/x", false),
            (&["[2001:db8::1]:82"], "http://[2001:db8::1]:82/x", true),
            (&["2001:db8::1"], "http://[2001:db8::1]:82/x", false),
            (&["*"], "http://anything.example/x", true),
            (&["*"], "http://anything.example:25/x", false),
            (&["*:25"], "http://anything.example:25/x", true),
        ] {
            assert_eq!(hosts(allowed).check(&url(to)).is_ok(), may, "{allowed:?} {to}");
        }
        for wrong in [
            "",
            "http://gw.example",
            "gw.example:x",
            "gw.example:+80",
            "gw.example:0",
            "*x",
            "a..b",
            "*.",
            "10.0.0.0/33",
            "a b",
            "gw.example/x",
        ] {
            assert!(
                RedirectHosts::new(own.iter(), &[wrong.to_owned()]).unwrap_err().is_usage(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn addresses_have_a_distance() {
        for (host, reach) in [
            ("127.0.0.1", Reach::Loopback),
            ("127.255.0.1", Reach::Loopback),
            ("0.0.0.0", Reach::Loopback),
            ("::1", Reach::Loopback),
            ("::", Reach::Loopback),
            ("::ffff:127.0.0.1", Reach::Loopback),
            ("localhost", Reach::Loopback),
            ("LocalHost.", Reach::Loopback),
            ("x.localhost", Reach::Loopback),
            ("169.254.169.254", Reach::LinkLocal),
            ("::ffff:169.254.169.254", Reach::LinkLocal),
            ("fe80::1", Reach::LinkLocal),
            ("fd00:ec2::254", Reach::LinkLocal),
            ("fd20:ce::254", Reach::LinkLocal),
            ("100.100.100.200", Reach::LinkLocal),
            ("168.63.129.16", Reach::LinkLocal),
            ("::ffff:168.63.129.16", Reach::LinkLocal),
            ("fd00:ec3::254", Reach::Beyond),
            ("fd20::254", Reach::Beyond),
            ("100.100.100.201", Reach::Beyond),
            ("10.0.0.1", Reach::Beyond),
            ("fec0::1", Reach::Beyond),
            ("192.0.2.1", Reach::Beyond),
            ("2001:db8::1", Reach::Beyond),
            ("notlocalhost", Reach::Beyond),
        ] {
            assert_eq!(Reach::of_host(host), reach, "{host}");
        }
        assert!(Reach::Loopback < Reach::LinkLocal && Reach::LinkLocal < Reach::Beyond);
    }

    #[test]
    fn redirects_may_be_relative_and_change_the_origin() {
        let url = Url::parse("http://gw.example:9999/lamp", "gateway").unwrap();
        let near = follow(&url, "/other").unwrap();
        assert!(near.same_origin(&url) && near.target == "/other");
        assert!(!follow(&url, "http://gw2.example:9999/lamp").unwrap().same_origin(&url));
        assert!(follow(&url, "ftp://gw2.example/").is_err());
    }

    fn follow(url: &Url, location: &str) -> Result<Url, Error> {
        let hosts = RedirectHosts::new(std::iter::once(url), &["*".to_owned()]).unwrap();
        hosts.follow(url, location, Reach::Loopback)
    }

    #[test]
    fn a_redirect_leads_no_nearer_than_where_any_of_a_row_came_from() {
        let url = Url::parse("http://gw.example/lamp", "gateway").unwrap();
        assert_eq!(
            url.too_near(Reach::Loopback),
            None,
            "what is configured is dialled wherever it is"
        );
        let hosts = RedirectHosts::new(std::iter::once(&url), &["*".to_owned()]).unwrap();
        let far = hosts.follow(&url, "/other", Reach::Beyond).unwrap();
        assert!(
            far.too_near(Reach::Loopback).is_some()
                && far.too_near(Reach::LinkLocal).is_some()
                && far.too_near(Reach::Beyond).is_none()
        );
        let again = hosts.follow(&far, "/more", Reach::Loopback).unwrap();
        assert!(again.too_near(Reach::LinkLocal).is_some());
        let near = hosts.follow(&url, "/other", Reach::LinkLocal).unwrap();
        assert!(
            near.too_near(Reach::Loopback).is_some() && near.too_near(Reach::LinkLocal).is_none()
        );
    }

    #[test]
    #[cfg(feature = "tls")]
    fn https_has_its_own_port_and_is_not_left_by_a_redirect() {
        let url = Url::parse("https://gw.example/lamp", "gateway").unwrap();
        assert!(url.secure && url.port == 443);
        assert!(follow(&url, "/other").unwrap().secure);
        assert!(!url.same_origin(&Url::parse("http://gw.example:443/lamp", "gateway").unwrap()));
        let error = follow(&url, "http://gw.example/lamp").unwrap_err().to_string();
        assert!(error.contains("https"), "{error}");
        assert!(
            follow(&Url::parse("http://gw.example/", "gateway").unwrap(), "https://gw2.example/")
                .unwrap()
                .secure
        );
    }
}
