//! The proxy of a device: its address and credentials, the CONNECT (RFC 9110 §9.3.6) and its
//! answer.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::device::backoff::retry_after;
use crate::device::dial_stages::Stage;
use crate::device::no_proxy::Exceptions;
use crate::device::state::State;
use crate::device::state::printable;
use crate::device::url::Url;
use crate::engine::connection::Fetched;
use crate::engine::connections::Connections;
use crate::engine::connections::Id;
use crate::error::Error;
use crate::limits::Limits;
use crate::proto::authority::authority_of;
use crate::proto::digits::number;
use crate::proto::head;
use crate::proto::head::Fields;
use crate::proto::head::LineEnds;
use crate::proto::head::ResponseHead;
use crate::proto::verdict;
use crate::setting::PROXY_CREDENTIALS;

/// The default port of a proxy, as in curl.
const PROXY_PORT: u16 = 1080;

/// The proxy of a device. No `Debug`: it has a password.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(super) host: String,
    pub(super) port: u16,
    /// `HOST:PORT`, for messages.
    pub(super) text: String,
    /// The whole value of `Proxy-Authorization`.
    pub(super) authorization: Option<String>,
    except: Exceptions,
}

impl Proxy {
    /// Reads `http://HOST[:PORT]`. `credentials` are user and password.
    pub(super) fn new(
        url: &str,
        credentials: Option<&(String, String)>,
        except: &str,
    ) -> Result<Self, Error> {
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return Err(Error::usage(
                "a proxy is used by CONNECT only, over http://; write http://HOST:PORT",
            ));
        }
        let url = Url::parse(url, "proxy")?;
        if url.secure {
            return Err(Error::usage(format!(
                "proxy URL {}: a proxy is spoken to over http:// (what goes through it may well be https)",
                url.text
            )));
        }
        if url.target != "/" {
            return Err(Error::usage(format!("proxy URL {}: omit its path", url.text)));
        }
        let names_port =
            url.authority.rsplit_once(':').is_some_and(|(_, port)| number::<u16>(port).is_some())
                && !url.authority.ends_with(']');
        let port = if names_port { url.port } else { PROXY_PORT };
        let text = authority_of(&url.host, port);
        let authorization = credentials.map(|(user, password)| {
            if user.contains(':') || user.chars().chain(password.chars()).any(char::is_control) {
                return Err(Error::usage("the proxy's credentials: the user must not contain a colon, nor either of them control characters (RFC 7617)"));
            }
            Ok(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
        });
        Ok(Proxy {
            host: url.host,
            port,
            text,
            authorization: authorization.transpose()?,
            except: Exceptions::parse(except),
        })
    }

    /// Returns true if this host is dialled through it.
    pub(super) fn serves(&self, url: &Url) -> bool {
        !self.except.has(&url.host, url.port)
    }

    pub(super) fn write_connect(&self, out: &mut Vec<u8>, url: &Url) {
        let to = authority_of(&url.host, url.port);
        out.extend_from_slice(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n").as_bytes());
        // Some proxies refuse clients without a `User-Agent`.
        out.extend_from_slice(
            concat!("User-Agent: ptth/", env!("CARGO_PKG_VERSION"), "\r\n").as_bytes(),
        );
        if let Some(value) = &self.authorization {
            out.extend_from_slice(format!("Proxy-Authorization: {value}\r\n").as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }

    /// The meaning of the proxy's final answer: a tunnel, or the reason why there is none.
    fn verdict(&self, head: &ResponseHead<'_>) -> Result<(), Refused> {
        // Framing fields have no meaning here (RFC 9110 §9.3.6), but with a page of HTML they show
        // that this is not a tunnel.
        let has_body = head.fields.get("content-length").is_some_and(|length| length != b"0")
            || head.fields.get("transfer-encoding").is_some();
        let page = has_body && verdict::is_page(&head.fields);
        let schemes = unspoken(&head.fields);
        let why = match head.status {
            200..=299 if !page => return Ok(()),
            200..=399 => {
                "that is no tunnel, but a page or the way to one: perhaps a captive portal that wants a log-in"
            }
            407 if schemes.is_some() => {
                "it wants credentials in a way that is not spoken here (only Basic is); put a proxy between that speaks it, like cntlm or px"
            }
            407 if self.authorization.is_some() => "it does not take these credentials",
            407 => &format!("it wants credentials; give them ({PROXY_CREDENTIALS})"),
            403 | 405 => {
                "it does not let this device go there; allow CONNECT to that host and port, or use another proxy"
            }
            502..=504 => "it cannot reach the gateway",
            _ => "it opens no tunnel; is it a proxy?",
        };
        let schemes = schemes
            .filter(|_| head.status == 407)
            .map_or(String::new(), |schemes| format!(" ({schemes})"));
        let why =
            format!("proxy {} answered CONNECT with {}{schemes}: {why}", self.text, head.status);
        Err(Refused {
            why,
            no_connect: matches!(head.status, 403 | 405),
            retry_after: retry_after(&head.fields),
        })
    }
}

/// The schemes that a 407 offers, if Basic is not one of them: `Negotiate, NTLM`.
fn unspoken(fields: &Fields<'_>) -> Option<String> {
    let mut schemes: Vec<String> = Vec::new();
    for challenge in fields.all("proxy-authenticate") {
        // A challenge's parameters are `name=value`: a first word of a member that has no `=` is a
        // scheme's name (RFC 9110 §11.6.1).
        let members = challenge.split(|&byte| byte == b',').map(|member| member.trim_ascii());
        let names = members
            .filter_map(|member| member.split(|&byte| byte == b' ').next())
            .filter(|name| !name.is_empty() && !name.contains(&b'='));
        schemes.extend(names.map(printable).filter(|name| name.len() <= 32).take(8));
    }
    let spoken =
        schemes.is_empty() || schemes.iter().any(|scheme| scheme.eq_ignore_ascii_case("basic"));
    (!spoken).then(|| schemes.join(", "))
}

/// The proxy has opened no tunnel.
pub(super) struct Refused {
    pub(super) why: String,
    /// The proxy does not allow CONNECT to this address; it may allow other requests.
    pub(super) no_connect: bool,
    pub(super) retry_after: Option<Duration>,
}

impl From<String> for Refused {
    fn from(why: String) -> Self {
        Refused { why, no_connect: false, retry_after: None }
    }
}

/// Reads the proxy's answer. Bytes after it are kept: they come from the gateway.
pub(super) fn proxy_answer(
    cx: &mut Connections<State>,
    id: Id,
    proxy: &Proxy,
    limits: &Limits,
    scratch: &mut [u8],
) -> Result<bool, Refused> {
    let Some(conn) = cx.get_mut(id) else { return Ok(false) };
    let _ = conn.flush(); // a failure shows in the next read
    let filled = match conn.fetch(scratch, limits.head_bytes_max + 1024) {
        Ok(Fetched::Bytes(n)) => n,
        Ok(Fetched::Nothing) => return Ok(false),
        Ok(Fetched::End) => {
            return Err(format!(
                "proxy {} closed the connection instead of answering CONNECT",
                proxy.text
            )
            .into());
        }
        Err(e) => {
            return Err(format!(
                "the connection to proxy {} broke before it answered CONNECT: {e}",
                proxy.text
            )
            .into());
        }
    };
    let (bytes, mut used) = (&scratch[..filled], 0);
    loop {
        let parsed = head::response(&bytes[used..], limits, LineEnds::CrlfOrLf).map_err(|e| {
            format!("proxy {} gave an invalid answer to CONNECT: {}", proxy.text, e.reason)
        })?;
        let over = conn.is_over();
        let State::Dial(dial) = &mut conn.state else { return Ok(false) };
        let Stage::Tunnelling { interim } = &mut dial.stage else { return Ok(false) };
        let Some(response) = parsed else {
            if over {
                return Err(format!(
                    "proxy {} closed the connection in the middle of its answer to CONNECT",
                    proxy.text
                )
                .into());
            }
            conn.keep(&bytes[used..]);
            return Ok(false);
        };
        used += response.len;
        if !(100..=199).contains(&response.status) {
            proxy.verdict(&response)?;
            if used < filled {
                conn.keep(&bytes[used..]);
            }
            return Ok(true);
        }
        interim.count(limits).map_err(|e| format!("proxy {} {}", proxy.text, e.reason))?;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_a_host_and_has_its_credentials_beside_it() {
        let none = None;
        for (url, text) in [
            ("http://proxy:3128", "proxy:3128"),
            ("http://proxy", "proxy:1080"),
            ("http://[::1]:3128/", "[::1]:3128"),
            ("http://[::1]", "[::1]:1080"),
        ] {
            assert_eq!(
                Proxy::new(url, none, "").unwrap_or_else(|e| panic!("{url}: {e}")).text,
                text
            );
        }
        for url in [
            "http://me:hunter2@proxy:3128",
            "https://proxy",
            "socks5://proxy:1080",
            "proxy:3128",
            "http://proxy:3128/x",
        ] {
            let error = Proxy::new(url, none, "").err().unwrap_or_else(|| panic!("{url} is taken"));
            assert!(error.is_usage() && !error.to_string().contains("hunter2"), "{error}");
        }
        let secret = ("Aladdin".to_owned(), "open sesame".to_owned());
        let proxy = Proxy::new("http://proxy:3128", Some(&secret), "").unwrap();
        let mut out = Vec::new();
        proxy.write_connect(&mut out, &Url::parse("http://[2001:db8::1]/lamp", "gateway").unwrap());
        let head = String::from_utf8(out).unwrap();
        assert_eq!(
            head,
            concat!(
                "CONNECT [2001:db8::1]:80 HTTP/1.1\r\nHost: [2001:db8::1]:80\r\nUser-Agent: ptth/",
                env!("CARGO_PKG_VERSION"),
                "\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n"
            )
        ); // the example of RFC 7617 §2
        assert!(
            Proxy::new("http://proxy:3128", Some(&("a:b".to_owned(), String::new())), "").is_err()
        );
    }
}
