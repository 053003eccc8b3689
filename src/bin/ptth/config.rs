//! The file of `ptth gateway --config`: TOML to routes, each mistake told with its line and with
//! what would be right.

use std::fmt::Display;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use reverse_http::{Error, Route, Routes};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::files::{self, Reading};

/// Longest file that is read, in bytes: more than 65,000 routes. What is longer was not meant.
const FILE_MAX: u64 = 16 << 20;

/// Adds the routes of a file to those that are there.
///
/// # Errors
/// One line: the file, the line in it, what is wrong, what is right.
pub(crate) fn routes_of(file: &Path, routes: Routes, reading: Reading) -> Result<Routes, String> {
    let told = |what: &dyn Display| format!("{}: {what}", file.display());
    let bytes = files::read(file, FILE_MAX, reading).map_err(|what| told(&what))?;
    let text = String::from_utf8(bytes).map_err(|_| told(&"there are bytes that are not UTF-8"))?;
    routes_of_text(&file.display().to_string(), &text, routes)
}

/// The same of a file's text; `name` is what its mistakes are told with.
pub(crate) fn routes_of_text(name: &str, text: &str, mut routes: Routes) -> Result<Routes, String> {
    let file = File { name, text };
    let table = DeTable::parse(text)
        .map_err(|e| file.mistake(e.span().unwrap_or_default(), e.message()))?;
    for (key, value) in in_order(table.get_ref()) {
        if key.get_ref() != "route" {
            return Err(file.mistake(
                key.span(),
                format_args!("there is no {}; the file has [[route]] tables alone", key.get_ref()),
            ));
        }
        let written = value
            .get_ref()
            .as_array()
            .ok_or_else(|| file.mistake(key.span(), "write [[route]], with two brackets"))?;
        for value in written {
            let table = value
                .get_ref()
                .as_table()
                .ok_or_else(|| file.mistake(value.span(), "a route is a table: [[route]]"))?;
            let route = file.route(table)?;
            routes = routes.and_route(route).map_err(|e| file.mistake(value.span(), e))?;
        }
    }
    Ok(routes)
}

/// The entries as they stand in the file, so that its first mistake is the one that is told.
fn in_order<'t, 'i>(
    table: &'t DeTable<'i>,
) -> Vec<(&'t Spanned<std::borrow::Cow<'i, str>>, &'t Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

struct File<'t> {
    name: &'t str,
    text: &'t str,
}

impl File<'_> {
    fn mistake(&self, at: Range<usize>, what: impl Display) -> String {
        let line = 1 + self.text.bytes().take(at.start).filter(|byte| *byte == b'\n').count();
        format!("{}, line {line}: {what}", self.name)
    }

    fn route(&self, table: &DeTable<'_>) -> Result<Route, String> {
        in_order(table).into_iter().try_fold(Route::new(), |route, (key, value)| {
            let entry = Entry { file: self, key: key.get_ref(), value };
            let set = match entry.key {
                "host" => route.host(entry.text("\"lamp.example\" or \"*.devices.example\"")?),
                "path" => route.path(entry.text("\"/api\"")?),
                "device" => route.device(entry.text("\"lamp\"")?),
                "strip" => Ok(route.keep_prefix(!entry.yes_or_no()?)),
                "wait_for_link" => Ok(route.wait_for_link(entry.time()?)),
                "first_byte" => route.first_byte(entry.time()?),
                "body_silence" => route.body_silence(entry.time()?),
                "exchange" => Ok(route.exchange(entry.time()?)),
                "in_flight" => route.in_flight(entry.number()?),
                other => {
                    let known = "host, path, device, strip, wait_for_link, first_byte, body_silence, exchange and in_flight";
                    return Err(self.mistake(key.span(), format_args!("a route has no {other}; it has {known}")));
                }
            };
            set.map_err(|e: Error| self.mistake(value.span(), e))
        })
    }
}

/// One line of a route.
struct Entry<'t, 'i> {
    file: &'t File<'t>,
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

    fn yes_or_no(&self) -> Result<bool, String> {
        self.value.get_ref().as_bool().ok_or_else(|| self.wrong("write true or false"))
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

/// `500ms`, `10s`, `5m`, `1h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let unit_at =
        text.find(|c: char| !c.is_ascii_digit()).ok_or("write a unit: 500ms, 10s, 5m, 1h")?;
    let number: u64 = text[..unit_at]
        .parse()
        .map_err(|_| "write a whole number and a unit: 500ms, 10s, 5m, 1h")?;
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
