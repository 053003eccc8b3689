//! The proxy from the command line or the environment: `--proxy`, or else the variables that curl
//! uses.
//!
//! curl's rules: the variable of the URL's scheme, then `all_proxy`; lower case before upper case,
//! but `HTTP_PROXY` is never read (a CGI program gets it from its client's `Proxy` field); an empty
//! variable counts as unset, a URL without a scheme is `http://`, userinfo is percent-encoded.
//! `no_proxy` applies to the environment's proxy, not to `--proxy`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reverse_http::Device;
use reverse_http::device::{DeviceBuilder, goes_without_proxy};
use reverse_http::proto::digits::percent_decoded;

use crate::addresses::{bare, with_port};
use crate::{Failure, usage};

/// User and password.
type Credentials = Option<(String, String)>;

/// Sets the proxy of a device that dials `gateways`, of which the first decides about the variable.
/// `given` is the value of `--proxy` or PTTH_PROXY.
pub(crate) fn set(
    builder: DeviceBuilder,
    given: Option<&str>,
    gateways: &[&str],
) -> Result<DeviceBuilder, Failure> {
    let Some(proxy) = Proxy::of(given, is_typed(), gateways, variable)? else { return Ok(builder) };
    let builder = builder.proxy(proxy.url).no_proxy(proxy.no_proxy);
    Ok(match proxy.credentials {
        Some((user, password)) => builder.proxy_credentials(user, password),
        None => builder,
    })
}

/// Returns true if `--proxy` is an argument, and not a variable.
fn is_typed() -> bool {
    std::env::args_os()
        .any(|argument| argument == "--proxy" || argument.to_string_lossy().starts_with("--proxy="))
}

/// A proxy from an option or from the environment.
#[derive(Debug)]
struct Proxy {
    /// The option or variable that names it.
    source: &'static str,
    /// Without userinfo.
    url: String,
    credentials: Credentials,
    /// Hosts that are dialled without it.
    no_proxy: String,
}

impl Proxy {
    /// `None` if there is none for any of these gateways.
    ///
    /// # Errors
    /// It is not a proxy that is spoken to.
    fn of(
        given: Option<&str>,
        typed: bool,
        gateways: &[&str],
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Proxy>, Failure> {
        if given == Some("none") {
            return Ok(None);
        }
        let first = gateways.first().copied().unwrap_or_default();
        let found = match given {
            // The library refuses userinfo, because others can read a process's arguments.
            Some(url) if typed => {
                let (url, no_proxy) = (url.to_owned(), String::new());
                return Ok(Some(Proxy { source: "--proxy", url, credentials: None, no_proxy }));
            }
            Some(url) => Some(("PTTH_PROXY", url.to_owned())),
            None => of_environment(first, &variable),
        };
        let Some((source, url)) = found else { return Ok(None) };
        let no_proxy = if given.is_some() { String::new() } else { exceptions(&variable) };
        if gateways.iter().all(|gateway| goes_without_proxy(gateway, &no_proxy)) {
            return Ok(None);
        }
        match split(&url) {
            // The environment is often made for other programs, so an unsupported scheme there does
            // not prevent the start.
            Err(why) if source.eq_ignore_ascii_case("all_proxy") && why == OTHER_KIND => {
                log::warn!("{source}: {why}; dialling without a proxy (say so with --proxy none)");
                Ok(None)
            }
            Err(why) => Err(usage(format!("{source}: {why}, or --proxy none"))),
            Ok((url, credentials)) => Ok(Some(Proxy { source, url, credentials, no_proxy })),
        }
    }
}

/// The proxy of one connection.
pub(crate) struct ProxyServer {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The option or variable that names it.
    pub(crate) source: &'static str,
    credentials: Credentials,
}

impl ProxyServer {
    pub(crate) fn authority(&self) -> String {
        with_port(&self.host, self.port)
    }

    /// The request for a tunnel to `HOST:PORT`.
    pub(crate) fn connect(&self, to: &str) -> String {
        let credentials = self.credentials.as_ref().map(|(user, password)| {
            let encoded = STANDARD.encode(format!("{user}:{password}"));
            format!("Proxy-Authorization: Basic {encoded}\r\n")
        });
        let agent = concat!("ptth/", env!("CARGO_PKG_VERSION"));
        format!(
            "CONNECT {to} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: {agent}\r\n{}\r\n",
            credentials.unwrap_or_default()
        )
    }
}

/// The proxy that a device would use for this gateway, by the same rules as [`set`].
pub(crate) fn server_for(
    given: Option<&str>,
    gateway: &str,
) -> Result<Option<ProxyServer>, Failure> {
    let found = Proxy::of(given, is_typed(), &[gateway], variable)?;
    let Some(Proxy { source, url, credentials, .. }) = found else { return Ok(None) };
    Device::builder("http://localhost/check").proxy(&url).build()?; // the library's verdict
    let uri: Option<http::Uri> = url.parse().ok();
    let authority = uri.as_ref().and_then(http::Uri::authority);
    let authority =
        authority.ok_or_else(|| usage(format!("{source}: write a proxy like http://HOST:PORT")))?;
    let host = bare(authority.host()).to_owned();
    let port = authority.port_u16().unwrap_or(1080); // as the library, and curl
    Ok(Some(ProxyServer { host, port, source, credentials }))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The variable for this URL, and its value.
fn of_environment(
    gateway: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Option<(&'static str, String)> {
    let names: &[&str] = match gateway.split_once("://") {
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
            &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
        }
        _ => &["http_proxy", "all_proxy", "ALL_PROXY"],
    };
    names.iter().find_map(|name| variable(name).map(|value| (*name, value)))
}

fn exceptions(variable: impl Fn(&str) -> Option<String>) -> String {
    variable("no_proxy").or_else(|| variable("NO_PROXY")).unwrap_or_default()
}

/// For example SOCKS.
const OTHER_KIND: &str =
    "this kind of proxy is not supported, only CONNECT; name one by http://HOST:PORT";

/// A proxy's URL without userinfo and path, and the credentials in the userinfo. Errors do not show
/// them.
fn split(value: &str) -> Result<(String, Credentials), &'static str> {
    let rest = match value.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
            return Err("a proxy behind TLS is not supported; name one by http://HOST:PORT");
        }
        Some(_) => return Err(OTHER_KIND),
        None => value,
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let Some((userinfo, host)) = authority.rsplit_once('@') else {
        return Ok((format!("http://{authority}"), None));
    };
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let text = |encoded: &str| String::from_utf8(percent_decoded(encoded.as_bytes())?).ok();
    let decoded = || Some((text(user)?, text(password)?));
    let credentials =
        decoded().ok_or("its userinfo is not percent-encoded UTF-8; write a % as %25")?;
    Ok((format!("http://{host}"), Some(credentials)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_read_as_curl_reads_it() {
        let all =
            ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
        for (gateway, set, named) in [
            ("http://gw", &all[..], Some("http_proxy")),
            ("http://gw", &all[1..], Some("all_proxy")),
            ("http://gw", &all[1..4], None), // HTTP_PROXY may be a client's word
            ("http://gw", &all[5..], Some("ALL_PROXY")),
            ("https://gw", &all[..], Some("https_proxy")),
            ("HTTPS://gw", &all[3..], Some("HTTPS_PROXY")),
            ("https://gw", &all[..2], None),
        ] {
            let found = of_environment(gateway, |name| set.contains(&name).then(|| "x".to_owned()));
            assert_eq!(found.map(|(name, _)| name), named, "{gateway} {set:?}");
        }
        assert_eq!(exceptions(|name| Some(name.to_owned())), "no_proxy");
        assert_eq!(exceptions(|name| (name == "NO_PROXY").then(|| "b".to_owned())), "b");
    }

    #[test]
    fn userinfo_becomes_credentials_and_stands_in_no_error() {
        let secret = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        for (value, url, credentials) in [
            ("http://proxy:3128", "http://proxy:3128", None),
            ("proxy:3128", "http://proxy:3128", None),
            ("HTTP://proxy:3128/", "http://proxy:3128", None),
            ("http://me:hunter2@proxy:3128/", "http://proxy:3128", secret("me", "hunter2")),
            ("me@proxy", "http://proxy", secret("me", "")),
            ("http://m%40e:p%3aw@[::1]:1", "http://[::1]:1", secret("m@e", "p:w")),
            ("http://a:b@c@proxy", "http://proxy", secret("a", "b@c")),
        ] {
            assert_eq!(split(value), Ok((url.to_owned(), credentials)), "{value}");
        }
        for value in [
            "socks5://me:hunter2@proxy",
            "https://me:hunter2@proxy",
            "http://me:hunter2%@proxy",
            "http://me:hunter2%ff@proxy",
        ] {
            assert!(!split(value).unwrap_err().contains("hunter2"), "{value}");
        }
    }

    /// The result for both `ptth device` and `ptth check`.
    fn found(
        given: Option<&str>,
        typed: bool,
        set: &[(&str, &str)],
    ) -> Result<Option<String>, String> {
        let variable = |name: &str| {
            let value = set.iter().find(|(known, _)| *known == name);
            value.map(|(_, value)| (*value).to_owned())
        };
        let proxy = Proxy::of(given, typed, &["http://gw.example/lamp"], variable);
        proxy.map(|proxy| proxy.map(|proxy| proxy.url)).map_err(|failure| failure.text)
    }

    #[test]
    fn an_option_is_meant_and_an_environment_may_be_for_others() {
        let proxy = Ok(Some("http://p:1".to_owned()));
        for (given, typed, set) in [
            (Some("http://p:1"), true, &[][..]),
            (Some("http://p:1"), true, &[("no_proxy", "gw.example")]),
            (Some("http://me:hunter2@p:1"), false, &[]),
            (None, false, &[("http_proxy", "p:1")]),
            (None, false, &[("ALL_PROXY", "http://me:hunter2@p:1")]),
        ] {
            assert_eq!(found(given, typed, set), proxy, "{given:?} {set:?}");
        }
        for (given, set) in [
            (Some("none"), &[("http_proxy", "p:1")][..]),
            (None, &[]),
            (None, &[("all_proxy", "socks5://p:1")]),
            (None, &[("ALL_PROXY", "socks5://p:1")]),
            (None, &[("http_proxy", "socks5://p:1"), ("no_proxy", "gw.example")]),
        ] {
            assert_eq!(found(given, false, set), Ok(None), "{given:?} {set:?}");
        }
        for (given, typed, set) in [
            (Some("socks5://me:hunter2@p:1"), false, &[][..]),
            (None, false, &[("http_proxy", "socks5://me:hunter2@p:1")]),
            (None, false, &[("all_proxy", "https://me:hunter2@p:1")]),
        ] {
            let told = found(given, typed, set).unwrap_err();
            assert!(told.contains("proxy") && !told.contains("hunter2"), "{told}");
        }
    }
}
