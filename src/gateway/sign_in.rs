//! Signing in: a browser sends its token once, in a form of the gateway, and then uses a cookie.
//!
//! ```text
//!   GET /lamp/x            no token     401 and the page, which posts to /lamp/.ptth/sign-in
//!   POST …/.ptth/sign-in   right token  303 to /lamp/x, Set-Cookie: ptth-sign-in=…; Path=/lamp
//!   GET /lamp/x            the cookie   the device, which never sees that cookie
//! ```
//! The cookie contains the encrypted SHA-256 of the token and an expiry, with a MAC that also
//! covers host and prefix, so a cookie for one device cannot be used elsewhere. An operator gives
//! the keys, which several gateways may share; otherwise a random one is made when the gateway
//! starts, so a restart signs all visitors out. The gateway keeps no list of signed-in visitors. A
//! token that is removed from the table, or expires, is refused at the next request.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::{Digest as _, Sha256};

use crate::engine::random;
use crate::gateway::rates::{Paces, Rate};
use crate::gateway::secrets::Kind;
use crate::gateway::tokens::Digest;
use crate::limits::SIGN_INS_PER_MINUTE;
use crate::proto::absolute::absolute_form;
use crate::proto::authority::{Authority, authority};
use crate::proto::digits::percent_decoded;
use crate::proto::fields::{Fields, trim};
use crate::proto::head::is_dots;

/// The cookie's name. It is never forwarded to a device, and a device cannot set it.
pub(super) const COOKIE: &str = "ptth-sign-in";
/// The gateway's own path below each route with a sign-in.
pub(super) const SIGN_IN: &str = "/.ptth/sign-in";
pub(super) const SIGN_OUT: &str = "/.ptth/sign-out";

/// The longest form, in bytes, and the further bytes that its chunks may need.
pub(super) const FORM_BYTES_MAX: usize = 4 * 1024;
/// The most cookies of our name that are checked. A browser sends one for each matching prefix and
/// domain, those with the longest path first: ours is among the last, and what pages of other hosts
/// plant for longer paths precedes it.
const COOKIES_MAX: usize = 4;

const NONCE: usize = 16;
const TIME: usize = 8;
const DIGEST: usize = 32;
const MAC: usize = 32;

/// The scope of a sign-in: a host and a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    /// The host by which the request was routed.
    pub(super) host: String,
    /// The route's part of the path: `/lamp`, or empty.
    pub(super) prefix: String,
    /// The prefix that a trusted proxy has removed before.
    pub(super) outer: String,
    /// The device of requests in this scope, if it is fixed.
    pub(super) device: Option<String>,
}

impl Scope {
    /// A path of this scope as browsers know it.
    pub(super) fn path(&self, behind: &str) -> String {
        [&self.outer, &self.prefix, behind].concat()
    }

    /// The page a visitor is sent to after signing in: `to` of the form, if it is a path below this
    /// scope, and cannot be read as another host by a browser (RFC 3986 §4.2; browsers take a
    /// backslash for a slash, and drop tabs and line ends).
    pub(super) fn goal(&self, to: &str) -> String {
        let here = self.path("");
        let is_plain = to.bytes().all(|byte| matches!(byte, 0x21..=0x7E) && byte != b'\\');
        let behind = to.strip_prefix(&here).filter(|_| is_plain);
        let is_below = behind.is_some_and(|behind| match here.is_empty() {
            true => behind.starts_with('/') && !behind.starts_with("//"),
            false => behind.is_empty() || behind.starts_with(['/', '?']),
        });
        let own = [self.path(SIGN_IN), self.path(SIGN_OUT)];
        let path = to.split('?').next().unwrap_or_default();
        let is_own = own.iter().any(|own| own == path);
        let has_dots = path.split('/').any(is_dots); // a browser would resolve them
        match is_below && !is_own && !has_dots {
            true => to.to_owned(),
            false => self.path("/"),
        }
    }

    /// The field that sets the cookie to this value, or deletes it.
    pub(super) fn set_cookie(&self, value: Option<&str>, secure: bool) -> String {
        let path = self.path("");
        let path = if path.is_empty() { "/" } else { &path };
        let (value, ends) =
            (value.unwrap_or_default(), if value.is_none() { "; Max-Age=0" } else { "" });
        let secure = if secure { "; Secure" } else { "" };
        format!("{COOKIE}={value}; Path={path}{ends}; HttpOnly; SameSite=Lax{secure}")
    }
}

/// Keys that an operator gives. An attacker who guesses one can sign in as anybody, and can test
/// guesses offline.
pub(super) const KEYS: Kind = Kind { noun: "key", of: "sign-ins", bytes: 32..=256 };

type Key = [u8; 32];

/// The secrets of all loops, and the cookies signed with them.
pub(super) struct SignIns {
    /// The operator's keys: the first one signs, and each one is accepted. If there are none,
    /// `drawn` is used.
    given: RwLock<Arc<[Key]>>,
    /// `None` if the system had no randomness.
    drawn: OnceLock<Option<Key>>,
    /// The rate of attempts per address.
    attempts: Paces,
}

type HmacSha256 = Hmac<Sha256>;

impl SignIns {
    /// `keys`: checked as [`KEYS`].
    pub(super) fn new(keys: &[String]) -> Self {
        SignIns {
            given: RwLock::new(digested(keys)),
            drawn: OnceLock::new(),
            attempts: Paces::of_address("signing in", Rate::per_minute(SIGN_INS_PER_MINUTE)),
        }
    }

    pub(super) fn attempts(&self) -> &Paces {
        &self.attempts
    }

    /// Replaces the operator's keys, checked as [`KEYS`].
    pub(super) fn set_keys(&self, keys: &[String]) {
        *self.given.write().unwrap_or_else(PoisonError::into_inner) = digested(keys);
    }

    /// The key that signs first.
    fn keys(&self) -> Arc<[Key]> {
        let given = self.given.read().unwrap_or_else(PoisonError::into_inner).clone();
        match given.is_empty() {
            true => self.drawn().into_iter().copied().collect(),
            false => given,
        }
    }

    fn drawn(&self) -> Option<&Key> {
        let draw = || {
            let mut key = [0; 32];
            match random::fill(&mut key) {
                Ok(()) => Some(key),
                Err(e) => {
                    log::error!("sign-in does not work: no random key ({e})");
                    None
                }
            }
        };
        self.drawn.get_or_init(draw).as_ref()
    }

    /// The value of a cookie for a visitor that has sent this token, valid until `ends`. `None` if
    /// the system has no randomness.
    pub(super) fn issue(&self, scope: &Scope, digest: &Digest, ends: SystemTime) -> Option<String> {
        let mut nonce = [0; NONCE];
        random::fill(&mut nonce).ok()?;
        let keys = self.keys();
        let key = keys.first()?;
        let mut hidden = pad(key, &nonce)?;
        hidden.iter_mut().zip(digest.bytes()).for_each(|(pad, byte)| *pad ^= byte);
        let ends = ends.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().to_be_bytes();
        let body = [&nonce[..], &ends, &hidden].concat();
        let mac = signed(key, scope, &body)?.finalize().into_bytes();
        Some(URL_SAFE_NO_PAD.encode([&body[..], &mac].concat()))
    }

    /// The token of a request's cookie. `None` if there is no valid cookie for this scope, or if
    /// there are several for different tokens, one of which may have been planted.
    pub(super) fn shown(
        &self,
        scope: &Scope,
        fields: &Fields<'_>,
        now: SystemTime,
    ) -> Option<Digest> {
        let all: Vec<&[u8]> = values(fields).collect();
        let last = all.iter().rev().take(COOKIES_MAX);
        let mut shown = last.filter_map(|value| self.read(scope, value, now));
        let first = shown.next()?;
        shown.all(|other| other == first).then_some(first)
    }

    fn read(&self, scope: &Scope, value: &[u8], now: SystemTime) -> Option<Digest> {
        const LENGTH: usize = NONCE + TIME + DIGEST + MAC;
        if value.len() != LENGTH.div_ceil(3) * 4 - (3 - LENGTH % 3) % 3 {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(value).ok().filter(|bytes| bytes.len() == LENGTH)?;
        let (body, mac) = bytes.split_at(LENGTH - MAC);
        let is_right = |key: &&Key| {
            let right = signed(key, scope, body);
            right.is_some_and(|right| right.verify_slice(mac).is_ok()) // in constant time
        };
        let keys = self.keys();
        let key = keys.iter().find(is_right)?;
        let (nonce, rest) = body.split_at(NONCE);
        let (ends, hidden) = rest.split_at(TIME);
        let ends = Duration::from_secs(u64::from_be_bytes(ends.try_into().ok()?));
        if UNIX_EPOCH.checked_add(ends)? <= now {
            return None;
        }
        let mut digest = pad(key, nonce)?;
        digest.iter_mut().zip(hidden).for_each(|(pad, byte)| *pad ^= byte);
        Some(Digest::of_bytes(digest))
    }
}

fn digested(keys: &[String]) -> Arc<[Key]> {
    keys.iter().map(|key| Sha256::digest(key).into()).collect()
}

fn mac(key: &Key, purpose: &[u8], parts: &[&[u8]]) -> Option<HmacSha256> {
    let mut mac = HmacSha256::new_from_slice(key).ok()?;
    mac.update(purpose);
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    Some(mac)
}

/// The pad that encrypts a digest: it has the same length, and is never used with another nonce.
fn pad(key: &Key, nonce: &[u8]) -> Option<[u8; DIGEST]> {
    Some(mac(key, b"pad", &[nonce])?.finalize().into_bytes().into())
}

fn signed(key: &Key, scope: &Scope, body: &[u8]) -> Option<HmacSha256> {
    mac(key, b"mac", &[scope.host.as_bytes(), scope.prefix.as_bytes(), body])
}

/// The values of our cookie in a request, as browsers write them.
fn values<'a>(fields: &Fields<'a>) -> impl Iterator<Item = &'a [u8]> {
    let pairs = fields.all("cookie").flat_map(|line| line.split(|byte| *byte == b';')).map(trim);
    pairs.filter_map(|pair| pair.strip_prefix(COOKIE.as_bytes())?.strip_prefix(b"="))
}

/// Returns true if a request was made by a page of its own host, according to `Sec-Fetch-Site`, or
/// else `Origin`. A current browser sends one of them. `hosts` are the names that the visitor may
/// have used for this host.
pub(super) fn is_same_origin<'h>(
    fields: &Fields<'_>,
    mut hosts: impl Iterator<Item = &'h str>,
) -> bool {
    let mut sites = fields.all("sec-fetch-site");
    if let Some(site) = sites.next() {
        return site == b"same-origin" && sites.next().is_none();
    }
    let mut origins = fields.all("origin");
    let (Some(origin), None) = (origins.next(), origins.next()) else { return false };
    let Ok(origin) = std::str::from_utf8(origin) else { return false };
    let Ok(Some((port, named, ""))) = absolute_form(origin) else { return false };
    let same = |host: Authority<'_>| {
        named.host.eq_ignore_ascii_case(host.host)
            && named.port.unwrap_or(port) == host.port.unwrap_or(port)
    };
    hosts.any(|host| authority(host.as_bytes()).is_ok_and(same))
}

/// Returns true if `Accept` names HTML, as browsers' do for pages and programs' do not.
pub(super) fn wants_page(fields: &Fields<'_>) -> bool {
    fields.list("accept").any(|member| {
        let kind = member.split(|byte| *byte == b';').next().unwrap_or_default();
        trim(kind).eq_ignore_ascii_case(b"text/html")
    })
}

/// The fields of the form.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) token: Vec<u8>,
    /// The path that its visitor requested, if given; else empty.
    pub(super) to: String,
}

impl Form {
    /// Reads a body of `application/x-www-form-urlencoded`. `None`: a name occurs twice, or an
    /// escape is invalid.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let (mut token, mut to) = (None, None);
        for pair in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let equals = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            let value = decoded(pair.get(equals + 1..).unwrap_or_default())?;
            let of = match &pair[..equals] {
                b"token" => &mut token,
                b"to" => &mut to,
                _ => continue,
            };
            if of.replace(value).is_some() {
                return None;
            }
        }
        // A copied token often has blanks at its end.
        let token = token.unwrap_or_default().trim_ascii().to_vec();
        Some(Form { token, to: String::from_utf8(to.unwrap_or_default()).ok()? })
    }
}

fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    let blanks: Vec<u8> =
        text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    percent_decoded(&blanks)
}

/// The page that asks for a token. `to` is the path that the visitor requested.
pub(super) fn page(scope: &Scope, to: &str, message: Option<&str>) -> String {
    let message = message.map(|text| format!("<p role=\"alert\">{text}</p>")).unwrap_or_default();
    let form = format!(
        "{message}<form method=\"post\" action=\"{}\"><label for=\"token\">Token</label>\
         <input id=\"token\" name=\"token\" type=\"password\" autocomplete=\"current-password\" required autofocus>\
         <input name=\"to\" type=\"hidden\" value=\"{}\"><button>Sign in</button></form>",
        escaped(&scope.path(SIGN_IN)),
        escaped(to)
    );
    whole("Sign in", &form)
}

/// The page of a signed-in visitor. `label`: the operator's name for the token.
pub(super) fn signed_in(scope: &Scope, label: Option<&str>) -> String {
    let label = label.map(|label| format!(" as {}", escaped(label))).unwrap_or_default();
    let form = format!(
        "<p>You are signed in to {}{label}. <a href=\"{}\">Go on</a></p>\
         <form method=\"post\" action=\"{}\"><button>Sign out</button></form>",
        escaped(&scope.host),
        escaped(&scope.path("/")),
        escaped(&scope.path(SIGN_OUT))
    );
    whole("Signed in", &form)
}

fn whole(title: &str, content: &str) -> String {
    const STYLE: &str = ":root{color-scheme:light dark;font:1rem/1.5 system-ui,sans-serif}\
        body{margin:0;min-height:100vh;display:grid;place-items:center}\
        main{box-sizing:border-box;width:100%;max-width:22rem;padding:1rem}\
        h1{font-size:1.25rem}form{display:grid;gap:.5rem}\
        input,button{font:inherit;padding:.5rem;box-sizing:border-box;width:100%}\
        [role=alert]{border-left:.25rem solid #c33;padding-left:.5rem}";
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"robots\" content=\"noindex\"><title>{title}</title><style>{STYLE}</style></head>\
         <body><main><h1>{title}</h1>{content}</main></body></html>"
    )
}

/// Fields of these pages: no caching, no frames of other sites, no external resources.
pub(super) const FIELDS: [(&str, &str); 5] = [
    ("Cache-Control", "no-store"),
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    // With no-referrer, browsers would send the form with `Origin: null`.
    ("Referrer-Policy", "same-origin"),
];

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::gateway::tokens::digest;
    use crate::limits::Limits;
    use crate::proto::head::{self, LineEnds};

    fn scope(prefix: &str) -> Scope {
        let (host, outer) = ("gw.example".to_owned(), String::new());
        Scope { host, prefix: prefix.to_owned(), outer, device: None }
    }

    /// Calls back with the fields of a request that has these lines.
    fn with_fields<T>(lines: &str, ask: impl FnOnce(&Fields<'_>) -> T) -> T {
        let head = format!("GET / HTTP/1.1\r\nHost: gw.example\r\n{lines}\r\n");
        let head = head::request(head.as_bytes(), &Limits::default(), LineEnds::Crlf);
        ask(&head.unwrap().unwrap().fields)
    }

    fn shown(sign_ins: &SignIns, scope: &Scope, cookies: &str, now: SystemTime) -> Option<Digest> {
        with_fields(&format!("Cookie: {cookies}\r\n"), |fields| sign_ins.shown(scope, fields, now))
    }

    /// Gateways that share a key accept each other's cookies, and keys can be changed one by one.
    #[test]
    fn the_first_key_signs_and_each_one_is_believed() {
        let key = |c: char| c.to_string().repeat(32);
        let (lamp, now, mine) = (scope("/lamp"), SystemTime::now(), digest(b"mine"));
        let (old, drawn) = (SignIns::new(&[key('a')]), SignIns::new(&[]));
        let cookie = |of: &SignIns| {
            let value = of.issue(&lamp, &mine, now + Duration::from_secs(100)).unwrap();
            format!("{COOKIE}={value}")
        };
        let (of_old, of_drawn) = (cookie(&old), cookie(&drawn));
        let other = SignIns::new(&[key('b'), key('a')]);
        let of_other = cookie(&other);
        assert_eq!(shown(&other, &lamp, &of_old, now), Some(mine));
        assert_eq!(shown(&old, &lamp, &of_other, now), None, "it does not know that key yet");
        assert_eq!(shown(&other, &lamp, &of_drawn, now), None);
        old.set_keys(&[key('a'), key('b')]);
        assert_eq!(shown(&old, &lamp, &of_other, now), Some(mine));
        other.set_keys(&[key('b')]);
        assert_eq!(shown(&other, &lamp, &of_old, now), None, "that key is gone");
        assert_eq!(shown(&other, &lamp, &of_other, now), Some(mine));
    }

    #[test]
    fn a_cookie_stands_for_its_token_until_its_time_at_its_place_alone() {
        let (sign_ins, lamp) = (SignIns::new(&[]), scope("/lamp"));
        let (now, mine, other) = (SystemTime::now(), digest(b"mine"), digest(b"other"));
        let ends = now + Duration::from_secs(100);
        let value = sign_ins.issue(&lamp, &mine, ends).unwrap();
        let cookie = format!("{COOKIE}={value}");
        let at = |cookies: &str, now| shown(&sign_ins, &lamp, cookies, now);
        assert_eq!(at(&cookie, now), Some(mine));
        assert_eq!(at(&format!("a=b; {cookie};c"), now), Some(mine));
        assert_eq!(at(&cookie, now + Duration::from_secs(98)), Some(mine));
        assert_eq!(at(&cookie, now + Duration::from_secs(101)), None);
        for elsewhere in [scope(""), scope("/lam"), Scope { host: "other".into(), ..lamp.clone() }]
        {
            assert_eq!(shown(&sign_ins, &elsewhere, &cookie, now), None);
        }
        assert_eq!(shown(&SignIns::new(&[]), &lamp, &cookie, now), None, "another key");
        // No byte of it can be another one.
        for at_byte in 0..value.len() {
            let mut changed = value.clone().into_bytes();
            changed[at_byte] = if changed[at_byte] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(at(&format!("{COOKIE}={changed}"), now), None, "{at_byte}");
        }
        for wrong in ["", "x", &value[1..], &format!("{value}A"), &format!("\"{value}\"")] {
            assert_eq!(at(&format!("{COOKIE}={wrong}"), now), None, "{wrong}");
        }
        for name in ["Ptth-Sign-In", "xptth-sign-in", "ptth-sign-in2"] {
            assert_eq!(at(&format!("{name}={value}"), now), None);
        }
        // Neither token nor digest can be read in it, and no two are alike.
        let again = sign_ins.issue(&lamp, &mine, ends).unwrap();
        assert_ne!(value, again);
        let hidden = URL_SAFE_NO_PAD.decode(&value).unwrap();
        assert!(!hidden.windows(8).any(|part| mine.bytes().windows(8).any(|own| own == part)));
        // One that was planted beside it, whatever it is.
        let theirs = format!("{COOKIE}={}", sign_ins.issue(&lamp, &other, ends).unwrap());
        assert_eq!(at(&format!("{cookie}; {theirs}"), now), None);
        assert_eq!(at(&format!("{COOKIE}=planted; {cookie}"), now), Some(mine));
        assert_eq!(at(&format!("{cookie}; {COOKIE}={again}"), now), Some(mine));
        let planted = format!("{COOKIE}=x; ").repeat(COOKIES_MAX);
        assert_eq!(at(&format!("{planted}{cookie}"), now), Some(mine));
        assert_eq!(at(&format!("{cookie}; {planted}"), now), None, "a bound");
    }

    #[test]
    fn whoever_signs_in_goes_on_below_the_place_and_to_no_other_host() {
        let lamp = Scope { outer: "/iot".into(), ..scope("/lamp") };
        for (to, goal) in [
            ("/iot/lamp/x?y=/z", "/iot/lamp/x?y=/z"),
            ("/iot/lamp", "/iot/lamp"),
            ("/iot/lamp?x", "/iot/lamp?x"),
            ("/iot/lamp/..x/.well-known?a=/../b", "/iot/lamp/..x/.well-known?a=/../b"),
            ("/iot/lamp//evil.example", "/iot/lamp//evil.example"),
        ] {
            assert_eq!(lamp.goal(to), goal);
        }
        for to in [
            "",
            "/",
            "/iot/lampoon",
            "/iot/door/x",
            "//evil.example/iot/lamp",
            "https://evil.example/",
            "/iot/lamp/\t/x",
            "/iot/lamp/\\x",
            "/iot/lamp/\r\nX: y",
            "/iot/lamp/é",
            "/iot/lamp/../door/x",
            "/iot/lamp/%2e%2E/door/x",
            "/iot/lamp/./.ptth/sign-out",
            "/iot/lamp/x/..?y",
            "/iot/lamp/.ptth/sign-out",
            "/iot/lamp/.ptth/sign-in?x",
            "javascript:alert(1)",
        ] {
            assert_eq!(lamp.goal(to), "/iot/lamp/", "{to}");
        }
        let root = scope("");
        for (to, goal) in [
            ("/x", "/x"),
            ("/", "/"),
            ("//evil.example", "/"),
            ("/\\evil.example", "/"),
            ("\t//evil.example", "/"),
            ("/\t/evil.example", "/"),
            ("x", "/"),
            ("?x", "/"),
        ] {
            assert_eq!(root.goal(to), goal, "{to}");
        }
        let cookie = lamp.set_cookie(Some("v"), true);
        assert_eq!(cookie, "ptth-sign-in=v; Path=/iot/lamp; HttpOnly; SameSite=Lax; Secure");
        let cookie = root.set_cookie(None, false);
        assert_eq!(cookie, "ptth-sign-in=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax");
    }

    #[test]
    fn forms_are_read_as_browsers_write_them() {
        let form = |token: &str, to: &str| {
            Some(Form { token: token.as_bytes().to_vec(), to: to.to_owned() })
        };
        for (body, read) in [
            ("token=abc&to=%2Flamp%2Fx%3Fy", form("abc", "/lamp/x?y")),
            ("to=/x&token=+a%2bb%20&more=1", form("a+b", "/x")),
            ("token=abc", form("abc", "")),
            ("token=%FF&", Some(Form { token: vec![0xFF], to: String::new() })),
            ("", form("", "")),
            ("token", form("", "")),
            ("token=a&token=a", None),
            ("token=a&to=/&to=/", None),
            ("token=%", None),
            ("token=%4", None),
            ("token=%+5", None),
            ("to=%FF", None),
        ] {
            assert_eq!(Form::read(body.as_bytes()), read, "{body}");
        }
    }

    #[test]
    fn pages_of_the_same_host_and_no_others_are_of_the_same_origin() {
        for (lines, same) in [
            ("Sec-Fetch-Site: same-origin\r\n", true),
            ("Sec-Fetch-Site: same-origin\r\nOrigin: https://public.example\r\n", true),
            ("Sec-Fetch-Site: same-site\r\nOrigin: http://gw.example\r\n", false),
            ("Sec-Fetch-Site: cross-site\r\n", false),
            ("Sec-Fetch-Site: none\r\n", false),
            ("Sec-Fetch-Site: same-origin\r\nSec-Fetch-Site: cross-site\r\n", false),
            ("Origin: http://gw.example\r\n", true),
            ("Origin: https://GW.example:443\r\n", true),
            ("Origin: http://gw.example:8080\r\n", false),
            ("Origin: https://gw.example.evil.example\r\n", false),
            ("Origin: https://evil.example\r\n", false),
            ("Origin: http://gw.example/\r\n", false),
            ("Origin: null\r\n", false),
            ("Origin: http://gw.example\r\nOrigin: https://evil.example\r\n", false),
            ("", false),
        ] {
            let told =
                with_fields(lines, |fields| is_same_origin(fields, ["gw.example"].into_iter()));
            assert_eq!(told, same, "{lines}");
        }
        for (accept, wants) in [
            ("text/html,application/xhtml+xml,*/*;q=0.8", true),
            ("application/json, Text/HTML;q=0.1", true),
            ("*/*", false),
            ("text/*", false),
            ("application/json", false),
        ] {
            let told = with_fields(&format!("Accept: {accept}\r\n"), wants_page);
            assert_eq!(told, wants, "{accept}");
        }
    }

    #[test]
    fn what_a_visitor_says_is_text_on_the_page() {
        let odd = scope("/a'\"<b>");
        let page = page(&odd, "/a'\"<b>/?<script>&", Some("wrong"));
        assert!(page.contains("value=\"/a&#39;&quot;&lt;b&gt;/?&lt;script&gt;&amp;\""), "{page}");
        assert!(page.contains("action=\"/a&#39;&quot;&lt;b&gt;/.ptth/sign-in\""), "{page}");
        assert!(!page.contains("<b>") && !page.contains("<script") && !page.contains("http"));
        assert!(signed_in(&odd, Some("<i>me")).contains("signed in to gw.example as &lt;i&gt;me."));
    }
}
