//! docs/defaults.md says what `Limits::default()` does: every number in its column, and every limit
//! somewhere.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use reverse_http::Limits;

/// Names and values of the defaults, as `Debug` shows them: there is no other list of them to
/// forget a limit in.
fn defaults() -> BTreeMap<String, String> {
    let shown = format!("{:?}", Limits::default());
    let inner = shown.strip_prefix("Limits { ").unwrap().strip_suffix(" }").unwrap();
    inner
        .split(", ")
        .map(|field| field.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// A number as people write it (`8,000`, `16 KiB`, `10 min`), as `Debug` would show it.
fn value(text: &str) -> Option<String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != ',').unwrap_or(text.len());
    let number: u64 = text[..digits].trim_end_matches(',').replace(',', "").parse().ok()?;
    let unit: String = text[digits..]
        .trim_start_matches(' ')
        .chars()
        .take_while(|c| c.is_alphabetic() || *c == 'µ')
        .collect();
    Some(match unit.as_str() {
        "KiB" => (number << 10).to_string(),
        "MiB" => (number << 20).to_string(),
        "µs" => format!("{:?}", Duration::from_micros(number)),
        "ms" => format!("{:?}", Duration::from_millis(number)),
        "s" => format!("{:?}", Duration::from_secs(number)),
        "min" => format!("{:?}", Duration::from_secs(60 * number)),
        "h" => format!("{:?}", Duration::from_secs(3600 * number)),
        _ => number.to_string(),
    })
}

/// Each `` `name` value `` of a cell.
fn said(cell: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = cell;
    std::iter::from_fn(move || {
        let (_, name) = rest.split_once('`')?;
        let (name, behind) = name.split_once('`')?;
        rest = behind;
        Some((name, behind.trim_start()))
    })
}

#[test]
fn the_column_of_ours_is_what_the_code_does() {
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/defaults.md"))
            .unwrap();
    let (defaults, mut seen) = (defaults(), BTreeSet::new());
    let rows =
        page.lines().filter_map(|line| Some((line, line.strip_prefix('|')?.split('|').nth(1)?)));
    for (line, ours) in rows {
        for (name, text) in said(ours) {
            let Some(default) = defaults.get(name) else { continue }; // a field of HTTP, an option
            assert_eq!(value(text).as_ref(), Some(default), "{name} in this row:\n{line}");
            seen.insert(name.to_owned());
        }
    }
    let forgotten: Vec<_> = defaults.keys().filter(|name| !seen.contains(*name)).collect();
    assert!(forgotten.is_empty(), "limits that docs/defaults.md does not tell: {forgotten:?}");
}

#[test]
fn numbers_are_read_as_people_write_them() {
    for (text, number) in [
        ("8,000; then 414", "8000"),
        ("16 KiB; then", "16384"),
        ("100", "100"),
        ("256 MiB at", "268435456"),
    ] {
        assert_eq!(value(text).as_deref(), Some(number), "{text}");
    }
    for (text, time) in [
        ("10 min", "600s"),
        ("1 h", "3600s"),
        ("20 ms;", "20ms"),
        ("100 µs", "100µs"),
        ("75 s of", "75s"),
    ] {
        assert_eq!(value(text).as_deref(), Some(time), "{text}");
    }
    assert_eq!(value("none"), None);
}
