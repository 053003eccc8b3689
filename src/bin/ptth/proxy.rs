//! The proxy on the way out, as the command line and the environment name it: `--proxy`, else what
//! curl would read.
//!
//! curl's rules: the variable of the URL's scheme, then `all_proxy`; lower case before upper case,
//! but `HTTP_PROXY` is never read (a CGI program has it from its client's `Proxy` field); an empty
//! variable is none, a URL without a scheme is `http://`, userinfo is percent-encoded. `no_proxy`
//! goes with the environment's proxy, not with `--proxy`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reverse_http::device::{DeviceBuilder, goes_without_proxy};

use crate::{Failure, usage};

/// User and password.
type Credentials = Option<(String, String)>;

/// Sets the proxy of a device that dials `gateways`, of which the first decides about the variable;
/// `given` is what `--proxy` or PTTH_PROXY says.
pub(crate) fn set(
    builder: DeviceBuilder,
    given: Option<&str>,
    gateways: &[&str],
) -> Result<DeviceBuilder, Failure> {
    let typed = || {
        std::env::args_os().any(|argument| {
            argument == "--proxy" || argument.to_string_lossy().starts_with("--proxy=")
        })
    };
    match given {
        Some("none") => Ok(builder),
        Some(url) if typed() => Ok(builder.proxy(url)), // userinfo is refused there: others can read a process's arguments
        Some(url) => with(builder, "PTTH_PROXY", url),
        None => match of_environment(gateways.first().copied().unwrap_or_default(), variable) {
            Some((name, url)) => of_variable(builder, name, &url, &exceptions(variable), gateways),
            None => Ok(builder),
        },
    }
}

/// The proxy of one connection.
pub(crate) struct Way {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The option or variable that names it.
    pub(crate) source: &'static str,
    credentials: Credentials,
}

impl Way {
    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
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
pub(crate) fn way(given: Option<&str>, gateway: &str) -> Result<Option<Way>, Failure> {
    let (source, url) = match given {
        Some("none") => return Ok(None),
        Some(url) => ("--proxy or PTTH_PROXY", url.to_owned()),
        None => match of_environment(gateway, variable) {
            Some((_, _)) if goes_without_proxy(gateway, &exceptions(variable)) => return Ok(None),
            Some(found) => found,
            None => return Ok(None),
        },
    };
    let (url, credentials) = split(&url).map_err(|why| usage(format!("{source}: {why}")))?;
    let uri: Option<http::Uri> = url.parse().ok();
    let authority = uri.as_ref().and_then(http::Uri::authority);
    let authority =
        authority.ok_or_else(|| usage(format!("{source}: write a proxy like http://HOST:PORT")))?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = authority.port_u16().unwrap_or(1080); // as the library, and curl
    Ok(Some(Way { host, port, source, credentials }))
}

/// The environment is often made for other programs: what is not for these gateways, or for
/// whatever scheme, is no reason not to start.
fn of_variable(
    builder: DeviceBuilder,
    name: &str,
    url: &str,
    no_proxy: &str,
    gateways: &[&str],
) -> Result<DeviceBuilder, Failure> {
    let Err(why) = split(url) else { return Ok(with(builder, name, url)?.no_proxy(no_proxy)) };
    if gateways.iter().all(|gateway| goes_without_proxy(gateway, no_proxy)) {
        return Ok(builder);
    }
    if name.eq_ignore_ascii_case("all_proxy") && why == OTHER_KIND {
        log::warn!("{name}: {why}; dialling without a proxy (say so with --proxy none)");
        return Ok(builder);
    }
    with(builder, name, url)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The variable that counts for this URL, and its value.
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

fn with(builder: DeviceBuilder, name: &str, value: &str) -> Result<DeviceBuilder, Failure> {
    let (url, credentials) =
        split(value).map_err(|why| usage(format!("{name}: {why}, or --proxy none")))?;
    let builder = builder.proxy(url);
    Ok(match credentials {
        Some((user, password)) => builder.proxy_credentials(user, password),
        None => builder,
    })
}

/// SOCKS, for one.
const OTHER_KIND: &str =
    "this kind of proxy is not spoken to, only CONNECT; name one by http://HOST:PORT";

/// A proxy's URL without userinfo and path, and what the userinfo says. Errors show nothing of it.
fn split(value: &str) -> Result<(String, Credentials), &'static str> {
    let rest = match value.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
            return Err("a proxy behind TLS is not spoken to; name one by http://HOST:PORT");
        }
        Some(_) => return Err(OTHER_KIND),
        None => value,
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let Some((userinfo, host)) = authority.rsplit_once('@') else {
        return Ok((format!("http://{authority}"), None));
    };
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let decoded = || Some((percent_decoded(user)?, percent_decoded(password)?));
    let credentials =
        decoded().ok_or("its userinfo is not percent-encoded UTF-8; write a % as %25")?;
    Ok((format!("http://{host}"), Some(credentials)))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        bytes.push((digit()? * 16 + digit()?) as u8); // two hex digits are one byte
    }
    String::from_utf8(bytes).ok()
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
}
