//! Maps between the name that a server is given and the name that its visitors use. At a device,
//! the server is a local server; at a gateway, it is a device behind a route that removes a prefix
//! from the path.
//!
//! A server that gets another `Host`, or another path, than its visitors asked for puts these into
//! its redirects and cookies, where visitors cannot use them. They are mapped back to the visitors'
//! own, and nothing else is (T11):
//!
//! ```text
//!   told Host: app.internal:3000     Location: http://app.internal:3000/login ─► /lamp/login
//!   told /x, asked for /cam/x        Location: /login                         ─► /lamp/cam/login
//!                                    Set-Cookie: s=1; Path=/                  ─► s=1; Path=/lamp/cam
//!   Origin: https://gw.example ─► https://app.internal:3000                   with names_visitors() alone
//! ```
//! The result is a path without scheme and host: visitors know theirs. A URL that names any other
//! server, or one that two readers would read differently (userinfo, blanks, a backslash for a
//! slash), stays as it is.

use crate::error::Refusal;
use crate::proto::absolute::{absolute_form, split_authority};
use crate::proto::authority::{Authority, authority};
use crate::proto::fields::{Fields, begins, same_name, trim};
use crate::proto::forwarded::outer_prefix;

/// How a local server is named inside and outside, for [`RequestRules`] and [`ResponseRules`].
///
/// [`RequestRules`]: crate::proto::forward::RequestRules
/// [`ResponseRules`]: crate::proto::forward::ResponseRules
///
/// ```
/// use reverse_http::proto::alias::Alias;
/// let alias = Alias::of_host("app.internal:3000")?;
/// assert_eq!(alias.seen("Location", b"http://app.internal:3000/login").as_deref(), Some(&b"/login"[..]));
/// assert_eq!(alias.seen("Location", b"http://elsewhere.example/login"), None);
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// `Host`, as the server gets it.
    told: String,
    /// It is another one than its visitors use.
    is_renamed: bool,
    /// The prefix that the gateway, and then the device, removed from the path: `/lamp/cam`, or
    /// empty.
    prefix: String,
    /// The device removed a part of it, so a `Location` that is only a path lacks it, too.
    is_stripped: bool,
    /// Its cookies are restricted to paths below the prefix, whatever their `Path`: other paths
    /// belong to other devices.
    is_confined: bool,
    /// Visitors asked for the prefix itself. Browsers then resolve relative references outside of
    /// it.
    is_bare: bool,
    /// The port that the server listens on, which it may add to the name that it gets.
    port: Option<u16>,
    /// The visitors' `Host`, if it is to be replaced by the server's own in `Origin` and `Referer`.
    visitors: Option<String>,
}

impl Alias {
    /// For a server that gets `host` as its name, while its visitors use another.
    ///
    /// # Errors
    /// It is not a valid host.
    pub fn of_host(host: &str) -> Result<Self, Refusal> {
        Ok(Alias { is_renamed: true, ..Alias::same(authority(host.as_bytes())?.whole) })
    }

    /// For a server that gets the host that its visitors use.
    pub(crate) fn same(host: &str) -> Self {
        Alias {
            told: host.to_owned(),
            is_renamed: false,
            prefix: String::new(),
            is_stripped: false,
            is_confined: false,
            is_bare: false,
            port: None,
            visitors: None,
        }
    }

    /// Adds the port that the server listens on: its name with this port means the server, too.
    pub(crate) fn at_port(mut self, port: Option<u16>) -> Self {
        self.port = port;
        self
    }

    /// Adds the prefix that the gateway removed from the path, if the request names one that is
    /// valid in a path.
    pub(crate) fn behind_prefix(mut self, request: &Fields<'_>) -> Self {
        let said =
            request.get("x-forwarded-prefix").and_then(|line| std::str::from_utf8(line).ok());
        self.prefix = said.and_then(outer_prefix).unwrap_or_default().to_owned();
        self
    }

    /// Adds a prefix that the device removes after that.
    pub(crate) fn stripped(mut self, prefix: &str) -> Self {
        self.prefix.push_str(prefix);
        self.is_stripped = true;
        self
    }

    /// For a device behind a gateway's route: it gets the visitors' host, and `prefix`, which is
    /// not empty, was removed from the path; `is_bare`: the path was the prefix alone. None of its
    /// cookies reaches another device.
    ///
    /// ```
    /// use reverse_http::proto::alias::Alias;
    /// let alias = Alias::of_route("gw.example", "/lamp".to_owned(), false);
    /// assert_eq!(alias.seen("Location", b"/login").as_deref(), Some(&b"/lamp/login"[..]));
    /// let cookie = alias.seen("Set-Cookie", b"s=1; Path=/; Domain=gw.example");
    /// assert_eq!(cookie.as_deref(), Some(&b"s=1; Path=/lamp"[..]));
    /// ```
    #[must_use]
    pub fn of_route(host: &str, prefix: String, is_bare: bool) -> Self {
        Alias { prefix, is_stripped: true, is_confined: true, is_bare, ..Alias::same(host) }
    }

    /// The whole prefix that was removed from the path.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Sets the visitors' `Host`: in `Origin` and `Referer`, a URL with it gets the server's own.
    pub(crate) fn names_visitors(mut self, host: Option<&str>) -> Self {
        self.visitors = host.map(str::to_owned);
        self
    }

    /// The value of a response's field as visitors have to see it. `None`: as it is.
    #[must_use]
    pub fn seen(&self, name: &str, value: &[u8]) -> Option<Vec<u8>> {
        // By length first, since most names differ in it.
        match name.len() {
            7 if same_name(name, "refresh") => as_text(value, |text| self.refresh(text)),
            8 if same_name(name, "location") => as_text(value, |text| self.url(text)),
            10 if same_name(name, "set-cookie") => self.cookie(value),
            16 if same_name(name, "content-location") => as_text(value, |text| self.url(text)),
            _ => None,
        }
    }

    /// The value of a request's field as the server has to see it. `None`: as it is.
    pub(crate) fn meant(&self, name: &str, value: &[u8]) -> Option<Vec<u8>> {
        let is_origin = same_name(name, "origin");
        if !is_origin && !same_name(name, "referer") {
            return None;
        }
        let visitors = authority(self.visitors.as_deref()?.as_bytes()).ok()?;
        let url = std::str::from_utf8(value).ok().filter(|url| is_one_url(url))?;
        let (scheme_port, named, path) = absolute_form(url).ok()??;
        if !is_same(named, visitors, Some(scheme_port)) || (is_origin && !path.is_empty()) {
            return None;
        }
        let scheme = if scheme_port == 80 { "http" } else { "https" };
        let path = match begins_with_prefix(path, &self.prefix) {
            true => &path[self.prefix.len()..],
            false => path,
        };
        Some(format!("{scheme}://{}{path}", self.told).into_bytes())
    }

    /// Maps a URL that names the server to a path that visitors can ask for.
    fn url(&self, url: &str) -> Option<String> {
        if self.is_bare && is_relative(url) {
            return Some(format!("{}/{}", self.prefix, below(url)));
        }
        let path = self.path(url)?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        // A server that knows the prefix has written it already.
        let path = match begins_with_prefix(&path, &self.prefix) {
            true => path,
            false => format!("{}{path}", self.prefix),
        };
        // `//other.example/` would name another host (RFC 3986 §4.2), and browsers read a backslash
        // as a slash.
        Some(if path.starts_with("//") || path.starts_with("/\\") {
            format!("/.{path}")
        } else {
            path
        })
    }

    /// The path of a URL that names the server, or of one without a host.
    fn path<'u>(&self, url: &'u str) -> Option<&'u str> {
        if !is_one_url(url) {
            return None;
        }
        let told = || authority(self.told.as_bytes()).ok();
        if let Some((scheme_port, named, path)) = absolute_form(url).ok()? {
            let told = told()?;
            let is_at_port = self.port == Some(named.port.unwrap_or(scheme_port))
                && named.host.eq_ignore_ascii_case(told.host);
            return (is_at_port || is_same(named, told, Some(scheme_port))).then_some(path);
        }
        if let Some(rest) = url.strip_prefix("//") {
            let (named, path) = split_authority(rest).ok()?;
            return is_same(named, told()?, None).then_some(path);
        }
        (self.is_stripped && url.starts_with('/') && !url.starts_with("/\\")).then_some(url)
    }

    /// Maps `0; url=http://app.internal/`, as browsers read it (HTML, "shared declarative refresh
    /// steps").
    fn refresh(&self, value: &str) -> Option<String> {
        let value = value.trim_matches([' ', '\t']);
        let (delay, rest) = value.split_at(value.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        if delay.is_empty() || !rest.starts_with([';', ',', ' ', '\t']) {
            return None;
        }
        let rest = rest.trim_start();
        let rest = rest.strip_prefix([';', ',']).unwrap_or(rest).trim_start();
        let behind_name =
            begins(rest, "url").then(|| rest[3..].trim_start().strip_prefix('=')).flatten();
        let url = behind_name.map_or(rest, str::trim_start);
        let url = match url.strip_prefix(['"', '\'']) {
            Some(quoted) => quoted.split(&url[..1]).next()?,
            None => url,
        };
        Some(format!("{delay}; url={}", self.url(url)?))
    }

    /// Maps a cookie whose `Domain` or `Path` names the server, or would be outside the prefix.
    fn cookie(&self, value: &[u8]) -> Option<Vec<u8>> {
        let mut parts = value.split(|byte| *byte == b';');
        let pair = parts.next()?;
        // Browsers accept a `__Host-` cookie only with the path `/`, or with none. A confined one
        // has another path, and they reject it.
        let is_bound = !self.is_confined
            && trim(pair).get(..7).is_some_and(|begin| begin.eq_ignore_ascii_case(b"__Host-"));
        let (mut seen, mut changed, mut has_path) = (pair.to_vec(), false, false);
        for part in parts {
            let (name, content) = attribute(part);
            let becomes = self.attribute(name, content, is_bound);
            let length =
                if let Attribute::Path(path) = &becomes { path.len() } else { content.len() };
            if name.eq_ignore_ascii_case(b"path") && length <= ATTRIBUTE_BYTES_MAX {
                has_path = content.starts_with(b"/"); // the last one counts (RFC 6265 §5.2)
            }
            match becomes {
                Attribute::Stays => seen.extend_from_slice(&[b";", part].concat()),
                Attribute::Goes => changed = true,
                Attribute::Path(path) => {
                    changed = true;
                    seen.extend_from_slice(b"; Path=");
                    seen.extend_from_slice(&path);
                }
            }
        }
        // The default is the folder of the requested path (RFC 6265 §5.1.4).
        if self.is_confined && self.is_bare && !has_path {
            changed = true;
            seen.extend_from_slice(b"; Path=");
            seen.extend_from_slice(self.prefix.as_bytes());
        }
        changed.then_some(seen)
    }

    fn attribute(&self, name: &[u8], value: &[u8], is_bound: bool) -> Attribute {
        if name.eq_ignore_ascii_case(b"domain") {
            // Without `Domain`, the cookie belongs to the host that it came from: the visitors'.
            let dots = value.iter().take_while(|byte| **byte == b'.').count();
            let is_told = || {
                authority(self.told.as_bytes())
                    .is_ok_and(|told| value[dots..].eq_ignore_ascii_case(told.host.as_bytes()))
            };
            return match self.is_confined || (self.is_renamed && is_told()) {
                true => Attribute::Goes,
                false => Attribute::Stays,
            };
        }
        let is_path = self.is_stripped && !is_bound && name.eq_ignore_ascii_case(b"path");
        let prefix = self.prefix.as_bytes();
        let has_prefix = || {
            let behind = value.strip_prefix(prefix).filter(|_| !prefix.is_empty());
            behind.is_some_and(|behind| behind.is_empty() || behind.starts_with(b"/"))
        };
        if !is_path || !value.starts_with(b"/") || has_prefix() {
            return Attribute::Stays;
        }
        // The path `/lamp/cam` matches `/lamp/cam`, too; `/lamp/cam/` does not (RFC 6265 §5.1.4).
        Attribute::Path([prefix, if value == b"/" { b"" } else { value }].concat())
    }
}

/// Longest attribute of a cookie. Browsers ignore a longer one (RFC 6265bis §5.6).
const ATTRIBUTE_BYTES_MAX: usize = 1024;

/// How an attribute of a cookie is mapped.
enum Attribute {
    Stays,
    Goes,
    Path(Vec<u8>),
}

/// Name and value of a cookie's attribute, as browsers read them.
fn attribute(part: &[u8]) -> (&[u8], &[u8]) {
    let equals = part.iter().position(|byte| *byte == b'=').unwrap_or(part.len());
    (trim(&part[..equals]), trim(part.get(equals + 1..).unwrap_or_default()))
}

/// Maps a value as text. Bytes that are not UTF-8 are passed on unchanged.
fn as_text(value: &[u8], map: impl FnOnce(&str) -> Option<String>) -> Option<Vec<u8>> {
    if let Ok(text) = std::str::from_utf8(value) {
        return map(text).map(String::into_bytes);
    }
    let text: String = value.iter().copied().map(char::from).collect();
    let mapped = map(&text)?;
    mapped.chars().map(|c| u8::try_from(c).ok()).collect()
}

/// Returns true if a URL is relative to the path of the requested one (RFC 3986 §4.2).
fn is_relative(url: &str) -> bool {
    let first = url.find([':', '/', '?', '#', '\\']);
    let has_scheme = first.is_some_and(|at| url[at..].starts_with(':'));
    !url.is_empty() && first != Some(0) && !has_scheme && is_one_url(url)
}

/// A relative URL without leading segments that would go above the root.
fn below(mut url: &str) -> &str {
    while let Some(rest) = url.strip_prefix("../").or_else(|| url.strip_prefix("./")) {
        url = rest;
    }
    match url {
        "." | ".." => "",
        url => url,
    }
}

/// Returns true if the text is a single URL that browsers read as it is: they drop tabs and line
/// ends, and lists are not mapped.
fn is_one_url(text: &str) -> bool {
    text.bytes().all(|byte| byte > b' ' && byte != 0x7F)
}

/// Returns true if both authorities are the same. `scheme_port`: the port that a missing one means;
/// without a scheme, both have a port, or neither has.
fn is_same(a: Authority<'_>, b: Authority<'_>, scheme_port: Option<u16>) -> bool {
    a.host.eq_ignore_ascii_case(b.host) && a.port.or(scheme_port) == b.port.or(scheme_port)
}

/// Returns true if the path begins with these whole segments; false if there are none.
fn begins_with_prefix(path: &str, prefix: &str) -> bool {
    let behind = path.strip_prefix(prefix).filter(|_| !prefix.is_empty());
    behind.is_some_and(|behind| behind.is_empty() || behind.starts_with(['/', '?', '#']))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn alias(told: &str, prefix: &str) -> Alias {
        Alias { prefix: prefix.to_owned(), ..Alias::of_host(told).unwrap() }
    }

    #[track_caller]
    fn sees(alias: &Alias, name: &str, value: &str, seen: Option<&str>) {
        let mapped =
            alias.seen(name, value.as_bytes()).map(|seen| String::from_utf8(seen).unwrap());
        assert_eq!(mapped.as_deref(), seen, "{name}: {value}, {alias:?}");
    }

    #[test]
    fn a_location_of_the_alias_is_a_path_for_visitors() {
        for (told, prefix, location, seen) in [
            ("app.internal:3000", "", "http://app.internal:3000/x?y", Some("/x?y")),
            ("app.internal:3000", "", "HTTP://APP.internal:3000", Some("/")),
            ("app.internal:3000", "", "http://app.internal:3000?y", Some("/?y")),
            ("app.internal", "", "http://app.internal:80/x", Some("/x")),
            ("app.internal", "", "https://app.internal/x", Some("/x")),
            ("app.internal:443", "", "https://app.internal/x", Some("/x")),
            ("app.internal", "/lamp", "http://app.internal/x", Some("/lamp/x")),
            ("app.internal", "/lamp", "http://app.internal/lamp/x", Some("/lamp/x")),
            ("app.internal", "/lamp", "http://app.internal/lampoon", Some("/lamp/lampoon")),
            ("app.internal", "", "//app.internal/x", Some("/x")),
            ("app.internal", "", "http://app.internal//evil.example/x", Some("/.//evil.example/x")),
            ("app.internal", "", "http://app.internal/\\evil.example", Some("/./\\evil.example")),
            ("app.internal:3000", "", "http://app.internal/x", None),
            ("app.internal:3000", "", "//app.internal/x", None),
            ("app.internal", "", "http://other.example/x", None),
            ("app.internal", "", "//other.example/x", None),
            ("app.internal", "", "http://app.internal.evil.example/", None),
            ("app.internal", "", "http://app.internal@evil.example/", None),
            ("app.internal", "", "http://app.internal\\@evil.example/", None),
            ("app.internal", "", "http://me@app.internal/x", None),
            ("app.internal", "", "http://app.internal/\t/evil.example", None),
            ("app.internal", "", "http:/app.internal/x", None),
            ("app.internal", "", "ftp://app.internal/x", None),
            ("app.internal", "", "javascript://app.internal/%0aalert(1)", None),
            ("app.internal", "/lamp", "/x", None),
            ("app.internal", "/lamp", "x", None),
            ("app.internal", "", "", None),
        ] {
            let alias = alias(told, prefix);
            sees(&alias, "Location", location, seen);
            sees(&alias, "content-location", location, seen);
            sees(&alias, "X-Location", location, None);
        }
    }

    #[test]
    fn a_server_may_add_the_port_that_it_listens_on() {
        let alias = alias("app.internal", "").at_port(Some(8080));
        for (location, seen) in [
            ("http://app.internal:8080/x", Some("/x")),
            ("http://app.internal/x", Some("/x")),
            ("http://app.internal:8081/x", None),
            ("http://other.example:8080/x", None),
        ] {
            sees(&alias, "Location", location, seen);
        }
    }

    #[test]
    fn a_refresh_is_read_as_browsers_read_it() {
        let alias = alias("app.internal", "/lamp");
        for (refresh, seen) in [
            ("0; url=http://app.internal/x", Some("0; url=/lamp/x")),
            ("0;URL='http://app.internal/x'", Some("0; url=/lamp/x")),
            ("5.5 , url = \"http://app.internal/x\" y", Some("5.5; url=/lamp/x")),
            ("3; http://app.internal/x", Some("3; url=/lamp/x")),
            ("5 http://app.internal/x", Some("5; url=/lamp/x")),
            ("5 url=http://app.internal/x", Some("5; url=/lamp/x")),
            ("5,http://app.internal/x", Some("5; url=/lamp/x")),
            ("5 ;, http://app.internal/x", None),
            ("5http://app.internal/x", None),
            ("0; url=http://other.example/http://app.internal/", None),
            ("0; url='http://other.example/';url=http://app.internal/", None),
            ("0; url=/x", None),
            ("5", None),
            ("http://app.internal/x", None),
            ("x; url=http://app.internal/x", None),
            ("0; url=", None),
            ("0; url=\"", None),
        ] {
            sees(&alias, "Refresh", refresh, seen);
        }
    }

    #[test]
    fn a_cookie_of_the_alias_is_one_of_the_visitors_host() {
        let alias = alias("app.internal:3000", "/lamp");
        for (cookie, seen) in [
            ("a=b; Domain=app.internal; Secure", Some("a=b; Secure")),
            ("a=b;domain = .APP.internal", Some("a=b")),
            ("a=Domain=app.internal; Path=/x", None),
            ("a=b; Domain=internal", None),
            ("a=b; Domain=other.example", None),
            ("a=b; Domain", None),
            ("a=b; Path=/", None),
            ("a", None),
        ] {
            sees(&alias, "Set-Cookie", cookie, seen);
        }
        assert_eq!(
            alias.seen("set-cookie", b"a=\xff; Domain=app.internal").as_deref(),
            Some(&b"a=\xff"[..])
        );
    }

    #[test]
    fn paths_get_back_what_was_stripped() {
        let strips =
            |told| Alias { prefix: "/lamp".to_owned(), ..Alias::same(told) }.stripped("/cam");
        let alias = strips("gw.example");
        for (url, seen) in [
            ("/", Some("/lamp/cam/")),
            ("/x?y", Some("/lamp/cam/x?y")),
            ("/cam/x", Some("/lamp/cam/cam/x")),
            ("/lamp/cam/x", Some("/lamp/cam/x")),
            ("/lamp/cam", Some("/lamp/cam")),
            ("/lamp/camera", Some("/lamp/cam/lamp/camera")),
            ("https://gw.example/x", Some("/lamp/cam/x")),
            ("https://gw.example", Some("/lamp/cam/")),
            ("https://gw.example//evil.example", Some("/lamp/cam//evil.example")),
            ("//gw.example/x", Some("/lamp/cam/x")),
            ("//evil.example/x", None),
            ("/\\evil.example/x", None),
            ("/\t/evil.example/x", None),
            ("x", None),
            ("../x", None),
            ("?x", None),
            ("https://gw.example:8443/x", None),
        ] {
            sees(&alias, "Location", url, seen);
            let refresh = format!("1; url={url}");
            let seen = seen.map(|seen| format!("1; url={seen}"));
            sees(&alias, "Refresh", &refresh, seen.as_deref());
        }
        for (cookie, seen) in [
            ("a=b; Path=/; HttpOnly", Some("a=b; Path=/lamp/cam; HttpOnly")),
            ("a=b;path=/x", Some("a=b; Path=/lamp/cam/x")),
            ("a=b; Path=/lamp/cam/x", None),
            ("a=b; Path=x", None),
            ("a=b; Path", None),
            ("a=b", None),
            ("__Host-a=b; Secure; Path=/", None),
            ("a=b; Domain=gw.example", None),
        ] {
            sees(&alias, "Set-Cookie", cookie, seen);
        }
        // A name that is invalid in a URL: paths are still mapped.
        sees(&strips("a b"), "Location", "/x", Some("/lamp/cam/x"));
        sees(&strips("a b"), "Location", "http://a b/x", None);
    }

    #[test]
    fn what_a_route_took_off_is_put_back_and_no_cookie_leads_beside_it() {
        let route = |bare| Alias::of_route("gw.example", "/lamp".to_owned(), bare);
        for bare in [false, true] {
            for (url, seen) in [
                ("/", Some("/lamp/")),
                ("/x?y#z", Some("/lamp/x?y#z")),
                ("/door/x", Some("/lamp/door/x")),
                ("/lamp/x", Some("/lamp/x")),
                ("/lampoon", Some("/lamp/lampoon")),
                ("https://GW.example/x", Some("/lamp/x")),
                ("//gw.example", Some("/lamp/")),
                ("https://other.example/x", None),
                ("//other.example/x", None),
                ("//host/x", None),
                ("/\\other.example", None),
                ("mailto:x", None),
                ("?x", None),
                ("#x", None),
                ("", None),
                ("/é", Some("/lamp/é")),
            ] {
                sees(&route(bare), "Location", url, seen);
                sees(&route(bare), "content-location", url, seen);
            }
            for (refresh, seen) in [
                ("5; url='/x'", Some("5; url=/lamp/x")),
                ("5;URL=\"https://gw.example/x\"", Some("5; url=/lamp/x")),
                ("5; url='//other.example/'", None),
                ("5", None),
            ] {
                sees(&route(bare), "Refresh", refresh, seen);
            }
            for (cookie, seen) in [
                ("a=b; Path=/", "a=b; Path=/lamp"),
                ("a=b; PATH = / ; Secure", "a=b; Path=/lamp; Secure"),
                ("a=b; Path=/door; HttpOnly", "a=b; Path=/lamp/door; HttpOnly"),
                ("a=b; Path=/lamp/x; Domain=gw.example", "a=b; Path=/lamp/x"),
                ("a=b; Path=/lamp; Path=/", "a=b; Path=/lamp; Path=/lamp"),
                ("a=b; Path=/lampoon", "a=b; Path=/lamp/lampoon"),
                ("a=b; Path=/; Domain=.example; Secure", "a=b; Path=/lamp; Secure"),
                ("a=b; Path=/; Domain; SameSite=Lax", "a=b; Path=/lamp; SameSite=Lax"),
                ("__Host-a=b; Secure; Path=/", "__Host-a=b; Secure; Path=/lamp"),
                ("a=\"b c\"; Path=/", "a=\"b c\"; Path=/lamp"),
                ("a=Path=/; Path=/x", "a=Path=/; Path=/lamp/x"),
                ("; Path=/", "; Path=/lamp"),
            ] {
                sees(&route(bare), "Set-Cookie", cookie, Some(seen));
            }
            let seen = |name, value: &[u8]| route(bare).seen(name, value);
            assert_eq!(seen("Location", b"/\xe9").as_deref(), Some(&b"/lamp/\xe9"[..]));
            assert_eq!(seen("Refresh", b"1;url=/\xe9").as_deref(), Some(&b"1; url=/lamp/\xe9"[..]));
            let cookie = seen("Set-Cookie", b"a=\xff; Path=/\xe9");
            assert_eq!(cookie.as_deref(), Some(&b"a=\xff; Path=/lamp/\xe9"[..]));
        }
    }

    /// Browsers resolve a reference relative to /lamp itself outside of it: a URL, and a cookie
    /// without a path that browsers accept.
    #[test]
    fn what_is_relative_to_the_prefix_itself_is_put_below_it() {
        let route = |bare| Alias::of_route("gw.example", "/lamp".to_owned(), bare);
        for (url, below, bare) in [
            ("x", None, Some("/lamp/x")),
            ("../x", None, Some("/lamp/x")),
            ("..", None, Some("/lamp/")),
            ("./../y?z", None, Some("/lamp/y?z")),
        ] {
            sees(&route(false), "Location", url, below);
            sees(&route(true), "Location", url, bare);
        }
        for (cookie, below, bare) in [
            ("a=b", None, "a=b; Path=/lamp"),
            ("a=b; Path", None, "a=b; Path; Path=/lamp"),
            ("a=b; Path=\"/\"", None, "a=b; Path=\"/\"; Path=/lamp"),
            (
                "a=b; Path=/; Path=x",
                Some("a=b; Path=/lamp; Path=x"),
                "a=b; Path=/lamp; Path=x; Path=/lamp",
            ),
            ("a=b; Path\u{a0}=/x", None, "a=b; Path\u{a0}=/x; Path=/lamp"),
        ] {
            sees(&route(false), "Set-Cookie", cookie, below);
            sees(&route(true), "Set-Cookie", cookie, Some(bare));
        }
    }

    /// Browsers ignore such a path, and use the folder of the requested path instead.
    #[test]
    fn a_cookies_path_that_browsers_ignore_is_none() {
        let bare = Alias::of_route("gw.example", "/lamp".to_owned(), true);
        let path = |bytes: usize| format!("/{}", "x".repeat(bytes - 1));
        for (cookie, added) in [
            (format!("a=b; Path={}", path(1_019)), ""),
            (format!("a=b; Path={}", path(1_020)), "; Path=/lamp"),
            (format!("a=b; Path=/lamp{}", path(1_020)), "; Path=/lamp"),
            (format!("a=b; Path=/; Path={}", path(2_000)), ""),
            (format!("a=b; Path={}; Path=/", path(2_000)), ""),
        ] {
            let put_back =
                cookie.replace("Path=/x", "Path=/lamp/x").replace("Path=/;", "Path=/lamp;");
            let put_back = match put_back.strip_suffix("Path=/") {
                Some(before) => format!("{before}Path=/lamp"),
                None => put_back,
            };
            let seen = format!("{put_back}{added}");
            let mapped = bare.seen("Set-Cookie", cookie.as_bytes()).unwrap_or(cookie.into_bytes());
            assert_eq!(String::from_utf8(mapped).unwrap(), seen);
        }
    }

    #[test]
    fn an_origin_of_the_visitors_is_the_servers_own() {
        let alias = alias("app.internal:3000", "/lamp").names_visitors(Some("gw.example"));
        for (name, value, meant) in [
            ("Origin", "https://gw.example", Some("https://app.internal:3000")),
            ("origin", "http://GW.example:80", Some("http://app.internal:3000")),
            ("Origin", "https://gw.example/", None),
            ("Origin", "https://gw.example:8443", None),
            ("Origin", "https://evil.example", None),
            ("Origin", "https://gw.example.evil.example", None),
            ("Origin", "https://gw.example https://evil.example", None),
            ("Origin", "null", None),
            ("Referer", "https://gw.example/lamp/x?y", Some("https://app.internal:3000/x?y")),
            ("Referer", "https://gw.example/lamp", Some("https://app.internal:3000")),
            ("Referer", "https://gw.example/porch", Some("https://app.internal:3000/porch")),
            ("Referer", "https://gw.example@evil.example/lamp", None),
            ("Referer", "https://evil.example/?https://gw.example/", None),
            ("Referer", "/lamp/x", None),
            ("Host", "gw.example", None),
        ] {
            let mapped = alias.meant(name, value.as_bytes());
            assert_eq!(mapped.as_deref(), meant.map(str::as_bytes), "{name}: {value}");
        }
        assert_eq!(alias.clone().names_visitors(None).meant("Origin", b"https://gw.example"), None);
    }
}
