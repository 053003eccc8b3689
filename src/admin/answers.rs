//! The paths of the admin listener, and their answers.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::admin::api;
use crate::admin::context::Context;
use crate::admin::log_level::LogLevel;
use crate::admin::metrics;
use crate::admin::operators::UNKNOWN;
use crate::admin::page;
use crate::admin::reply::Reply;
use crate::admin::request::{OperatorRequest, decoded};
use crate::admin::view::{Elsewhere, Silent, View};
use crate::proto::digits;

/// Longest wait for an event.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The interval for checking whether the tokens of waiting operators are still valid.
const LOOK: Duration = Duration::from_secs(1);

/// Returns true for paths that report only whether the gateway works.
pub(super) fn is_health(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

/// The parameters of a path of the interface. `None` for pages and unknown paths.
fn parameters(asked: &OperatorRequest<'_>) -> Option<&'static [&'static str]> {
    let path = asked.path.strip_prefix("/api/v1/")?;
    Some(match (path, asked.is_post) {
        ("devices", false) => &["q", "state", "silent_for", "sort", "page", "limit"],
        ("links", false) => &["device"],
        ("events", false) => &["after", "wait"],
        ("log-level", true) => &["level"],
        ("status" | "cluster" | "routes" | "limits" | "log-level", false) => &[],
        (path, _) if path.starts_with("devices/") => &[],
        _ => return None,
    })
}

/// Returns true if a parameter's value is valid. A parameter without a value counts as absent,
/// because forms send such parameters.
fn is_of_its_kind(asked: &OperatorRequest<'_>, name: &str) -> bool {
    let value = asked.parameter(name);
    let is_valid = || match name {
        "silent_for" | "wait" => asked.time(name).is_some(),
        "after" => asked.number::<u64>(name).is_some(),
        "page" => asked.number::<u64>(name).is_some_and(|page| page > 0),
        "limit" => asked.number(name).is_some_and(|limit| (1..=api::PAGE_MAX).contains(&limit)),
        "state" => matches!(&*value, "up" | "down"),
        "sort" => api::SORT_KEYS.contains(&value.strip_prefix('-').unwrap_or(&value)),
        _ => true,
    };
    asked.is_clear(name) && (value.is_empty() || is_valid())
}

/// Refuses unknown or malformed parameters: the answer would not be what the client asked for.
fn wrong_parameter(asked: &OperatorRequest<'_>) -> Option<Reply> {
    let known = parameters(asked)?;
    let keys = asked.query.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    if keys.filter(|key| !key.is_empty()).all(|key| known.contains(&key)) {
        let wrong = known.iter().find(|name| !is_of_its_kind(asked, name))?;
        return Some(Reply::text(
            400,
            &format!("{wrong}: this value is invalid; docs/admin.md lists the valid ones"),
        ));
    }
    Some(match known {
        [] => Reply::text(400, "this path takes no parameters"),
        _ => Reply::text(
            400,
            &format!("this path takes only these parameters: {}", known.join(", ")),
        ),
    })
}

/// Answers a request.
pub(super) fn answer(asked: &OperatorRequest<'_>, context: &Context) -> Reply {
    if let Some(reply) = wrong_parameter(asked) {
        return reply;
    }
    let answered = match asked.is_post {
        true => act(asked, context),
        false => show(asked, context),
    };
    answered.unwrap_or_else(|Silent| {
        Reply::text(503, "the gateway's event loop does not answer").field("Retry-After", "1")
    })
}

fn show(asked: &OperatorRequest<'_>, context: &Context) -> Result<Reply, Silent> {
    let view = &*context.view;
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
        "/api/v1/cluster" => {
            let snapshot = view.snapshot()?;
            match &snapshot.cluster {
                Some(cluster) => Reply::json(&api::cluster(&snapshot, cluster)),
                None => Reply::missing("this gateway knows no others (docs/cluster.md)"),
            }
        }
        "/api/v1/events" => events(asked, context),
        "/api/v1/log-level" => {
            Reply::json(&json!({ "level": log::max_level().as_str().to_ascii_lowercase() }))
        }
        path => match (path.strip_prefix("/api/v1/devices/"), path.strip_prefix("/devices/")) {
            (Some(name), _) => with_device(view, name, |history, links, elsewhere| {
                Reply::json(&api::device(&history, &links, elsewhere.as_ref()))
            })?,
            (_, Some(name)) => with_device(view, name, |history, links, elsewhere| {
                page(asked, page::device(&history, &links, elsewhere.as_ref()))
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
        Option<Elsewhere>,
    ) -> Reply,
) -> Result<Reply, Silent> {
    let Some(name) = decoded(name) else { return Ok(Reply::missing("this name is malformed")) };
    let Some(history) = view.device(&name)? else {
        return Ok(Reply::missing(&unknown(view, &name)?));
    };
    let is_here = history.row.transport.is_some();
    let elsewhere = if is_here { None } else { view.elsewhere(&name) };
    Ok(show(history, view.links(Some(&name))?, elsewhere))
}

/// The answer about a device that was not connected recently.
fn unknown(view: &View, name: &str) -> Result<String, Silent> {
    let mut text = "no device of this name was connected recently".to_owned();
    if let Some(elsewhere) = view.elsewhere(name) {
        text.push_str("; ");
        text.push_str(&api::whereabouts(&elsewhere));
    }
    for refused in view.process()?.refusals.of(name) {
        text.push_str("; ");
        text.push_str(&api::refusal(refused, Instant::now()));
    }
    Ok(text)
}

/// A page, with a policy that allows only its own script and style.
fn page(asked: &OperatorRequest<'_>, content: page::Content) -> Reply {
    let mut bytes = [0; 16];
    let nonce = match crate::engine::random::fill(&mut bytes) {
        Ok(()) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        Err(_) => String::new(), // without randomness the script does not run, and the plain table remains
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

/// Follows the events if the client accepts a stream; otherwise returns existing events, or those
/// that arrive within `wait`.
fn events(asked: &OperatorRequest<'_>, context: &Context) -> Reply {
    let feed = &context.view.feed;
    let last = std::str::from_utf8(asked.last_event).ok().and_then(digits::number);
    let after = last.or_else(|| asked.number("after"));
    if asked.wants_events {
        return Reply::text(200, "").following(after.unwrap_or_else(|| feed.last()));
    }
    let end = Instant::now() + asked.time("wait").unwrap_or_default().min(WAIT_MAX);
    let found = loop {
        let left = end.saturating_duration_since(Instant::now());
        let found = feed.after(after.unwrap_or(0), left.min(LOOK));
        // The token of a waiting operator may have been revoked meanwhile.
        if asked.operator.is_some_and(|operator| !context.operators.still_admit(operator)) {
            return Reply::text(401, UNKNOWN);
        }
        if !found.events.is_empty() || left.is_zero() || feed.is_over() {
            break found;
        }
    };
    let listed: Vec<&str> = found.events.iter().map(|(_, event)| &**event).collect();
    let last = found.last;
    let body = format!("{{\"events\":[{}],\"last\":{last}}}\n", listed.join(","));
    Reply::new(200, "application/json", body)
}

/// The totals, as an event for followers.
pub(super) fn pulse(view: &View) -> String {
    match view.snapshot() {
        Ok(snapshot) => format!("event: totals\ndata: {}\n\n", api::totals(&snapshot, view)),
        Err(Silent) => ": the event loop does not answer\n\n".to_owned(),
    }
}

fn act(asked: &OperatorRequest<'_>, context: &Context) -> Result<Reply, Silent> {
    if asked.path == "/api/v1/log-level" {
        return Ok(set_log_level(asked, context));
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
    let by = by(asked, context);
    log_names!(Info, "an operator{by} asked for {action} of {name} (connections: {connections})");
    Ok(Reply::json(&json!({ "device": name, "action": action, "connections": connections })))
}

/// The label of the token, for the log.
fn by(asked: &OperatorRequest<'_>, context: &Context) -> String {
    match asked.operator.map(|operator| context.operators.label(operator)) {
        Some(label) if !label.is_empty() => format!(" ({label})"),
        _ => String::new(),
    }
}

fn set_log_level(asked: &OperatorRequest<'_>, context: &Context) -> Reply {
    let Some(level) = LogLevel::named(&asked.parameter("level")) else {
        return Reply::text(400, "write level=error, warn, info, debug, trace or off");
    };
    match &context.set_log_level {
        Some(set) => set(level),
        None => log::set_max_level(level.filter()),
    }
    let by = by(asked, context);
    log_names!(Info, "an operator{by} set the log level to {level}");
    Reply::json(&json!({ "level": level.as_str() }))
}
