//! Responses, from the device to the visitor.

use super::cases;
use super::cases::Case;
use super::readers::{End, Message, Reader, Reading};
use super::{
    FENCE, RawDevice, Script, Tally, end_to_end, equal, known, latin1, run, same_trailers, shown,
    visit, went_on,
};
use crate::support::Gateway;

// ── Responses ──

/// Who asks in a case of responses.
const ASKERS: [(&str, &str, bool); 8] = [
    ("GET", "GET /lamp/case HTTP/1.1\r\nHost: a\r\n\r\n", true),
    ("GET", "GET /lamp/case HTTP/1.1\r\nHost: a\r\n\r\n", true),
    ("HEAD", "HEAD /lamp/case HTTP/1.1\r\nHost: a\r\n\r\n", true),
    ("POST", "POST /lamp/case HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", true),
    ("GET", "GET /lamp/case HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", false),
    ("GET", "GET /lamp/case HTTP/1.0\r\n\r\n", false),
    (
        "POST",
        "POST /lamp/case HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
        true,
    ),
    (
        "GET",
        "GET /lamp/case HTTP/1.1\r\nHost: a\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n",
        true,
    ),
];

/// One response of a device, and after it, where the visitor's connection goes on, the answer to a
/// fence.
fn response_case(
    case: &Case,
    number: u64,
    gateway: &Gateway,
    device: &RawDevice,
    readers: &mut [Reader; 2],
    tally: &mut Tally,
) -> Result<(), String> {
    let (method, request, goes_on) = ASKERS[(number % ASKERS.len() as u64) as usize];
    readers.iter_mut().for_each(|reader| reader.ask_responses(&[method], false, &case.bytes));
    let open: Vec<Reading> = readers.iter_mut().map(Reader::reading).collect();
    // The device ends its stream but where both parsers see a whole response without that; and then
    // sometimes.
    let then_end = number % 3 == 0
        || open.iter().any(|read| !read.response().0.is_some_and(|message| message.whole));
    readers.iter_mut().for_each(|reader| reader.ask_responses(&[method], then_end, &case.bytes));
    let readings: Vec<Reading> = readers.iter_mut().map(Reader::reading).collect();
    // What comes after a whole response has to come with it: nobody can tell it from the next
    // answer once the next request is out.
    let behind = |read: &Reading| {
        let whole = read.messages.iter().position(|message| message.whole && !message.is_interim());
        whole.is_some_and(|at| at + 1 < read.messages.len() || matches!(read.end, End::Refused(_)))
    };
    let pieces = match open.iter().any(behind) {
        true => vec![case.bytes.clone()],
        false => case.pieces().map(<[u8]>::to_vec).collect(),
    };
    *device.script.lock().unwrap() = Some(Script { pieces, then_end });
    let got = visit(
        gateway.visitors,
        [request.as_bytes(), if goes_on { FENCE.as_bytes() } else { b"" }].into_iter(),
    );
    *device.script.lock().unwrap() = None;
    let (got, fence) = (got?, visit(gateway.visitors, [FENCE.as_bytes()].into_iter())?);
    if !latin1(&fence.bytes).contains("X-Fence: 1") {
        return Err(format!("the next visitor got {:?}", latin1(&fence.bytes)));
    }
    device.streams();
    let mut read_by = 0;
    let mut complaints = Vec::new();
    for (reader, read) in readers.iter_mut().zip(&readings) {
        reader.ask_responses(&[method, "GET"], !got.reset, &got.bytes);
        let seen = reader.reading();
        let tell = |why: String| {
            format!(
                "{}: {why}\n    to {request:?}, {then_end}; the visitor got {}",
                reader.name,
                shown(&got.bytes)
            )
        };
        match same_response(case, read, &seen, goes_on, request.contains("HTTP/1.0")) {
            Ok(Outcome::Forwarded) => {
                (tally.forwarded, read_by) = (tally.forwarded + 1, read_by + 1)
            }
            Ok(Outcome::Cut) => (tally.cut, read_by) = (tally.cut + 1, read_by + 1),
            Ok(Outcome::Refused) => {
                (tally.refused, read_by) = (tally.refused + 1, read_by + 1);
            }
            Err(complaint) => {
                let End::Refused(why) = &read.end else { return Err(tell(complaint)) };
                let Some(row) = known(reader.name, why, true)
                    .filter(|_| complaint.starts_with("the relay went on"))
                else {
                    return Err(tell(complaint));
                };
                *tally.laxer.entry(row.complaint).or_default() += 1;
                if row.needs_other {
                    complaints.push(tell(complaint));
                }
            }
        }
    }
    if read_by == 0 && !complaints.is_empty() {
        Err(format!("no parser reads it: {complaints:?}"))
    } else {
        Ok(())
    }
}

enum Outcome {
    Forwarded,
    /// The visitor sees that its end is missing.
    Cut,
    /// 502.
    Refused,
}

fn same_response(
    case: &Case,
    read: &Reading,
    seen: &Reading,
    goes_on: bool,
    old: bool,
) -> Result<Outcome, String> {
    let (sent, sent_interim) = read.response();
    let (got, got_interim) = seen.response();
    if let End::Refused(why) = &seen.end {
        return Err(format!("the visitor's bytes are refused: {why}"));
    }
    let interim: Vec<Message> = if old {
        Vec::new()
    } else {
        sent_interim.iter().map(|message| without_framing(message)).collect()
    };
    let came: Vec<Message> = got_interim.iter().map(|message| without_framing(message)).collect();
    let same = came.iter().zip(&interim).all(|(came, sent)| came == sent);
    if same && came.len() > interim.len() && !sent.is_some_and(|sent| sent.whole) {
        return Err(went_on("the parser", interim.len(), read));
    }
    if !same || came.len() > interim.len() {
        return Err(format!("interim responses {interim:?} came as {came:?}"));
    }
    let Some(got) = got else {
        // A reset that was quicker than the head, or no answer at all.
        return if sent.is_none_or(|sent| !sent.whole) {
            Ok(Outcome::Cut)
        } else {
            Err("the visitor got no answer".to_owned())
        };
    };
    let behind = seen.messages.iter().filter(|message| !message.is_interim()).nth(1);
    let closes = got.lists("connection", "close") || old && !got.lists("connection", "keep-alive");
    match behind {
        Some(fence) if fence.get("x-fence").is_none() => {
            return Err(format!("behind it comes {fence:?}"));
        }
        Some(_) if !goes_on || closes => return Err("more comes behind the last answer".to_owned()),
        None if goes_on && !closes && got.whole => {
            return Err("the next answer is missing".to_owned());
        }
        _ => {}
    }
    if got.get("proxy-status").is_some() {
        let legal = case.mutations.is_empty();
        return match got.status {
            502 if !legal && got.whole => Ok(Outcome::Refused),
            status => Err(format!("the relay refused with {status}: {}", latin1(&got.body))),
        };
    }
    let Some(sent) = sent else { return Err(went_on("the parser", 0, read)) };
    equal("interim responses", &interim.len(), &came.len())?;
    same_head(sent, got)?;
    if got.body.len() > sent.body.len() {
        return Err(went_on("the parser", 0, read));
    }
    equal("body", &latin1(&sent.body[..got.body.len()]), &latin1(&got.body))?;
    match (sent.whole, got.whole) {
        (true, true) => {
            equal("body", &sent.body.len(), &got.body.len())?;
            if !old {
                same_trailers(sent, got)?;
            }
            Ok(Outcome::Forwarded)
        }
        (false, true) => Err(went_on("the parser", 0, read)),
        (true, false) if case.mutations.is_empty() => Err("a whole response came cut".to_owned()),
        (_, false) => Ok(Outcome::Cut),
    }
}

fn same_head(sent: &Message, got: &Message) -> Result<(), String> {
    let head = Message { body: Vec::new(), trailers: Vec::new(), whole: true, ..got.clone() };
    let (expected, mut came) = (without_framing(sent), without_framing(&head));
    if sent.get("date").is_none() {
        // RFC 9110 §6.6.1: a recipient that forwards a response without one adds it.
        let added = came.fields.iter().rposition(|(name, value)| {
            name == "Date" && value.len() == 29 && value.ends_with(b" GMT")
        });
        came.fields.remove(added.ok_or("there is no Date")?);
    }
    equal("head", &expected, &came)
}

/// What of a response's head goes from end to end.
fn without_framing(message: &Message) -> Message {
    let mut fields = end_to_end(message, false);
    // The relay's own mark is the last Via.
    if let Some(at) =
        fields.iter().rposition(|(name, value)| name == "Via" && value.ends_with(b" ptth"))
    {
        fields.remove(at);
    }
    Message { status: message.status, reason: message.reason.clone(), fields, ..Message::default() }
}

#[test]
fn the_visitor_gets_the_responses_that_independent_parsers_read() {
    if let Some(tally) = run("responses", 3_000, cases::response, response_case) {
        tally.is_no_idle_talk();
    }
}
