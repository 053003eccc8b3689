//! Requests, from the visitor to the device.

use super::cases;
use super::cases::Case;
use super::readers::{End, Message, Reader, Reading};
use super::{
    Answer, Check, FENCE, RawDevice, Tally, answers, end_to_end, equal, known, latin1, run,
    same_trailers, visit, went_on,
};
use crate::support::Gateway;

/// What one parser has to say about a case: how many requests it confirms, or what is wrong.
fn compare(
    name: &str,
    case: &Case,
    read: &Reading,
    arrived: &[(Reading, bool)],
    answers: &[Answer],
) -> Result<usize, String> {
    let mut device = arrived.iter().flat_map(|(reading, _)| &reading.messages);
    let mut seen = 0;
    for (i, answer) in answers.iter().enumerate() {
        let request = read.messages.get(i);
        let Some(nth) = answer.nth else {
            if !(answer.status == 308 || (400..600).contains(&answer.status)) {
                return Err(format!("answer {i} is the gateway's own {}", answer.status));
            }
            if answer.closes && i + 1 < answers.len() {
                return Err(format!("answer {i} closes, and {} follow", answers.len() - i - 1));
            }
            if !answer.closes && request.is_none() {
                return Err(went_on(name, i, read));
            }
            // An HTTP/1.0 visitor takes an answer that does not say keep-alive as the last.
            if !answer.closes
                && !request.is_some_and(|r| r.whole && r.body.is_empty() && r.minor == 1)
            {
                return Err(format!(
                    "the gateway's own {} goes on behind what {name} reads as {request:?}",
                    answer.status
                ));
            }
            continue;
        };
        if nth != seen {
            return Err(format!("answer {i} is the device's {nth}, not its {seen}"));
        }
        seen += 1;
        let Some(request) = request.filter(|request| request.whole) else {
            return Err(went_on(name, i, read));
        };
        let Some(got) = device.next().filter(|message| message.whole) else {
            return Err(format!(
                "the device answered, and {name} reads no request number {nth} in what it got: {arrived:?}"
            ));
        };
        same_request(request, got).map_err(|e| format!("request {i}: {e}"))?;
    }
    // What the device has beyond its answers is a request that was cut.
    if let Some(partial) = device.next() {
        let last_refused = answers.last().is_some_and(|a| a.nth.is_none() && a.closes);
        let k = answers.len() - usize::from(last_refused);
        if partial.whole {
            return Err(format!("the device got a request that nobody was answered: {partial:?}"));
        }
        let Some(request) = read.messages.get(k) else { return Err(went_on(name, k, read)) };
        let Some(body) = request.body.get(..partial.body.len()) else {
            return Err(went_on(name, k, read));
        };
        let cut = Message { body: body.to_vec(), trailers: Vec::new(), ..request.clone() };
        same_request(&cut, partial).map_err(|e| format!("request {k}, which was cut: {e}"))?;
    }
    if device.next().is_some() {
        return Err("the device got more than one request that was not answered".to_owned());
    }
    ends_rightly(name, case, read, arrived, answers)?;
    Ok(seen)
}

/// Whatever was not answered was refused, or was none.
fn ends_rightly(
    name: &str,
    case: &Case,
    read: &Reading,
    arrived: &[(Reading, bool)],
    answers: &[Answer],
) -> Result<(), String> {
    for (reading, closed) in arrived {
        match &reading.end {
            End::Refused(why) if known(name, why, false).is_none() => {
                return Err(format!("{name} refuses what the device got: {why}"));
            }
            End::Within if !closed => {
                return Err("the device got a part of a request, and its link goes on".to_owned());
            }
            _ => {}
        }
    }
    // It may end where the request says so, and says that it does.
    let may_close = |request: &Message| {
        request.lists("connection", "close")
            || request.minor == 0 && !request.lists("connection", "keep-alive")
    };
    let last = answers
        .len()
        .checked_sub(1)
        .and_then(|last| Some((&answers[last], read.messages.get(last)?)));
    let ended = answers.last().is_some_and(|a| a.closes && a.nth.is_none())
        || last.is_some_and(|(a, r)| a.closes && may_close(r));
    if answers.len() < read.whole() && !ended {
        return Err(format!(
            "{} answers to the {} requests that {name} reads",
            answers.len(),
            read.whole()
        ));
    }
    if let (End::Refused(why), true) = (&read.end, answers.is_empty()) {
        if !case.mutations.contains(&"cut short") && known(name, why, false).is_none() {
            return Err(format!("{name} refuses it ({why}), and the visitor heard nothing"));
        }
    }
    Ok(())
}

/// Where the request names what it wants: authority and path.
fn destination(request: &Message) -> (Vec<u8>, String) {
    let host = request.get("host").unwrap_or_default().to_vec();
    match request.target.find("://") {
        Some(at) => {
            let rest = &request.target[at + 3..];
            let end = rest.find('/').unwrap_or(rest.len());
            (
                rest.as_bytes()[..end].to_vec(),
                if end == rest.len() { "/".to_owned() } else { rest[end..].to_owned() },
            )
        }
        None => (host, request.target.clone()),
    }
}

/// Fails unless `got` is `sent` as a relay has to forward it.
fn same_request(sent: &Message, got: &Message) -> Result<(), String> {
    let (authority, path) = destination(sent);
    let rest =
        path.strip_prefix("/lamp").ok_or_else(|| format!("{path:?} is not for this device"))?;
    let target = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    equal("method", &sent.method, &got.method)?;
    equal("target", &target, &got.target)?;
    equal("version", &1, &got.minor)?;
    equal(
        "Host, first",
        &Some(("Host".to_owned(), authority.clone())),
        &got.fields.first().cloned(),
    )?;
    let bytes = |text: &str| text.as_bytes().to_vec();
    let mut own = end_to_end(sent, true);
    own.push(("Via".to_owned(), format!("1.{} ptth", sent.minor).into_bytes()));
    equal("end-to-end fields", &own, &end_to_end(got, true))?;
    for (name, value) in [
        ("X-Forwarded-For", bytes("127.0.0.1")),
        ("X-Forwarded-Proto", bytes("http")),
        ("X-Forwarded-Host", authority),
        ("X-Forwarded-Prefix", bytes("/lamp")),
    ] {
        equal(name, &vec![value.as_slice()], &got.all(name))?;
    }
    for name in ["keep-alive", "proxy-connection", "http2-settings", "forwarded"] {
        equal(name, &Vec::<&[u8]>::new(), &got.all(name))?;
    }
    let forwarding =
        got.fields.iter().filter(|(name, _)| name.to_lowercase().starts_with("x-forwarded-"));
    equal("forwarding fields", &4, &forwarding.count())?;
    equal("TE", &sent.lists("te", "trailers").then_some(b"trailers".as_slice()), &got.get("te"))?;
    let offers: Vec<String> =
        sent.list("upgrade").into_iter().filter(|token| token != "h2c").collect();
    let no_body = got.whole && sent.body.is_empty() && sent.all("transfer-encoding").is_empty();
    let upgrades = no_body && sent.minor == 1 && sent.lists("connection", "upgrade");
    equal("Upgrade", &if upgrades { offers.clone() } else { Vec::new() }, &got.list("upgrade"))?;
    let connection =
        if upgrades && !offers.is_empty() { vec!["upgrade".to_owned()] } else { Vec::new() };
    equal("Connection", &connection, &got.list("connection"))?;
    let chunked = !sent.all("transfer-encoding").is_empty();
    equal(
        "Transfer-Encoding",
        &if chunked { vec![b"chunked".as_slice()] } else { Vec::new() },
        &got.all("transfer-encoding"),
    )?;
    equal("body", &latin1(&sent.body), &latin1(&got.body))?;
    let length = sent.body.len().to_string();
    let says = !chunked
        && (!sent.all("content-length").is_empty()
            || matches!(sent.method.as_str(), "POST" | "PUT" | "PATCH"));
    if got.whole {
        equal(
            "Content-Length",
            &if says { vec![length.as_bytes()] } else { Vec::new() },
            &got.all("content-length"),
        )?;
        same_trailers(sent, got)?;
    }
    Ok(())
}

/// One connection's worth of requests.
fn request_case(
    case: &Case,
    gateway: &Gateway,
    device: &RawDevice,
    readers: &mut [Reader; 2],
    tally: &mut Tally,
) -> Result<(), String> {
    readers.iter_mut().for_each(|reader| reader.ask_requests(&case.bytes));
    let got = visit(gateway.visitors, case.pieces());
    let fence = visit(gateway.visitors, [FENCE.as_bytes()].into_iter());
    let readings: Vec<Reading> = readers.iter_mut().map(Reader::reading).collect();
    let (got, fence) = (got?, fence?);
    if !latin1(&fence.bytes).contains("X-Fence: 1") {
        return Err(format!("the next visitor got {:?}", latin1(&fence.bytes)));
    }
    let streams = device.streams();
    let mut confirmed = 0;
    let mut complaints = Vec::new();
    let most = readings.iter().max_by_key(|read| read.messages.len()).unwrap();
    let methods: Vec<&str> = most.messages.iter().map(|message| message.method.as_str()).collect();
    let answers = answers(&got.bytes, &methods)?;
    for (reader, read) in readers.iter_mut().zip(&readings) {
        streams.iter().for_each(|stream| reader.ask_requests(&stream.bytes));
        let arrived: Vec<(Reading, bool)> =
            streams.iter().map(|stream| (reader.reading(), stream.closed)).collect();
        let outcome = compare(reader.name, case, read, &arrived, &answers);
        let refused = answers.iter().any(|a| a.nth.is_none() && a.status >= 400 && a.status != 404);
        match outcome {
            Ok(n) => {
                confirmed += 1;
                tally.forwarded += n;
                tally.refused += usize::from(refused);
                tally.cut +=
                    usize::from(arrived.iter().any(|(reading, _)| reading.end == End::Within));
                tally.silent += usize::from(answers.is_empty());
                let unread = match &read.end {
                    End::Refused(why) => known(reader.name, why, false).is_none(),
                    End::Within => true,
                    End::Clean | End::Closed => false,
                };
                if case.mutations.is_empty() && (refused || unread) {
                    return Err(format!(
                        "a legal case: {answers:?}, and {} ends {:?}",
                        reader.name, read.end
                    ));
                }
            }
            Err(complaint) => {
                let End::Refused(why) = &read.end else {
                    return Err(format!("{}: {complaint}", reader.name));
                };
                let Some(row) = known(reader.name, why, false)
                    .filter(|_| complaint.starts_with("the relay went on"))
                else {
                    return Err(format!("{}: {complaint}", reader.name));
                };
                *tally.laxer.entry(row.complaint).or_default() += 1;
                if row.needs_other {
                    complaints.push(complaint);
                }
            }
        }
    }
    if got.reset && got.bytes.is_empty() && readings.iter().any(|read| read.whole() > 0) {
        return Err("the visitor got nothing but a reset".to_owned());
    }
    if confirmed == 0 && !complaints.is_empty() {
        Err(format!("no parser reads it: {complaints:?}"))
    } else {
        Ok(())
    }
}

#[test]
fn the_device_gets_the_requests_that_independent_parsers_read() {
    let check: Check = |case, _, gateway, device, readers, tally| {
        request_case(case, gateway, device, readers, tally)
    };
    if let Some(tally) = run("requests", 4_000, cases::requests, check) {
        tally.is_no_idle_talk();
    }
}
