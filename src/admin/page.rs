//! The status page: HTML that is complete without a script, and follows the events with it.
//!
//! The server does search, order and pages, so that ten thousand devices cost a browser no more
//! than one page of them. Every text is escaped, and the page's policy lets no other script run.

use std::fmt::Write;
use std::time::{Duration, Instant, SystemTime};

use crate::admin::api::{Wanted, days_left, reached, whereabouts};
use crate::admin::event::transport_name;
use crate::admin::request::OperatorRequest;
use crate::admin::view::{ClusterView, Elsewhere, Snapshot, View};
use crate::gateway::ClusterGateway;
use crate::gateway::questions::{DeviceHistory, DeviceRow, LinkRow};
use crate::observe::refusals::Refused;
use crate::observe::row::{Change, Done, MINUTES_MAX, Minute};
use crate::proto::digits::percent_encoded;

const TEMPLATE: &str = include_str!("page.html");

/// A page's changing parts.
pub(super) struct Content {
    title: String,
    controls: String,
    /// The part that the script replaces while the page is open.
    pub(super) fragment: String,
}

impl Content {
    pub(super) fn whole(&self, nonce: &str) -> String {
        let level = log::max_level().as_str().to_ascii_lowercase();
        let levels = ["off", "error", "warn", "info", "debug", "trace"].map(|name| {
            format!("<option{}>{name}</option>", if name == level { " selected" } else { "" })
        });
        let time = httpdate::fmt_http_date(SystemTime::now());
        let title = escaped(&self.title);
        let parts: [(&str, &str); 8] = [
            ("nonce", nonce),
            ("title", &title),
            ("heading", &title),
            ("time", &time),
            ("controls", &self.controls),
            ("live", &self.fragment),
            ("version", env!("CARGO_PKG_VERSION")),
            ("levels", &levels.concat()),
        ];
        let mut html = String::with_capacity(TEMPLATE.len() + self.fragment.len() + 256);
        let mut pieces = TEMPLATE.split("{{");
        html.push_str(pieces.next().unwrap_or_default());
        for piece in pieces {
            let (name, rest) = piece.split_once("}}").unwrap_or(("", piece));
            let part = parts.iter().find(|(known, _)| *known == name);
            html.push_str(part.map_or("", |(_, text)| text));
            html.push_str(rest);
        }
        html
    }
}

fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c => html.push(c),
        }
    }
    html
}

/// A span of time for people: `3 s`, `12 m`, `5 h`, `8 d`.
fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// A latency: `3.2 ms`, `140 ms`, `2.1 s`.
fn latency(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1000.0;
    match millis {
        0.0..10.0 => format!("{millis:.1} ms"),
        10.0..1000.0 => format!("{millis:.0} ms"),
        _ => format!("{:.1} s", millis / 1000.0),
    }
}

fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

fn tile(html: &mut String, value: &str, name: &str) {
    // Writing to a String never fails, here and below.
    let _ = write!(html, "<div class=\"tile\"><b>{}</b><span>{name}</span></div>", escaped(value));
}

/// One cell; `class` of the list in the style.
fn cell(html: &mut String, name: &str, class: &str, content: &str) {
    let empty = if content.is_empty() { " empty" } else { "" };
    let _ = write!(html, "<td class=\"{class}{empty}\" data-as=\"{name}\">{content}</td>");
}

/// The columns of the list: name, sort key, and whether they are numbers.
const COLUMNS: [(&str, &str, bool); 16] = [
    ("name", "name", false),
    ("state", "state", false),
    ("transport", "", false),
    ("idle", "-idle", true),
    ("busy", "-busy", true),
    ("waiting", "-waiting", true),
    ("silent", "-silent", true),
    ("requests", "-requests", true),
    ("errors", "-errors", true),
    ("p50", "-p50", true),
    ("p99", "-p99", true),
    ("in", "-bytes", true),
    ("out", "-bytes", true),
    ("protocol, agent", "", false),
    ("address", "address", false),
    ("token", "", false),
];

pub(super) fn devices(asked: &OperatorRequest<'_>, snapshot: &Snapshot, view: &View) -> Content {
    let wanted = Wanted::of(asked);
    let mut html = String::new();
    tiles(&mut html, snapshot, view);
    let (found, rows) = wanted.find(snapshot);
    let pages = found.div_ceil(wanted.limit).max(1);
    let _ = write!(
        html,
        "<nav><span class=\"soft\">{found} of {} devices</span>",
        snapshot.devices.len()
    );
    if wanted.page > 1 {
        let _ = write!(
            html,
            "<a rel=\"prev\" href=\"{}\">‹ back</a>",
            link(asked, &wanted.sort, wanted.page - 1)
        );
    }
    if pages > 1 {
        let _ = write!(html, "<span class=\"soft\">page {} of {pages}</span>", wanted.page);
    }
    if wanted.page < pages {
        let _ = write!(
            html,
            "<a rel=\"next\" href=\"{}\">on ›</a>",
            link(asked, &wanted.sort, wanted.page + 1)
        );
    }
    html.push_str("</nav><div class=\"scroll\"><table><thead><tr>");
    for (name, key, number) in COLUMNS {
        let class = if number { "n" } else { "" };
        let _ = write!(html, "<th class=\"{class}\">");
        if key.is_empty() {
            html.push_str(name);
        } else {
            let other = key.strip_prefix('-').map_or_else(|| format!("-{key}"), str::to_owned);
            let href = link(asked, if wanted.sort == key { &other } else { key }, 1);
            let arrow = match &wanted.sort {
                sort if *sort != key && *sort != other => "",
                sort if sort.starts_with('-') => " ▾",
                _ => " ▴",
            };
            let _ = write!(html, "<a href=\"{href}\">{name}{arrow}</a>");
        }
        html.push_str("</th>");
    }
    html.push_str("</tr></thead><tbody>");
    for row in rows {
        device_row(&mut html, snapshot, row);
    }
    html.push_str("</tbody></table></div>");
    let refused = snapshot.process.refusals.latest.iter().rev();
    refused_section(&mut html, refused, snapshot.at);
    if let Some(cluster) = &snapshot.cluster {
        cluster_section(&mut html, snapshot, cluster);
    }
    Content { title: "ptth gateway".to_owned(), controls: controls(asked, &wanted), fragment: html }
}

/// This list in another order, or another page of it.
fn link(asked: &OperatorRequest<'_>, sort: &str, page: usize) -> String {
    let mut query = String::new();
    for name in ["q", "state", "silent_for", "limit"] {
        let value = asked.parameter(name);
        if !value.is_empty() {
            let _ = write!(query, "{name}={}&amp;", percent_encoded(&value));
        }
    }
    format!("/?{query}sort={}&amp;page={page}", percent_encoded(sort))
}

fn controls(asked: &OperatorRequest<'_>, wanted: &Wanted) -> String {
    let option = |value: &str, text: &str, chosen: &str| {
        let selected = if value == chosen { " selected" } else { "" };
        format!("<option value=\"{value}\"{selected}>{text}</option>")
    };
    let silent = asked.parameter("silent_for");
    let times = [
        ("", "however silent"),
        ("1m", "silent for 1 m"),
        ("5m", "silent for 5 m"),
        ("1h", "silent for 1 h"),
    ];
    let states = [("", "up and down"), ("up", "up"), ("down", "down")];
    let list = |options: &[(&str, &str)], chosen: &str| {
        options.iter().map(|(value, text)| option(value, text, chosen)).collect::<String>()
    };
    format!(
        "<form method=\"get\" action=\"/\"><input type=\"search\" name=\"q\" aria-label=\"search\" placeholder=\"name, address, agent, token\" value=\"{}\"><select name=\"state\" aria-label=\"state\">{}</select><select name=\"silent_for\" aria-label=\"silence\">{}</select><button>find</button></form>",
        escaped(&asked.parameter("q")),
        list(&states, &wanted.state),
        list(&times, &silent),
    )
}

fn tiles(html: &mut String, snapshot: &Snapshot, view: &View) {
    let (process, stats) = (&snapshot.process, &snapshot.stats);
    let counts = &process.totals.counts;
    let waiting: usize = snapshot.devices.iter().map(|row| row.load.waiting).sum();
    html.push_str("<div class=\"tiles\">");
    if process.is_stopping {
        tile(html, "stopping", "this gateway");
    }
    tile(html, &stats.devices.to_string(), "devices connected");
    tile(html, &process.totals.in_progress.to_string(), "requests in progress");
    tile(html, &waiting.to_string(), "callers waiting");
    tile(html, &counts.requests.to_string(), "requests");
    tile(html, &counts.errors.to_string(), "errors");
    let share = |now: usize, max: usize| format!("{} %", now.saturating_mul(100) / max.max(1));
    tile(html, &share(process.connections, view.limits().connections_max), "of connections");
    tile(html, &share(process.memory, view.limits().memory_bytes_max), "of memory");
    tile(html, &span(snapshot.at.saturating_duration_since(process.start)), "running");
    if let Some(first) = process.certificates.iter().map(|(_, _, expires)| *expires).min() {
        let days = days_left(first, snapshot.wall);
        tile(html, &format!("{days} d"), "left of the first certificate");
    }
    html.push_str("</div>");
    let bounds: Vec<String> =
        reached(&stats.bounds_reached).map(|(bound, count)| format!("{bound} ({count})")).collect();
    if !bounds.is_empty() {
        let bounds = bounds.join(", ");
        let _ = write!(html, "<p class=\"soft\">bounds reached so far: {bounds}</p>");
    }
    if let Some(configuration) = view.configuration() {
        let ago = span(configuration.read.elapsed().unwrap_or_default());
        let told = escaped(&configuration.told);
        let _ = write!(html, "<p class=\"soft\">configuration, {ago} ago: {told}</p>");
    }
}

/// Refused offers, if there are any.
fn refused_section<'r>(
    html: &mut String,
    refused: impl Iterator<Item = &'r Refused>,
    now: Instant,
) {
    let rows: Vec<String> = refused
        .map(|refused| {
            row_of(&[
                ("device", "", escaped(&refused.name)),
                ("address", "", refused.address.map(|ip| ip.to_string()).unwrap_or_default()),
                ("status", "n", refused.status.to_string()),
                ("times", "n", refused.count.to_string()),
                ("last", "n", span(now.saturating_duration_since(refused.at))),
                ("reason", "wide", escaped(&refused.reason)),
            ])
        })
        .collect();
    if !rows.is_empty() {
        let columns = ["device", "address", "#status", "#times", "#last", "reason"];
        table(html, "Refused offers", &columns, &rows);
    }
}

/// Other gateways, below the devices.
fn cluster_section(html: &mut String, snapshot: &Snapshot, cluster: &ClusterView) {
    let rows: Vec<String> = cluster
        .peers
        .iter()
        .map(|row| {
            let failure = row.last_failure.as_ref().map(|(ago, why)| {
                let class = if row.last_answer.is_some_and(|answer| answer < *ago) {
                    "soft"
                } else {
                    "down"
                };
                let (ago, why) = (span(*ago), escaped(why));
                format!("<span class=\"{class}\">{ago} ago: {why}</span>")
            });
            row_of(&[
                ("gateway", "", escaped(&row.url)),
                ("state", "", reachability(row.state())),
                ("open", "n", row.open.to_string()),
                ("idle", "n", row.idle.to_string()),
                ("requests", "n", row.sent.to_string()),
                ("failures", "n", row.failures.to_string()),
                ("served", "n", row.served.to_string()),
                ("last answer", "n", row.last_answer.map(span).unwrap_or_default()),
                ("last failure", "wide", failure.unwrap_or_default()),
            ])
        })
        .collect();
    let columns = [
        "gateway",
        "state",
        "#open",
        "#idle",
        "#requests",
        "#failures",
        "#served",
        "#last answer",
        "last failure",
    ];
    table(html, "Other gateways", &columns, &rows);
    if let Some(claims) = &cluster.directory.claims {
        gateways_section(html, &claims.gateways);
    }
    let _ = write!(html, "<p class=\"soft\">{}</p>", directory_line(cluster));
    let (sent, served) = (snapshot.stats.hops, snapshot.stats.hops_served);
    let _ = write!(html, "<p class=\"soft\">hops: {sent} sent, {served} served</p>");
}

/// Whether another gateway can be reached.
fn reachability(state: &str) -> String {
    let class = match state {
        "answers" => "up",
        "fails" | "hangs" => "down",
        _ => "soft",
    };
    format!("<span class=\"{class}\">{state}</span>")
}

/// What the gateways say of themselves in the directory.
fn gateways_section(html: &mut String, gateways: &[ClusterGateway]) {
    let row = |known: &ClusterGateway| {
        let class = if known.lives { "up" } else { "down" };
        let ago = span(known.announced);
        row_of(&[
            ("gateway", "", escaped(&known.url)),
            ("announced", "n", format!("<span class=\"{class}\">{ago} ago</span>")),
            ("names", "n", known.names.map(|names| names.to_string()).unwrap_or_default()),
            ("claims last", "n", known.claim_time.map(span).unwrap_or_default()),
            ("", "wide", if known.is_own { "this one".to_owned() } else { String::new() }),
        ])
    };
    let rows: Vec<String> = gateways.iter().map(row).collect();
    let columns = ["gateway", "#announced", "#names", "#claims last", ""];
    table(html, "Gateways in the directory", &columns, &rows);
}

fn directory_line(cluster: &ClusterView) -> String {
    let directory = &cluster.directory;
    let own = cluster.own.as_deref().unwrap_or("nowhere");
    let mut line = format!("this gateway: {}; directory: {}", escaped(own), directory.kind);
    if let Some((why, ago)) = &directory.away {
        let (ago, why) = (span(*ago), escaped(why));
        let _ = write!(line, ", <span class=\"down\">away</span> for {ago}: {why}");
    }
    if let Some(claims) = &directory.claims {
        let _ = write!(
            line,
            "; names: {} claimed, {} unclaimed, {} lost",
            claims.claimed, claims.unclaimed, claims.lost
        );
        if claims.restoring > 0 {
            let left = claims.restoring;
            let _ = write!(line, ", <span class=\"down\">{left} not yet claimed again</span>");
        }
        if claims.url_is_shared {
            line.push_str(
                "; <span class=\"down\">another gateway announces itself by this URL, too</span>",
            );
        }
    }
    line
}

fn state(row: &DeviceRow, now: Instant) -> String {
    let since = span(now.saturating_duration_since(row.since));
    match (row.transport, row.cause) {
        (Some(_), _) => format!("<span><span class=\"up\">up</span> <small>{since}</small></span>"),
        (None, Some(cause)) => {
            format!("<span><span class=\"down\">down</span> <small>{since}, {cause}</small></span>")
        }
        (None, None) => {
            format!("<span><span class=\"down\">down</span> <small>{since}</small></span>")
        }
    }
}

/// How a device is connected.
fn transport(row: &DeviceRow) -> String {
    let tls = if row.offer.secure { ", TLS" } else { "" };
    row.transport.map_or_else(String::new, |via| format!("{}{tls}", transport_name(via)))
}

fn device_row(html: &mut String, snapshot: &Snapshot, row: &DeviceRow) {
    let number = |n: u64| if n == 0 { String::new() } else { n.to_string() };
    let bytes = |n: u64| if n == 0 { String::new() } else { size(n) };
    let time = |time: Option<Duration>| time.map(latency).unwrap_or_default();
    let name = escaped(&row.name);
    let href = percent_encoded(&row.name);
    html.push_str("<tr>");
    cell(html, "name", "", &format!("<a href=\"/devices/{href}\">{name}</a>"));
    cell(html, "state", "", &state(row, snapshot.at));
    cell(html, "transport", "", &transport(row));
    cell(html, "idle", "n", &number(row.idle() as u64));
    cell(html, "busy", "n", &number(row.busy() as u64));
    cell(html, "waiting", "n warn", &number(row.load.waiting as u64));
    cell(html, "silent", "n", &span(snapshot.silence(row)));
    cell(html, "requests", "n", &number(row.counts.requests));
    cell(html, "errors", "n error", &number(row.counts.errors));
    cell(html, "p50", "n", &time(row.p50));
    cell(html, "p99", "n", &time(row.p99));
    cell(html, "in", "n", &bytes(row.counts.bytes_from_devices));
    cell(html, "out", "n", &bytes(row.counts.bytes_to_devices));
    cell(
        html,
        "protocol, agent",
        "",
        &escaped(format!("{} {}", row.offer.protocol, row.offer.agent).trim()),
    );
    cell(html, "address", "", &row.offer.address.map(|ip| ip.to_string()).unwrap_or_default());
    let known = row.offer.token.as_deref().or(row.offer.certificate.as_deref());
    cell(html, "token", "", &escaped(known.unwrap_or_default()));
    html.push_str("</tr>");
}

pub(super) fn device(
    history: &DeviceHistory,
    links: &[LinkRow],
    elsewhere: Option<&Elsewhere>,
) -> Content {
    let (row, now) = (&history.row, Instant::now());
    let mut html = String::from("<div class=\"tiles\">");
    let _ = write!(
        html,
        "<div class=\"tile\"><b>{}</b><span>{}</span></div>",
        state(row, now),
        transport(row)
    );
    tile(&mut html, &span(now.saturating_duration_since(row.last_seen)), "since last seen");
    tile(&mut html, &row.ups.to_string(), "times up");
    tile(&mut html, &row.counts.requests.to_string(), "requests");
    tile(&mut html, &row.counts.errors.to_string(), "errors");
    tile(&mut html, &row.p50.map_or("–".to_owned(), latency), "p50");
    tile(&mut html, &row.p99.map_or("–".to_owned(), latency), "p99");
    tile(&mut html, &row.load.waiting.to_string(), "callers waiting");
    tile(&mut html, &size(row.counts.bytes_from_devices), "in");
    tile(&mut html, &size(row.counts.bytes_to_devices), "out");
    html.push_str("</div>");
    offer(&mut html, row);
    if let Some(elsewhere) = elsewhere {
        let _ = write!(html, "<p class=\"soft\">{}</p>", escaped(&whereabouts(elsewhere)));
    }
    html.push_str("<h2>Last hour</h2>");
    sparkline(&mut html, &history.minutes, history.minute);
    link_table(&mut html, links);
    request_table(&mut html, &history.recent, now);
    change_table(&mut html, &history.changes, now);
    refused_section(&mut html, history.refused.iter(), now);
    let (name, path) = (escaped(&row.name), percent_encoded(&row.name));
    let controls = format!(
        "<div class=\"actions\"><button data-post=\"/api/v1/devices/{path}/drain\" data-ask=\"Tell the links of {name} to go when they are idle?\">drain</button><button class=\"danger\" data-post=\"/api/v1/devices/{path}/disconnect\" data-ask=\"Cut every connection of {name} now?\">disconnect</button></div>"
    );
    Content { title: row.name.to_string(), controls, fragment: html }
}

fn offer(html: &mut String, row: &DeviceRow) {
    let offer = &row.offer;
    let address = offer.address.map(|address| address.to_string());
    let expires = offer.certificate_expires.map(|at| {
        let left = at.duration_since(SystemTime::now());
        left.map_or_else(|_| "already".to_owned(), |left| format!("in {}", span(left)))
    });
    let parts = [
        ("protocol", Some(&*offer.protocol)),
        ("agent", Some(&*offer.agent)),
        ("address", address.as_deref()),
        ("token", offer.token.as_deref()),
        ("certificate", offer.certificate.as_deref()),
        ("which expires", expires.as_deref()),
    ];
    let told = parts.iter().filter_map(|(name, text)| {
        let text = text.filter(|text| !text.is_empty())?;
        Some(format!("{name} {}", escaped(text)))
    });
    let _ = write!(html, "<p class=\"soft\">{}</p>", told.collect::<Vec<_>>().join(" · "));
}

/// Requests of each minute as bars (failed ones below in red), their mean time as a line.
fn sparkline(html: &mut String, minutes: &[Minute], now: u32) {
    const HEIGHT: f64 = 60.0;
    let most = minutes.iter().map(|minute| minute.requests).max().unwrap_or(0).max(1);
    let mean = |minute: &Minute| minute.total_ms as f64 / f64::from(minute.requests.max(1));
    let slowest = minutes.iter().map(mean).fold(1.0, f64::max);
    let _ = write!(
        html,
        "<svg viewBox=\"0 0 {MINUTES_MAX} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"requests and latency of the last hour\">"
    );
    let mut line = String::new();
    for minute in minutes {
        let Some(x) = (MINUTES_MAX as u32 - 1).checked_sub(now.saturating_sub(minute.number))
        else {
            continue;
        };
        for (class, count) in [("rate", minute.requests), ("errors", minute.errors)] {
            let height = HEIGHT * f64::from(count) / f64::from(most);
            let _ = write!(
                html,
                "<rect class=\"{class}\" x=\"{x}.1\" y=\"{:.1}\" width=\".8\" height=\"{height:.1}\"/>",
                HEIGHT - height
            );
        }
        let _ = write!(line, "{x}.5,{:.1} ", HEIGHT - 0.9 * HEIGHT * mean(minute) / slowest);
    }
    let _ = write!(html, "<polyline class=\"time\" points=\"{line}\"/></svg>");
    let _ = write!(
        html,
        "<p class=\"soft\">bars: up to {most} requests a minute; line: mean latency, up to {}</p>",
        latency(Duration::from_secs_f64(slowest / 1000.0))
    );
}

/// A table with these columns (`#` before those with numbers), or a line for an empty table.
fn table(html: &mut String, title: &str, columns: &[&str], rows: &[String]) {
    let _ = write!(html, "<h2>{title}</h2>");
    if rows.is_empty() {
        html.push_str("<p class=\"soft\">none</p>");
        return;
    }
    html.push_str("<div class=\"scroll\"><table><thead><tr>");
    for name in columns {
        let (class, name) = name.strip_prefix('#').map_or(("", *name), |name| ("n", name));
        let _ = write!(html, "<th class=\"{class}\">{name}</th>");
    }
    let _ = write!(html, "</tr></thead><tbody>{}</tbody></table></div>", rows.concat());
}

fn row_of(cells: &[(&str, &str, String)]) -> String {
    let mut html = String::from("<tr>");
    cells.iter().for_each(|(name, class, text)| cell(&mut html, name, class, text));
    html.push_str("</tr>");
    html
}

fn link_table(html: &mut String, links: &[LinkRow]) {
    let rows: Vec<String> = links
        .iter()
        .map(|link| {
            let (what, age) = link.exchange.as_ref().map_or_else(Default::default, |exchange| {
                let (method, path, age) = exchange;
                (escaped(&format!("{method} {path}")), latency(*age))
            });
            row_of(&[
                ("state", "", link.state.to_owned()),
                ("address", "", link.remote_ip.map(|ip| ip.to_string()).unwrap_or_default()),
                ("in", "n", size(link.received)),
                ("out", "n", size(link.written)),
                ("request", "wide", what),
                ("for", "n", age),
            ])
        })
        .collect();
    table(html, "Links", &["state", "address", "#in", "#out", "request", "#for"], &rows);
}

fn request_table(html: &mut String, recent: &[Done], now: Instant) {
    let rows: Vec<String> = recent
        .iter()
        .rev()
        .map(|done| {
            let status = if done.status == 0 { String::new() } else { done.status.to_string() };
            let class = if done.failure.is_some() || done.status >= 500 { "n error" } else { "n" };
            row_of(&[
                ("ago", "n", span(now.saturating_duration_since(done.at))),
                ("method", "", escaped(&done.method)),
                ("path", "wide", escaped(&done.path)),
                ("status", class, status),
                ("took", "n", latency(done.took)),
                ("waited", "n", latency(done.waited)),
                ("visitor", "", done.from.map(|ip| ip.to_string()).unwrap_or_default()),
                ("failure", "error", done.failure.unwrap_or_default().to_owned()),
            ])
        })
        .collect();
    let columns = ["#ago", "method", "path", "#status", "#took", "#waited", "visitor", "failure"];
    table(html, "Recent requests", &columns, &rows);
}

fn change_table(html: &mut String, changes: &[Change], now: Instant) {
    let rows: Vec<String> = changes
        .iter()
        .rev()
        .map(|change| {
            let class = match change.kind {
                "up" => "up",
                "down" => "down",
                _ => "",
            };
            row_of(&[
                ("ago", "n", span(now.saturating_duration_since(change.at))),
                ("what", class, change.kind.to_owned()),
                ("cause", "", change.cause.map(|cause| cause.to_string()).unwrap_or_default()),
                ("reason", "wide", escaped(&change.reason)),
            ])
        })
        .collect();
    table(html, "Ups and downs", &["#ago", "what", "cause", "reason"], &rows);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_others_are_no_markup() {
        assert_eq!(escaped("<b a='\"'>&"), "&lt;b a=&#39;&quot;&#39;&gt;&amp;");
    }

    #[test]
    fn the_template_has_its_parts_and_names_nothing_outside() {
        let content = Content {
            title: "<lamp>".to_owned(),
            controls: String::new(),
            fragment: "{{nonce}}".to_owned(),
        };
        let html = content.whole("n0nce");
        assert!(html.contains("<title>&lt;lamp&gt;</title>") && html.contains("\"n0nce\""));
        assert!(html.contains("{{nonce}}"), "a part is not read again");
        assert!(!html.contains("http://") && !html.contains("https://"), "an outside resource");
    }

    #[test]
    fn times_and_sizes_are_short() {
        let second = Duration::from_secs(1);
        assert_eq!((span(second), span(200 * second)), ("1 s".to_owned(), "3 m".to_owned()));
        assert_eq!(
            (latency(second), latency(second / 400)),
            ("1.0 s".to_owned(), "2.5 ms".to_owned())
        );
        assert_eq!((size(1_023), size(1_536)), ("1023 B".to_owned(), "1.5 KiB".to_owned()));
    }
}
