//! Which path is what, and what an answer is.

use std::io::{self, Write};
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::admin::server::Context;
use crate::admin::view::{Silent, View};
use crate::admin::{api, metrics, page};
use crate::error::Refusal;
use crate::message::{DateText, date_now};
use crate::proto::head;
use crate::proto::turn::percent_decoded;
use crate::stream::Stream;

/// Longest wait for an event.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A request of somebody who may ask.
pub(super) struct Asked<'a> {
    pub(super) is_post: bool,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) wants_events: bool,
    pub(super) last_event: &'a [u8],
}

impl Asked<'_> {
    /// The value of a parameter, decoded; empty where it is missing or malformed.
    pub(super) fn parameter(&self, name: &str) -> String {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        let value = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next();
        decoded(&value.unwrap_or_default().replace('+', "%20")).unwrap_or_default()
    }

    /// The same as something else, where it is that.
    pub(super) fn number<T: FromStr>(&self, name: &str) -> Option<T> {
        self.parameter(name).parse().ok()
    }

    /// The same as a time: `90s`, `5m`, `1h`, or a number of seconds.
    pub(super) fn time(&self, name: &str) -> Option<Duration> {
        let text = self.parameter(name);
        let (number, factor) = match text.as_bytes().last()? {
            b's' => (&text[..text.len() - 1], 1),
            b'm' => (&text[..text.len() - 1], 60),
            b'h' => (&text[..text.len() - 1], 3_600),
            _ => (&text[..], 1),
        };
        let seconds: u64 = number.parse().ok()?;
        seconds.checked_mul(factor).map(Duration::from_secs)
    }

    /// Whether its answer may wait for an event.
    pub(super) fn waits(&self) -> bool {
        self.path == "/api/v1/events" && !self.wants_events && !self.parameter("wait").is_empty()
    }
}

fn decoded(text: &str) -> Option<String> {
    String::from_utf8(percent_decoded(text.as_bytes())?).ok()
}

/// What a request is answered.
pub(super) struct Reply {
    status: u16,
    kind: &'static str,
    body: Vec<u8>,
    fields: Vec<(&'static str, String)>,
    is_last: bool,
    follows: Option<u64>,
}

impl Reply {
    /// Whether it refuses to answer for the request's host.
    pub(super) fn refuses_host(&self) -> bool {
        self.status == 421
    }

    fn new(status: u16, kind: &'static str, body: impl Into<Vec<u8>>) -> Reply {
        let fields = Vec::new();
        Reply { status, kind, body: body.into(), fields, is_last: false, follows: None }
    }

    /// One line of text.
    pub(super) fn text(status: u16, text: &str) -> Reply {
        Reply::new(status, "text/plain; charset=utf-8", format!("{text}\n"))
    }

    /// What is said of bad bytes; the connection ends.
    pub(super) fn of(refusal: &Refusal) -> Reply {
        Reply::text(refusal.status, &refusal.reason).last()
    }

    fn json(value: &Value) -> Reply {
        Reply::new(200, "application/json", format!("{value}\n"))
    }

    fn missing(what: &str) -> Reply {
        Reply::text(404, what)
    }

    pub(super) fn field(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.fields.push((name, value.into()));
        self
    }

    pub(super) fn last(mut self) -> Reply {
        self.is_last = true;
        self
    }

    pub(super) fn is_last(&self) -> bool {
        self.is_last
    }

    /// Behind which event its connection follows the others.
    pub(super) fn follows(&self) -> Option<u64> {
        self.follows
    }

    /// Writes it. Nothing of it may be stored, framed or guessed at.
    pub(super) fn write(&self, mut stream: &Stream, to_head: bool, keep: bool) -> io::Result<()> {
        let date = date_now();
        let length = self.body.len().to_string();
        let connection = if keep && !self.is_last { "keep-alive" } else { "close" };
        let fixed = [
            ("Date", date.as_ref().map_or("", DateText::as_str)),
            ("Content-Type", self.kind),
            ("Content-Length", &length),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("Referrer-Policy", "no-referrer"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Connection", connection),
        ];
        let own = self.fields.iter().map(|(name, value)| (*name, value.as_str()));
        let mut out = Vec::with_capacity(self.body.len() + 512);
        let phrase = head::reason_phrase(self.status);
        let refused = |refusal: Refusal| io::Error::other(refusal.reason);
        head::write_status_line(&mut out, self.status, phrase.as_bytes()).map_err(refused)?;
        for (name, value) in fixed.into_iter().chain(own) {
            head::write_field(&mut out, name, value.as_bytes()).map_err(refused)?;
        }
        out.extend_from_slice(b"\r\n");
        if !to_head {
            out.extend_from_slice(&self.body);
        }
        stream.write_all(&out)?;
        stream.flush()
    }
}

/// Paths that tell nothing but whether the gateway works.
pub(super) fn is_health(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

/// Answers a request.
pub(super) fn answer(asked: &Asked<'_>, context: &Context) -> Reply {
    let answered = match asked.is_post {
        true => act(asked, context),
        false => show(asked, &context.view),
    };
    answered.unwrap_or_else(|Silent| {
        Reply::text(503, "the gateway's event loop does not answer").field("Retry-After", "1")
    })
}

fn show(asked: &Asked<'_>, view: &View) -> Result<Reply, Silent> {
    Ok(match asked.path {
        "/" => page(asked, page::devices(asked, &*view.snapshot()?, view)),
        "/healthz" => view.process().map(|_| Reply::text(200, "ok"))?,
        "/readyz" => match view.is_ready()? {
            true => Reply::text(200, "ok"),
            false => Reply::text(503, "this gateway is stopping"),
        },
        "/metrics" => metrics::text(view.snapshot()?, view).map_or_else(
            |e| Reply::text(500, &format!("the metrics cannot be written: {e}")),
            |text| Reply::new(200, metrics::CONTENT_TYPE, text),
        ),
        "/api/v1/devices" => Reply::json(&api::devices(asked, &*view.snapshot()?)),
        "/api/v1/links" => {
            let name = asked.parameter("device");
            let name = Some(name.as_str()).filter(|name| !name.is_empty());
            Reply::json(&api::links(&view.links(name)?))
        }
        "/api/v1/routes" => Reply::json(&json!({ "routes": view.routes()? })),
        "/api/v1/limits" => Reply::json(&api::limits(view, &view.process()?)),
        "/api/v1/status" => Reply::json(&api::totals(&*view.snapshot()?, view)),
        "/api/v1/events" => events(asked, view),
        "/api/v1/log-level" => Reply::json(&json!({ "level": level_name(log::max_level()) })),
        path => match (path.strip_prefix("/api/v1/devices/"), path.strip_prefix("/devices/")) {
            (Some(name), _) => with_device(view, name, |history, links| {
                Reply::json(&api::device(&history, &links))
            })?,
            (_, Some(name)) => with_device(view, name, |history, links| {
                page(asked, page::device(&history, &links))
            })?,
            _ => Reply::missing("there is no such page; docs/admin.md lists them"),
        },
    })
}

fn with_device(
    view: &View,
    name: &str,
    show: impl FnOnce(
        Box<crate::gateway::questions::DeviceHistory>,
        Vec<crate::gateway::questions::LinkRow>,
    ) -> Reply,
) -> Result<Reply, Silent> {
    let Some(name) = decoded(name) else { return Ok(Reply::missing("this name is malformed")) };
    let Some(history) = view.device(&name)? else {
        return Ok(Reply::missing("no device of this name was here lately"));
    };
    Ok(show(history, view.links(Some(&name))?))
}

/// A page with the only script and style that may run on it.
fn page(asked: &Asked<'_>, content: page::Content) -> Reply {
    let mut bytes = [0; 16];
    let nonce = match crate::engine::random::fill(&mut bytes) {
        Ok(()) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        Err(_) => String::new(), // without randomness no script runs, and the plain table is there
    };
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    let html = match asked.parameter("fragment").as_str() {
        "" => content.whole(&nonce),
        _ => content.fragment,
    };
    Reply::new(200, "text/html; charset=utf-8", html).field("Content-Security-Policy", policy)
}

/// Followed where the client takes a stream, else what is there, or comes within `wait`.
fn events(asked: &Asked<'_>, view: &View) -> Reply {
    let last = std::str::from_utf8(asked.last_event).ok().and_then(|text| text.parse().ok());
    let after = last.or_else(|| asked.number("after"));
    if asked.wants_events {
        let mut reply = Reply::text(200, "");
        reply.follows = Some(after.unwrap_or_else(|| view.feed.last()));
        return reply;
    }
    let wait = asked.time("wait").unwrap_or_default().min(WAIT_MAX);
    let found = view.feed.after(after.unwrap_or(0), wait);
    let listed: Vec<&str> = found.events.iter().map(|(_, event)| &**event).collect();
    let last = found.last;
    let body = format!("{{\"events\":[{}],\"last\":{last}}}\n", listed.join(","));
    Reply::new(200, "application/json", body)
}

/// The numbers of all, as an event for those who follow.
pub(super) fn pulse(view: &View) -> String {
    match view.snapshot() {
        Ok(snapshot) => format!("event: totals\ndata: {}\n\n", api::totals(&snapshot, view)),
        Err(Silent) => ": the event loop does not answer\n\n".to_owned(),
    }
}

fn act(asked: &Asked<'_>, context: &Context) -> Result<Reply, Silent> {
    if asked.path == "/api/v1/log-level" {
        return Ok(set_log_level(&asked.parameter("level"), context));
    }
    let action = asked.path.strip_prefix("/api/v1/devices/").and_then(|rest| rest.rsplit_once('/'));
    let Some((name, action)) = action else {
        return Ok(Reply::missing("there is no such action; docs/admin.md lists them"));
    };
    let Some(name) = decoded(name) else { return Ok(Reply::missing("this name is malformed")) };
    let connections = match action {
        "disconnect" => context.view.disconnect(&name)?,
        "drain" => context.view.drain(&name)?,
        _ => return Ok(Reply::missing("a device can be asked to disconnect or to drain")),
    };
    log_names!(Info, "an operator asked for {action} of {name}: {connections} connections");
    Ok(Reply::json(&json!({ "device": name, "action": action, "connections": connections })))
}

fn set_log_level(level: &str, context: &Context) -> Reply {
    let Ok(level) = log::LevelFilter::from_str(level) else {
        return Reply::text(400, "write level=error, warn, info, debug, trace or off");
    };
    match &context.set_log_level {
        Some(set) => set(level),
        None => log::set_max_level(level),
    }
    log::info!("an operator set the log level to {level}");
    Reply::json(&json!({ "level": level_name(level) }))
}

fn level_name(level: log::LevelFilter) -> String {
    level.as_str().to_ascii_lowercase()
}
