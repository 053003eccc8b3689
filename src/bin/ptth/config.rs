//! The file of `--config`: TOML with every option ([`options`]) and a table of routes. Each error
//! is reported with its line and column, and with a correct form.

#[path = "config/options.rs"] // also where another program takes this file by its path
mod options;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use reverse_http::gateway::Rate;
use reverse_http::text::misleads;
use reverse_http::{Error, Route, Routes};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub(crate) use self::options::Merged;
use crate::environment::distance;
use crate::files::{self, Reading};

/// The longest file, in bytes: more than 65,000 routes. A longer file is a mistake.
const FILE_MAX: u64 = 16 << 20;

/// A file's text, and its name for error messages.
#[derive(Clone)]
pub(crate) struct File {
    name: String,
    text: String,
}

impl File {
    /// # Errors
    /// One line: the file, and why it cannot be read.
    pub(crate) fn read(path: &Path, reading: Reading) -> Result<Self, String> {
        let name = path.display().to_string();
        let bytes = files::read(path, FILE_MAX, reading).map_err(|e| format!("{name}: {e}"))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| format!("{name}: there are bytes that are not UTF-8"))?;
        // The disk was probably full when the file was written; this does not mean all defaults.
        if matches!(reading, Reading::Again) && text.trim().is_empty() {
            return Err(format!("{name}: the file is empty"));
        }
        Ok(File::of_text(name, text))
    }

    pub(crate) fn of_text(name: String, text: String) -> Self {
        File { name, text }
    }

    /// Adds the routes of the file to existing ones. `knows_visitors` means that visitors need a
    /// token.
    ///
    /// # Errors
    /// One line: the file, the place in it, the error, the remedy.
    pub(crate) fn routes(
        &self,
        mut routes: Routes,
        knows_visitors: bool,
    ) -> Result<Routes, String> {
        let mut seen: BTreeMap<String, Range<usize>> = BTreeMap::new();
        self.each_route(|at, table| {
            let (route, key) = (self.route(table)?, key_of(table));
            if route.needs_visitor_tokens() && !knows_visitors {
                return Err(self.mistake(
                    at,
                    format_args!("route {route} needs visitors' tokens, for rate_per_token or sign_in; give --visitor-tokens, which counts from the next start on"),
                ));
            }
            routes =
                std::mem::take(&mut routes).and_route(route).map_err(|e| match seen.get(&key) {
                    Some(other) => {
                        self.mistake(at.clone(), format_args!("{e}; see {}", self.place(other)))
                    }
                    None => self.mistake(at.clone(), e),
                })?;
            seen.insert(key, at);
            Ok(())
        })?;
        Ok(routes)
    }

    /// The text of each route, by host and path, to find changes after a reload.
    pub(crate) fn routes_by_key(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        let read = self.each_route(|at, table| {
            let mut said = self.text.get(at).unwrap_or_default().trim().to_owned();
            for (entry, value) in in_order(table) {
                let value = self.text.get(value.span()).unwrap_or_default();
                said.push_str(&format!("; {} = {value}", entry.get_ref()));
            }
            all.insert(key_of(table), said);
            Ok(())
        });
        drop(read); // a mistake in the file is reported when its routes are taken
        all
    }

    fn each_route(
        &self,
        mut take: impl FnMut(Range<usize>, &DeTable<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        let table = self.table()?;
        for (key, value) in in_order(table.get_ref()) {
            if options::TABLES.contains(&key.get_ref().as_ref()) {
                continue;
            }
            if key.get_ref() != "route" {
                return Err(self.mistake(
                    key.span(),
                    format_args!(
                        "the file has no table {}; it has [gateway] and [device], and [[route]] tables",
                        key.get_ref()
                    ),
                ));
            }
            let written = value
                .get_ref()
                .as_array()
                .ok_or_else(|| self.mistake(key.span(), "write [[route]], with two brackets"))?;
            for value in written {
                let table = value
                    .get_ref()
                    .as_table()
                    .ok_or_else(|| self.mistake(value.span(), "a route is a table: [[route]]"))?;
                take(value.span(), table)?;
            }
        }
        Ok(())
    }

    fn table(&self) -> Result<Spanned<DeTable<'_>>, String> {
        DeTable::parse(&self.text)
            .map_err(|e| self.mistake(e.span().unwrap_or_default(), e.message()))
    }

    /// `FILE, line 3, column 7`.
    fn place(&self, at: &Range<usize>) -> String {
        let before = self.text.get(..at.start).unwrap_or(&self.text);
        let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
        let column = 1 + before.chars().rev().take_while(|c| *c != '\n').count();
        format!("{}, line {line}, column {column}", self.name)
    }

    fn mistake(&self, at: Range<usize>, what: impl Display) -> String {
        // A key of the file may contain control characters.
        let what: String =
            what.to_string().chars().map(|c| if misleads(c) { '?' } else { c }).collect();
        format!("{}: {what}", self.place(&at))
    }

    fn route(&self, table: &DeTable<'_>) -> Result<Route, String> {
        in_order(table).into_iter().try_fold(Route::new(), |route, (key, value)| {
            let entry = Entry { file: self, key: key.get_ref(), value };
            let set = match entry.key {
                "host" => route.host(entry.text("\"lamp.example\" or \"*.devices.example\"")?),
                "path" => route.path(entry.text("\"/api\"")?),
                "device" => route.device(entry.text("\"lamp\"")?),
                "redirect" => route.redirect(entry.text("\"https://new.example/*\"")?),
                "answer" => route.answer(entry.text("\"back soon\"")?),
                "status" => Ok(route.status(entry.status()?)),
                "content_type" => route.content_type(entry.text("\"text/html\"")?),
                "offline_html" => route.offline_html(entry.text("\"<h1>away</h1>\"")?),
                "offline_json" => route.offline_json(entry.text("'{\"away\": true}'")?),
                "set_field" | "remove_field" | "set_response_field" | "remove_response_field" => {
                    return entry.edit(route);
                }
                "strip" => Ok(route.keep_prefix(!entry.yes_or_no()?)),
                "rewrite" => Ok(route.rewrite(entry.yes_or_no()?)),
                "sign_in" => Ok(route.sign_in(entry.yes_or_no()?)),
                "free_preflights" => Ok(route.free_preflights(entry.yes_or_no()?)),
                "wait_for_link" => Ok(route.wait_for_link(entry.time()?)),
                "first_byte" => route.first_byte(entry.time()?),
                "body_silence" => route.body_silence(entry.time()?),
                "exchange" => Ok(route.exchange(entry.time()?)),
                "rate" => Ok(route.rate(entry.rate()?)),
                "rate_per_token" => Ok(route.rate_per_token(entry.rate()?)),
                "burst" => route.burst(entry.burst()?),
                "in_flight" => route.in_flight(entry.number()?),
                other => {
                    let known = ROUTE_KEYS.map(str::to_owned);
                    return Err(self.mistake(key.span(), unknown("a route", other, &known)));
                }
            };
            set.map_err(|e: Error| self.mistake(value.span(), e))
        })
    }
}

/// Host and path of a route.
fn key_of(table: &DeTable<'_>) -> String {
    let text = |key: &str| table.get(key).and_then(|value| value.get_ref().as_str());
    format!("{}{}", text("host").unwrap_or("*"), text("path").unwrap_or("/"))
}

/// The keys of a route.
const ROUTE_KEYS: [&str; 25] = [
    "host",
    "path",
    "device",
    "redirect",
    "answer",
    "status",
    "content_type",
    "offline_html",
    "offline_json",
    "strip",
    "rewrite",
    "sign_in",
    "free_preflights",
    "set_field",
    "remove_field",
    "set_response_field",
    "remove_response_field",
    "wait_for_link",
    "first_byte",
    "body_silence",
    "exchange",
    "in_flight",
    "rate",
    "rate_per_token",
    "burst",
];

/// The entries in the order of the file, so that its first error is the one that is reported.
fn in_order<'t, 'i>(
    table: &'t DeTable<'i>,
) -> Vec<(&'t Spanned<std::borrow::Cow<'i, str>>, &'t Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// The most names that are listed beside the nearest one.
const LISTED_MAX: usize = 32;

/// The text about an unknown name in a table: the nearest known one, else all.
fn unknown(table: &str, given: &str, names: &[String]) -> String {
    let nearest = names.iter().map(|name| (distance(given, name), name)).min();
    match nearest.filter(|(distance, name)| *distance <= name.len() / 3) {
        Some((_, nearest)) if names.len() > LISTED_MAX => {
            format!("{table} has no setting {given}; did you mean {nearest}?")
        }
        Some((_, nearest)) => {
            format!(
                "{table} has no setting {given}; did you mean {nearest}? It has {}",
                names.join(", ")
            )
        }
        None if names.len() > LISTED_MAX => {
            format!("{table} has no setting {given}; --help of the command of this name lists all")
        }
        None => format!("{table} has no setting {given}; it has {}", names.join(", ")),
    }
}

/// The changes in a table: `2 added (a, b), 1 removed (c)`, or `nothing changed`.
pub(crate) fn changes(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> String {
    let added = now.keys().filter(|key| !before.contains_key(*key));
    let removed = before.keys().filter(|key| !now.contains_key(*key));
    let changed = now.iter().filter(|(key, text)| before.get(*key).is_some_and(|was| was != *text));
    let parts = [
        told("added", added.collect()),
        told("removed", removed.collect()),
        told("changed", changed.map(|(key, _)| key).collect()),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "nothing changed".to_owned() } else { parts.join(", ") }
}

/// The most names in a log line.
const NAMES_MAX: usize = 5;

fn told(what: &str, names: Vec<&String>) -> Option<String> {
    let listed: Vec<&str> = names.iter().take(NAMES_MAX).map(|name| name.as_str()).collect();
    let more = if names.len() > NAMES_MAX { ", …" } else { "" };
    (!names.is_empty()).then(|| format!("{} {what} ({}{more})", names.len(), listed.join(", ")))
}

/// One line of a route.
struct Entry<'t, 'i> {
    file: &'t File,
    key: &'t str,
    value: &'t Spanned<DeValue<'i>>,
}

impl<'t> Entry<'t, '_> {
    fn wrong(&self, what: impl Display) -> String {
        self.file.mistake(self.value.span(), format_args!("{}: {what}", self.key))
    }

    fn text(&self, like: &str) -> Result<&'t str, String> {
        self.value
            .get_ref()
            .as_str()
            .ok_or_else(|| self.wrong(format_args!("write it in quotes, like {like}")))
    }

    fn time(&self) -> Result<Duration, String> {
        duration(self.text("\"10s\"")?).map_err(|what| self.wrong(what))
    }

    /// Adds the fields of a list, or the one field, to those that a route sets or removes.
    fn edit(&self, route: Route) -> Result<Route, String> {
        let sets = self.key.starts_with("set");
        let like = if sets { "\"NAME: VALUE\"" } else { "\"NAME\"" };
        let values: Vec<&Spanned<DeValue<'_>>> = match self.value.get_ref().as_array() {
            Some(values) => values.iter().collect(),
            None => vec![self.value],
        };
        values.into_iter().try_fold(route, |route, value| {
            let wrong = |what: &dyn Display| {
                self.file.mistake(value.span(), format_args!("{}: {what}", self.key))
            };
            let text = value.get_ref().as_str();
            let text = text.ok_or_else(|| wrong(&format_args!("write fields like {like}")))?;
            let (name, content) = match text.split_once(':').filter(|_| sets) {
                Some((name, content)) => (name.trim(), content),
                None if sets => return Err(wrong(&format_args!("write it like {like}"))),
                None => (text, ""),
            };
            let edited = match self.key {
                "set_field" => route.set_field(name, content),
                "remove_field" => route.remove_field(name),
                "set_response_field" => route.set_response_field(name, content),
                _ => route.remove_response_field(name),
            };
            edited.map_err(|e| wrong(&format_args!("{name}: {e}")))
        })
    }

    fn rate(&self) -> Result<Rate, String> {
        self.text("\"20/s\"")?.parse().map_err(|e: Error| self.wrong(e))
    }

    fn yes_or_no(&self) -> Result<bool, String> {
        self.value.get_ref().as_bool().ok_or_else(|| self.wrong("write true or false"))
    }

    fn status(&self) -> Result<u16, String> {
        let status = self.number()?;
        u16::try_from(status).map_err(|_| self.wrong("write a status, like 503"))
    }

    fn burst(&self) -> Result<u32, String> {
        let most = Rate::REQUESTS_MAX;
        u32::try_from(self.number()?).map_err(|_| self.wrong(format_args!("at most {most}")))
    }

    fn number(&self) -> Result<usize, String> {
        let number = self
            .value
            .get_ref()
            .as_integer()
            .and_then(|n| usize::from_str_radix(n.as_str(), n.radix()).ok());
        number.ok_or_else(|| self.wrong("write a whole number, like 64"))
    }
}

/// The text, if it is a number in digits: the standard library also reads a sign.
pub(crate) fn digits(text: &str) -> Option<&str> {
    let are_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    are_digits.then_some(text)
}

/// `500ms`, `10s`, `5m`, `1h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const LIKE: &str = "write a whole number and a unit: 500ms, 10s, 5m, 1h";
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or(LIKE)?;
    let number = digits(&text[..unit_at]).ok_or(LIKE)?.parse().unwrap_or(u64::MAX);
    let millis = match &text[unit_at..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("the unit is ms, s, m or h".to_owned()),
    };
    number
        .checked_mul(millis)
        .filter(|ms| *ms <= 1000 * 3_600_000)
        .map(Duration::from_millis)
        .ok_or_else(|| "at most 1000h".to_owned())
}
