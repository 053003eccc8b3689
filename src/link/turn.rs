//! The turn over a bare stream, without the event loop: [`offer`] on the device's side, [`accept`]
//! (or [`receive`], to decide in between) on the gateway's.

use std::sync::Arc;

use http::StatusCode;

use crate::error::{Error, Fault, Refusal};
use crate::limits::Limits;
use crate::link::deadlines::Timeout;
use crate::link::device::DeviceLink;
use crate::link::gateway::GatewayLink;
use crate::link::wire::{HeadFault, Side, Wire};
use crate::message::write_refusal;
use crate::proto::body::{self, Framing};
use crate::proto::dialect::Dialect;
use crate::proto::framed::FramedRequest;
use crate::proto::head::foreign_protocol;
use crate::proto::head::{self, LineEnds};
use crate::proto::interim::{CONTINUE, InterimCount};
use crate::proto::turn::{self, Decision, Offer, OfferPlan, OfferRules};
use crate::proto::verdict;
use crate::proto::verdict::Verdict;
use crate::stream::TimedStream;

/// The result of an [`offer`].
///
/// ```
/// use std::os::unix::net::UnixStream;
/// use std::sync::Arc;
/// use reverse_http::link::{self, Offered};
/// use reverse_http::proto::{dialect::Dialect, turn::{OfferPlan, OfferRules}};
/// use reverse_http::{Limits, Refusal};
///
/// let (gateway_end, device_end) = UnixStream::pair()?;
/// let limits = Arc::new(Limits::default());
/// let of_gateway = limits.clone();
/// let gateway = std::thread::spawn(move || {
///     let offering = link::receive(gateway_end, &OfferRules::default(), of_gateway)?;
///     match offering.offer().names[0].to_string().as_str() {
///         "lamp" => offering.turn().map(|_| ()),
///         _ => Ok(offering.refuse(&Refusal::new(403, "only lamps"))),
///     }
/// });
/// let plan = OfferPlan::new("gw.example", "/lamp", Dialect::classic());
/// assert!(matches!(link::offer(device_end, &plan, limits)?, Offered::Turned(_)));
/// gateway.join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Offered<S: TimedStream + 'static> {
    /// The connection has turned: from now on the gateway sends requests.
    Turned(DeviceLink<S>),
    /// Another final response. After [`Verdict::Nothing`] (204) and with `reusable`, offer again on
    /// the same stream.
    #[non_exhaustive]
    Answered {
        /// What the response means.
        verdict: Verdict,
        /// Its status.
        status: StatusCode,
        /// The stream; the body of the response, if it has one, is unread.
        stream: S,
        /// Bytes after the head of the response that were already read.
        unread: Vec<u8>,
        /// The response had no body, nothing followed it, and the connection is kept: another offer
        /// may be written.
        reusable: bool,
    },
}

/// The head of an answer to an offer, judged.
struct Judged {
    verdict: Verdict,
    status: u16,
    reusable: bool,
}

/// The device's side of the turn: writes the offer and reads the response, skipping up to
/// `informational_max` 1xx responses.
///
/// The response has to begin within `offer_timeout`, and its head has to be complete within
/// `head_timeout` after that.
///
/// # Errors
/// The plan cannot be written as HTTP (`is_usage()`), the connection failed or was too slow, or the
/// answer is malformed. A valid response that is not a turn is not an error, but
/// [`Offered::Answered`].
pub fn offer<S: TimedStream + 'static>(
    stream: S,
    plan: &OfferPlan,
    limits: Arc<Limits>,
) -> Result<Offered<S>, Error> {
    let mut out = Vec::with_capacity(512);
    turn::write_offer(&mut out, plan)
        .map_err(|refusal| Error::usage(format!("writing an offer: {}", refusal.reason)))?;
    // Between offer and turn the gateway answers: in reads and errors, this is a device's wire.
    let mut wire = Wire::new(stream, Vec::new(), limits.clone(), Side::Device);
    wire.write_all(&out, &[]).map_err(|e| wire.write_failed("writing the offer", e))?;
    let judged = read_verdict(&mut wire, &plan.dialect.token)?;
    let (stream, unread) =
        wire.take().ok_or_else(|| Error::usage("the stream was taken during the offer"))?;
    if let Verdict::Turned { warning } = &judged.verdict {
        if let Some(warning) = warning {
            log_names!(Warn, "the gateway turned the connection, but {warning}");
        }
        return Ok(Offered::Turned(DeviceLink::new(stream, unread, limits)));
    }
    let reusable = judged.reusable && unread.is_empty();
    let status = StatusCode::from_u16(judged.status).unwrap_or(StatusCode::BAD_GATEWAY);
    Ok(Offered::Answered { verdict: judged.verdict, status, stream, unread, reusable })
}

fn read_verdict<S: TimedStream + 'static>(
    wire: &mut Wire<S>,
    token: &str,
) -> Result<Judged, Error> {
    const DOING: &str = "reading the answer to an offer";
    let mut interim = InterimCount::default();
    loop {
        let timeout = Timeout::new("offer_timeout", wire.limits.offer_timeout);
        let judged = match wire.read_head(timeout, |bytes, limits| judge(bytes, limits, token)) {
            Ok(Some(judged)) => judged,
            Ok(None) => {
                return Err(Error::closed(
                    Fault::Gateway,
                    format!("{DOING}: the gateway closed the connection without one"),
                ));
            }
            Err(HeadFault::Late(error) | HeadFault::Failed(error)) => return Err(error),
            Err(HeadFault::Refused(refusal)) => {
                return Err(match foreign_protocol(wire.inbox.bytes()) {
                    Some(what) => Error::malformed(
                        Fault::Gateway,
                        502,
                        format!(
                            "{DOING}: this is not HTTP/1, but {what}; check the URL's scheme and port"
                        ),
                    ),
                    None => refusal.into_error(Fault::Gateway, DOING),
                });
            }
        };
        if judged.verdict != Verdict::Informational {
            return Ok(judged);
        }
        interim.count(&wire.limits).map_err(|e| {
            Error::malformed(Fault::Gateway, 502, format!("{DOING}: the gateway {}", e.reason))
        })?;
    }
}

fn judge(bytes: &[u8], limits: &Limits, token: &str) -> Result<Option<(Judged, usize)>, Refusal> {
    let Some(head) = head::response(bytes, limits, LineEnds::Crlf)? else { return Ok(None) };
    let verdict = verdict::check(&head, token);
    // Framing fields in a 101 are ignored (protocol.md §1.4), so they are not read.
    let ends = matches!(verdict, Verdict::Turned { .. } | Verdict::Informational)
        || body::of_response(&head, "POST")? != Framing::Empty;
    let judged = Judged {
        status: head.status,
        reusable: !ends && head.status >= 200 && head::keeps_alive(head.minor, &head.fields),
        verdict,
    };
    Ok(Some((judged, head.len)))
}

/// The gateway's side of the turn: reads an offer, writes the 101, and returns the link. This is
/// for a gateway that accepts every well-formed offer; to check the credential first, use
/// [`receive`].
///
/// # Errors
/// Those of [`receive`]; the 101 could not be written.
pub fn accept<S: TimedStream + 'static>(
    stream: S,
    rules: &OfferRules,
    limits: Arc<Limits>,
) -> Result<(GatewayLink<S>, Offer), Error> {
    receive(stream, rules, limits)?.turn()
}

/// Reads an offer, which then waits for [`Offering::turn`] or [`Offering::refuse`]. Credentials
/// have to be checked before the 101, as nothing can be refused after it.
///
/// # Errors
/// The request is not an offer that these rules accept; it was answered with a status (400 if it is
/// malformed or followed by other bytes, 405 if its method cannot offer, 408 if it was too slow,
/// 426 if it offers nothing) and a short text, and the connection is closed. Or the connection
/// failed.
pub fn receive<S: TimedStream + 'static>(
    stream: S,
    rules: &OfferRules,
    limits: Arc<Limits>,
) -> Result<Offering<S>, Error> {
    let mut wire = Wire::new(stream, Vec::new(), limits, Side::Gateway);
    let timeout = Timeout::new("head_timeout", wire.limits.head_timeout);
    let (error, refusal) =
        match wire.read_head(timeout, |bytes, limits| read_offer(bytes, limits, rules)) {
            Ok(Some(Ok((offer, dialect)))) if wire.inbox.is_empty() => {
                return Ok(Offering { wire, offer, dialect });
            }
            Ok(Some(Ok(_))) => {
                (None, Refusal::new(400, "bytes came after the offer and before its answer"))
            }
            Ok(Some(Err(refusal))) | Err(HeadFault::Refused(refusal)) => (None, refusal),
            Ok(None) => {
                return Err(Error::closed(
                    Fault::Device,
                    "waiting for an offer: the device closed the connection without one",
                ));
            }
            Err(HeadFault::Late(error)) => {
                (Some(error), Refusal::new(408, "the offer's head did not arrive in time"))
            }
            Err(HeadFault::Failed(error)) => return Err(error),
        };
    if let Some(what) = foreign_protocol(wire.inbox.bytes()) {
        return Err(Error::malformed(
            Fault::Device,
            400,
            format!("reading an offer: this is not HTTP/1, but {what}"),
        ));
    }
    write_refused(&mut wire, &refusal);
    Err(error.unwrap_or_else(|| {
        Error::malformed(
            Fault::Device,
            refusal.status,
            format!("reading an offer: {}", refusal.reason),
        )
    }))
}

/// The outer result is the head's, the inner one the offer's: a head that was read is consumed,
/// whatever it says.
#[allow(clippy::type_complexity, reason = "the shape that read_head asks for")]
fn read_offer(
    bytes: &[u8],
    limits: &Limits,
    rules: &OfferRules,
) -> Result<Option<(Result<(Offer, Dialect), Refusal>, usize)>, Refusal> {
    let Some(head) = head::request(bytes, limits, LineEnds::Crlf)? else { return Ok(None) };
    let len = head.len;
    Ok(Some((FramedRequest::of(head).and_then(|request| decide(&request, rules)), len)))
}

fn decide(request: &FramedRequest<'_>, rules: &OfferRules) -> Result<(Offer, Dialect), Refusal> {
    match turn::decide(request, rules)? {
        Decision::Turn(_) if request.has_body() => {
            Err(Refusal::new(400, "an offer with a body; an offer has none"))
        }
        Decision::Turn(offer) => {
            let dialect = rules.dialects.get(offer.dialect).cloned();
            Ok((
                *offer,
                dialect
                    .ok_or_else(|| Refusal::new(500, "the offer's dialect is not in the table"))?,
            ))
        }
        Decision::Poll(_) => Err(Refusal::new(
            426,
            "this is no offer, and only a turn will do here: send Upgrade: PTTH/1.0",
        )),
    }
}

fn write_refused<S: TimedStream + 'static>(wire: &mut Wire<S>, refusal: &Refusal) {
    let fields: &[(&str, &str)] = match refusal.status {
        405 => &[("Allow", "POST")],
        426 => &[("Upgrade", "PTTH/1.0"), ("Connection", "Upgrade")],
        401 => &[("WWW-Authenticate", "Bearer")],
        _ => &[],
    };
    let mut out = Vec::with_capacity(512);
    write_refusal(&mut out, refusal, fields);
    match wire.write_all(&out, &[]) {
        Ok(()) => wire.finish(),
        Err(error) => log::debug!("a refusal could not be written: {error}"),
    }
}

/// A well-formed offer that waits for its answer.
///
/// ```
/// use std::os::unix::net::UnixStream;
/// use std::sync::Arc;
/// use reverse_http::link::{self, Offered};
/// use reverse_http::proto::{dialect::Dialect, turn::{OfferPlan, OfferRules}};
/// use reverse_http::{Limits, Refusal};
///
/// let (gateway_end, device_end) = UnixStream::pair()?;
/// let limits = Arc::new(Limits::default());
/// let of_gateway = limits.clone();
/// let gateway = std::thread::spawn(move || {
///     let offering = link::receive(gateway_end, &OfferRules::default(), of_gateway)?;
///     match offering.offer().names[0].to_string().as_str() {
///         "lamp" => offering.turn().map(|_| ()),
///         _ => Ok(offering.refuse(&Refusal::new(403, "only lamps"))),
///     }
/// });
/// let plan = OfferPlan::new("gw.example", "/lamp", Dialect::classic());
/// assert!(matches!(link::offer(device_end, &plan, limits)?, Offered::Turned(_)));
/// gateway.join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the device waits for its answer: turn() or refuse()"]
pub struct Offering<S: TimedStream + 'static> {
    wire: Wire<S>,
    offer: Offer,
    dialect: Dialect,
}

impl<S: TimedStream + 'static> Offering<S> {
    /// What the device offers: its names, its session, and its fields (for the credential).
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// Turns the connection: writes the 101.
    ///
    /// # Errors
    /// The connection failed.
    pub fn turn(mut self) -> Result<(GatewayLink<S>, Offer), Error> {
        let mut out = Vec::with_capacity(128);
        if self.offer.expects_continue {
            out.extend_from_slice(CONTINUE);
        }
        turn::write_switch(&mut out, &self.offer.token, &self.dialect);
        let wire = &mut self.wire;
        wire.write_all(&out, &[]).map_err(|e| wire.write_failed("writing the 101", e))?;
        let limits = wire.limits.clone();
        let (stream, unread) =
            wire.take().ok_or_else(|| Error::usage("the stream was taken during the turn"))?;
        Ok((GatewayLink::new(stream, unread, limits), self.offer))
    }

    /// Refuses the offer: writes the status with its reason as `text/plain` (and the fields that
    /// belong to it: `WWW-Authenticate: Bearer` with 401, `Upgrade` with 426), then closes the
    /// connection, after reading until nothing has come for `linger_timeout`, for at most
    /// `linger_total_timeout`.
    pub fn refuse(mut self, refusal: &Refusal) {
        write_refused(&mut self.wire, refusal);
    }
}

impl<S: TimedStream + 'static> std::fmt::Debug for Offering<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Offering").field("offer", &self.offer).finish_non_exhaustive()
    }
}
