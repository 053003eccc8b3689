//! The fields that gateways of one cluster add to a visitor's request for each other. They are
//! honoured on the peers' listener alone.
//!
//! ```text
//! GET /status HTTP/1.1                     as the device gets it: target, Host, X-Forwarded-*, X-Request-Id
//! PTTH-Peer-Secret: ...                    the shared secret
//! PTTH-Peer-Device: lamp                   the device
//! PTTH-Peer-Visitor: 203.0.113.7           the visitor
//! PTTH-Peer-Gateway: http://10.0.0.1:7000  how the gateway that asks is reached itself; for operators alone
//! PTTH-Peer-Waits: link=5000, first-byte=60000, body-silence=60000      milliseconds
//! ```
//! The response is the device's, with `PTTH-Peer-Served: 1`, which shows that it comes from a
//! gateway's peers' port: a directory may contain a wrong address. A gateway that does not have the
//! device answers 404 with `PTTH-Peer-Miss`: `away` if the device was connected recently or is
//! expected, else `unknown`. A gateway that does not know the other's secret answers 403 with
//! `PTTH-Peer-Miss: stranger`. `OPTIONS *` with a device is a query that no device sees:
//! `PTTH-Peer-Has` in the answer tells whether the gateway has it, `connected`, `away` or
//! `unknown`. No relay forwards a field whose name begins with this prefix, in either direction, so
//! visitors and devices cannot forge these fields.

use core::net::IpAddr;
use core::time::Duration;

use crate::error::Refusal;
use crate::proto::digits::decimal;
use crate::proto::fields::{Fields, members};
use crate::proto::head_writer::write_field;
use crate::proto::turn::Name;

/// The prefix of the names of all these fields, in lower case.
pub(crate) const PREFIX: &str = "ptth-peer-";

/// In a response: the gateway that was asked does not have the device.
pub(crate) const MISS: &str = "PTTH-Peer-Miss";

/// In each response at a peers' port, interim ones included.
pub(crate) const SERVED: (&str, &str) = ("PTTH-Peer-Served", "1");

/// In the answer to a query about a device: whether the gateway has it.
pub(crate) const HAS: &str = "PTTH-Peer-Has";

/// The value of [`HAS`] for a connected device; otherwise it is that of [`MISS`].
pub(crate) const CONNECTED: &str = "connected";

const SECRET: &str = "PTTH-Peer-Secret";
const DEVICE: &str = "PTTH-Peer-Device";
const VISITOR: &str = "PTTH-Peer-Visitor";
const GATEWAY: &str = "PTTH-Peer-Gateway";
const WAITS: &str = "PTTH-Peer-Waits";

/// Longest value of [`PeerWaits`] that is accepted.
const WAIT_MAX: Duration = Duration::from_secs(30 * 86_400);

/// Most bytes that all these lines can have together.
pub(crate) const LINES_MAX: usize = 1280;

/// The waits that a route allows its request, if the gateway sends them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerWaits {
    pub(crate) link: Option<Duration>,
    pub(crate) first_byte: Option<Duration>,
    pub(crate) body_silence: Option<Duration>,
}

/// What one gateway sends to another about a visitor's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerRequest<'a> {
    /// The name or origin of a device.
    pub(crate) device: &'a str,
    /// `None`: the request is a program's.
    pub(crate) visitor: Option<IpAddr>,
    /// The URL of the asking gateway; `None`: it does not send one.
    pub(crate) gateway: Option<&'a str>,
    pub(crate) waits: PeerWaits,
}

impl PeerRequest<'_> {
    /// Appends the lines.
    ///
    /// # Errors
    /// The device's name or the secret cannot be written.
    pub(crate) fn write(&self, out: &mut Vec<u8>, secret: Option<&str>) -> Result<(), Refusal> {
        if let Some(secret) = secret {
            write_field(out, SECRET, secret.as_bytes())?;
        }
        write_field(out, DEVICE, self.device.as_bytes())?;
        if let Some(visitor) = self.visitor {
            write_field(out, VISITOR, visitor.to_string().as_bytes())?;
        }
        if let Some(gateway) = self.gateway {
            write_field(out, GATEWAY, gateway.as_bytes())?;
        }
        let PeerWaits { link, first_byte, body_silence } = self.waits;
        let waits = [("link", link), ("first-byte", first_byte), ("body-silence", body_silence)];
        let told = waits.iter().filter_map(|(name, wait)| Some((name, (*wait)?.as_millis())));
        let told: Vec<String> = told.map(|(name, wait)| format!("{name}={wait}")).collect();
        if !told.is_empty() {
            write_field(out, WAITS, told.join(", ").as_bytes())?;
        }
        Ok(())
    }
}

/// Appends a request that asks a gateway whether it is alive.
///
/// # Errors
/// The secret cannot be written.
pub(crate) fn write_probe(out: &mut Vec<u8>, secret: Option<&str>) -> Result<(), Refusal> {
    out.extend_from_slice(b"OPTIONS * HTTP/1.1\r\nHost:\r\n");
    if let Some(secret) = secret {
        write_field(out, SECRET, secret.as_bytes())?;
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Reads the fields of another gateway. Unknown ones are ignored, so that a later version can send
/// more.
///
/// # Errors
/// 400: no device, several, or an invalid name; an invalid address or wait.
pub(crate) fn read<'a>(fields: &Fields<'a>) -> Result<PeerRequest<'a>, Refusal> {
    let wrong = |reason| Refusal::new(400, reason);
    let device = one(fields, DEVICE)?.ok_or_else(|| wrong("PTTH-Peer-Device is missing"))?;
    check(device)?;
    let visitor = match one(fields, VISITOR)? {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| wrong("PTTH-Peer-Visitor is no IP address"))?),
    };
    let gateway = one(fields, GATEWAY)?;
    let mut waits = PeerWaits::default();
    for member in one(fields, WAITS)?.into_iter().flat_map(|waits| members(waits.as_bytes())) {
        let Some(equals) = member.iter().position(|byte| *byte == b'=') else { continue };
        let place = match &member[..equals] {
            b"link" => &mut waits.link,
            b"first-byte" => &mut waits.first_byte,
            b"body-silence" => &mut waits.body_silence,
            _ => continue,
        };
        let time = decimal(&member[equals + 1..]).map(Duration::from_millis);
        let time = time.ok_or_else(|| wrong("PTTH-Peer-Waits has a wait that is no number"))?;
        *place = Some(time.min(WAIT_MAX));
    }
    Ok(PeerRequest { device, visitor, gateway, waits })
}

fn check(device: &str) -> Result<(), Refusal> {
    match device.contains("://") {
        true => Name::origin(device).map(drop),
        false => Name::label(device).map(drop),
    }
}

/// The device that a query is about; `None`: it is about the gateway alone.
///
/// # Errors
/// 400: several, or an invalid name.
pub(crate) fn asked_about<'a>(fields: &Fields<'a>) -> Result<Option<&'a str>, Refusal> {
    let device = one(fields, DEVICE)?;
    device.map(check).transpose()?;
    Ok(device)
}

/// The secret that another gateway has sent.
pub(crate) fn secret<'a>(fields: &Fields<'a>) -> Option<&'a [u8]> {
    let mut shown = fields.all(SECRET);
    match (shown.next(), shown.next()) {
        (Some(secret), None) => Some(secret),
        _ => None,
    }
}

/// Why the other gateway has not forwarded a request to its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Miss {
    Unknown,
    /// The device was connected there recently, or is expected there.
    Away,
    /// That gateway rejects the secret, or that there is none.
    Stranger,
    /// The answer does not come from a gateway's peers' port; its status.
    Foreign(u16),
    /// It refused the certificate of the asking gateway, by a TLS alert.
    Untrusted,
}

impl Miss {
    /// The value of [`MISS`].
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Miss::Unknown => "unknown",
            Miss::Away => "away",
            Miss::Stranger => "stranger",
            Miss::Foreign(_) => "foreign",
            Miss::Untrusted => "untrusted",
        }
    }
}

/// Returns true if a response comes from a gateway's peers' port.
pub(crate) fn is_served(fields: &Fields<'_>) -> bool {
    fields.get(SERVED.0).is_some()
}

/// Why a response does not come from a device. `None`: it does.
pub(crate) fn miss(status: u16, fields: &Fields<'_>) -> Option<Miss> {
    if !is_served(fields) {
        return Some(Miss::Foreign(status));
    }
    let value = fields.get(MISS)?;
    let mut told = [Miss::Away, Miss::Stranger].into_iter();
    Some(told.find(|miss| value == miss.as_str().as_bytes()).unwrap_or(Miss::Unknown))
}

fn one<'a>(fields: &Fields<'a>, name: &'static str) -> Result<Option<&'a str>, Refusal> {
    let mut all = fields.all(name);
    let (first, None) = (all.next(), all.next()) else {
        return Err(Refusal::new(400, "a PTTH-Peer field is there twice"));
    };
    let text = first.map(std::str::from_utf8).transpose();
    text.map_err(|_| Refusal::new(400, "a PTTH-Peer field has bytes above 0x7F"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::limits::Limits;
    use crate::proto::head::{self, LineEnds};

    fn with<T>(lines: &[u8], look: impl FnOnce(&Fields<'_>) -> T) -> T {
        let head = [&b"GET / HTTP/1.1\r\nHost: a\r\n"[..], lines, b"\r\n"].concat();
        look(&head::request(&head, &Limits::default(), LineEnds::Crlf).unwrap().unwrap().fields)
    }

    #[test]
    fn what_one_gateway_writes_another_reads() {
        let second = Duration::from_secs(1);
        for (device, visitor, waits) in [
            ("lamp", Some("203.0.113.7".parse().unwrap()), PeerWaits::default()),
            (
                "https://lamp.example",
                Some("2001:db8::1".parse().unwrap()),
                PeerWaits {
                    link: Some(Duration::ZERO),
                    first_byte: Some(second),
                    body_silence: None,
                },
            ),
            ("lamp", None, PeerWaits { body_silence: Some(second), ..PeerWaits::default() }),
        ] {
            let gateway = visitor.map(|_| "http://10.0.0.1:7000");
            let told = PeerRequest { device, visitor, gateway, waits };
            let mut lines = Vec::new();
            told.write(&mut lines, Some("hush")).unwrap();
            with(&lines, |fields| {
                assert_eq!(read(fields).unwrap(), told);
                assert_eq!(secret(fields), Some(&b"hush"[..]));
            });
        }
    }

    #[test]
    fn a_question_is_about_one_device_or_about_none() {
        for (lines, device) in [
            ("", Some(None)),
            ("PTTH-Peer-Device: lamp\r\n", Some(Some("lamp"))),
            ("PTTH-Peer-Device: https://lamp.example\r\n", Some(Some("https://lamp.example"))),
            ("PTTH-Peer-Device: a\r\nPTTH-Peer-Device: b\r\n", None),
            ("PTTH-Peer-Device: ../a\r\n", None),
            ("PTTH-Peer-Device: \u{e4}\r\n", None),
        ] {
            with(lines.as_bytes(), |fields| {
                assert_eq!(asked_about(fields).ok(), device, "{lines}")
            });
        }
    }

    #[test]
    fn what_no_gateway_writes_is_refused() {
        for lines in [
            "",
            "PTTH-Peer-Device: a\r\nPTTH-Peer-Device: b\r\n",
            "PTTH-Peer-Device: ../a\r\n",
            "PTTH-Peer-Device: a\r\nPTTH-Peer-Visitor: me\r\n",
            "PTTH-Peer-Device: a\r\nPTTH-Peer-Waits: link=+5\r\n",
            "PTTH-Peer-Device: a\r\nPTTH-Peer-Gateway: a\r\nPTTH-Peer-Gateway: b\r\n",
        ] {
            assert_eq!(with(lines.as_bytes(), |fields| read(fields).unwrap_err().status), 400);
        }
        let later =
            "PTTH-Peer-Device: a\r\nPTTH-Peer-Later: x\r\nPTTH-Peer-Waits: later=5, link=1\r\n";
        let waits = with(later.as_bytes(), |fields| read(fields).unwrap().waits);
        assert_eq!(waits.link, Some(Duration::from_millis(1)));
        with(b"PTTH-Peer-Secret: a\r\nPTTH-Peer-Secret: b\r\n", |fields| {
            assert_eq!(secret(fields), None, "of two none counts");
        });
    }
}
