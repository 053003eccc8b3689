//! Log lines that peers can cause: bounded per second and kind, and without characters that a
//! terminal would interpret.
//!
//! ```text
//!   log_peers!(Info, "an offer was refused: {reason}")   50 lines a second, then once "… and 1,234 more like this"
//! ```
//! Each place in the source that logs this way is a separate kind. The state of a device is logged
//! for each device, but only now and then for one that connects and disconnects all the time. Lines
//! below `info` are not bounded: at those levels all are wanted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::{
    LOG_COUNTS_MAX, LOG_LINE_CHARS_MAX, LOG_LINES_PER_NAME, LOG_NAME_WINDOW, LOG_NAMES_MAX,
};
use crate::text::spelled_out;

/// Logs like `log::log!`, within bounds.
macro_rules! log_names {
    // For the state of the device of this name: an operator looks for each.
    ($level:ident of [$name:expr], $($what:tt)+) => {{
        static GATE: $crate::logs::NameGate = $crate::logs::NameGate::new(module_path!(), $crate::limits::LOG_NAMES_PER_SECOND);
        GATE.log(log::Level::$level, $name, format_args!($($what)+));
    }};
    ($level:ident, $($what:tt)+) => {{
        static GATE: $crate::logs::Gate = $crate::logs::Gate::new(module_path!(), $crate::limits::LOG_LINES_PER_SECOND);
        GATE.log(log::Level::$level, format_args!($($what)+));
    }};
}

/// The lines of one place in the source.
pub(crate) struct Gate {
    module: &'static str,
    per_second: u32,
    window: Mutex<Window>,
}

struct Window {
    began: Option<Instant>,
    lines: u32,
    /// Lines that were suppressed since the last one that was logged.
    more: u64,
}

/// The lines of one place in the source that are about devices by name.
pub(crate) struct NameGate {
    gate: Gate,
    names: Mutex<Names>,
}

#[derive(Debug)]
struct Names {
    began: Option<Instant>,
    /// Lines of each name in this window, suppressed ones included.
    lines: BTreeMap<Box<str>, u64>,
}

/// A gate that may have suppressed lines which are not reported yet.
trait Owes: Sync {
    fn report_now(&self);
}

/// The gates with suppressed lines to report.
#[cfg(not(test))]
static OWING: Mutex<Vec<&'static dyn Owes>> = Mutex::new(Vec::new());

// Tests run side by side: none may report the lines that another one counts.
#[cfg(test)]
thread_local! {
    static OWING: std::cell::RefCell<Vec<&'static dyn Owes>> = const { std::cell::RefCell::new(Vec::new()) };
}

fn with_owing<T>(work: impl FnOnce(&mut Vec<&'static dyn Owes>) -> T) -> T {
    #[cfg(test)]
    return OWING.with_borrow_mut(work);
    #[cfg(not(test))]
    work(&mut OWING.lock().unwrap_or_else(PoisonError::into_inner))
}

fn owe(gate: &'static dyn Owes) {
    with_owing(|owing| owing.push(gate));
}

impl Gate {
    pub(crate) const fn new(module: &'static str, per_second: u32) -> Self {
        Gate { module, per_second, window: Mutex::new(Window { began: None, lines: 0, more: 0 }) }
    }

    pub(crate) fn log(&'static self, level: log::Level, what: fmt::Arguments<'_>) {
        if !log::log_enabled!(target: self.module, level) {
            return;
        }
        if level <= log::Level::Info && !self.passes(Instant::now()) {
            return;
        }
        log::log!(target: self.module, level, "{}", plain(&what.to_string()));
    }

    fn passes(&'static self, now: Instant) -> bool {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window
            .began
            .is_none_or(|began| now.saturating_duration_since(began) >= Duration::from_secs(1))
        {
            (window.began, window.lines) = (Some(now), 0);
            self.report(&mut window);
        }
        window.lines = window.lines.saturating_add(1);
        if window.lines <= self.per_second {
            return true;
        }
        window.more += 1;
        if window.more == 1 {
            drop(window);
            owe(self);
        }
        false
    }

    /// Logs how many lines were suppressed.
    fn report(&self, window: &mut Window) {
        if window.more > 0 {
            let more = std::mem::take(&mut window.more);
            log::warn!(target: self.module, "… and {} more lines like the last of their kind", thousands(more));
        }
    }
}

impl Owes for Gate {
    fn report_now(&self) {
        self.report(&mut self.window.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl NameGate {
    pub(crate) const fn new(module: &'static str, per_second: u32) -> Self {
        NameGate {
            gate: Gate::new(module, per_second),
            names: Mutex::new(Names { began: None, lines: BTreeMap::new() }),
        }
    }

    pub(crate) fn log(&'static self, level: log::Level, name: &str, what: fmt::Arguments<'_>) {
        if level <= log::Level::Info
            && log::log_enabled!(target: self.gate.module, level)
            && !self.passes(name, Instant::now())
        {
            return;
        }
        self.gate.log(level, what);
    }

    fn passes(&'static self, name: &str, now: Instant) -> bool {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.began.is_none_or(|began| now.saturating_duration_since(began) >= LOG_NAME_WINDOW) {
            self.report(&mut names);
            names.began = Some(now);
        }
        if names.lines.len() >= LOG_NAMES_MAX && !names.lines.contains_key(name) {
            return true; // within the bound of all names together
        }
        let lines = names.lines.entry(name.into()).or_default();
        *lines += 1;
        if *lines == u64::from(LOG_LINES_PER_NAME) + 1 {
            drop(names);
            owe(self);
            return false;
        }
        *lines <= u64::from(LOG_LINES_PER_NAME)
    }

    /// Logs how many lines of which names were suppressed, and starts a new window.
    fn report(&self, names: &mut Names) {
        let lines = std::mem::take(&mut names.lines).into_iter();
        let mut more: Vec<(u64, Box<str>)> = lines
            .filter_map(|(name, lines)| {
                Some((
                    lines.checked_sub(u64::from(LOG_LINES_PER_NAME)).filter(|more| *more > 0)?,
                    name,
                ))
            })
            .collect();
        more.sort_unstable_by(|a, b| b.cmp(a));
        for (more, name) in more.iter().take(LOG_COUNTS_MAX) {
            let (name, more) = (plain(name), thousands(*more));
            log::warn!(target: self.gate.module, "{name}: … and {more} more lines like the last of their kind about this device");
        }
        let others = more.get(LOG_COUNTS_MAX..).unwrap_or_default();
        if !others.is_empty() {
            let (lines, others) = (
                thousands(others.iter().map(|(more, _)| more).sum()),
                thousands(others.len() as u64),
            );
            log::warn!(target: self.gate.module, "… and {lines} more lines of that kind about {others} other devices");
        }
    }
}

impl Owes for NameGate {
    fn report_now(&self) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        self.report(&mut names);
        names.began = None;
    }
}

/// Reports suppressed lines of kinds that have fallen silent. The event loop calls it periodically.
pub(crate) fn report_left_out() {
    for gate in with_owing(std::mem::take) {
        gate.report_now();
    }
}

/// The text on one line, of bounded length, with characters that [mislead](crate::text::misleads)
/// escaped.
pub(crate) fn plain(text: &str) -> String {
    match text.char_indices().nth(LOG_LINE_CHARS_MAX) {
        Some((end, _)) => spelled_out(&text[..end]) + "…",
        None => spelled_out(text),
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_spelled_out() {
        assert_eq!(
            plain("a\x1b[31mb\r\nc\u{9b}2J\u{202e}d é"),
            "a\\u{1b}[31mb\\r\\nc\\u{9b}2J\\u{202e}d é"
        );
        let long = plain(&"x".repeat(LOG_LINE_CHARS_MAX + 1));
        assert!(long.ends_with('…') && long.chars().count() == LOG_LINE_CHARS_MAX + 1);
    }

    #[test]
    fn a_flood_is_a_few_lines_and_a_count() {
        static GATE: Gate = Gate::new("test", crate::limits::LOG_LINES_PER_SECOND);
        let now = Instant::now();
        let passed = (0..10_000).filter(|_| GATE.passes(now)).count();
        assert_eq!(passed, crate::limits::LOG_LINES_PER_SECOND as usize);
        assert_eq!(
            GATE.window.lock().unwrap_or_else(PoisonError::into_inner).more,
            10_000 - passed as u64
        );
        report_left_out();
        assert_eq!(GATE.window.lock().unwrap_or_else(PoisonError::into_inner).more, 0);
        assert!(!GATE.passes(now) && GATE.passes(now + Duration::from_secs(1)));
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!((thousands(7), thousands(100)), ("7".to_owned(), "100".to_owned()));
    }

    #[test]
    fn a_device_that_comes_and_goes_is_a_few_lines_and_takes_none_from_others() {
        static GATE: NameGate = NameGate::new("test", crate::limits::LOG_NAMES_PER_SECOND);
        let now = Instant::now();
        let flaps = (0..10_000).filter(|_| GATE.passes("flaps", now)).count();
        assert_eq!(flaps, LOG_LINES_PER_NAME as usize);
        assert!(GATE.passes("lamp", now));
        let counted = |name: &str| {
            GATE.names.lock().unwrap_or_else(PoisonError::into_inner).lines.get(name).copied()
        };
        assert_eq!((counted("flaps"), counted("lamp")), (Some(10_000), Some(1)));
        assert!(GATE.passes("flaps", now + LOG_NAME_WINDOW));
        assert_eq!(
            (counted("flaps"), counted("lamp")),
            (Some(1), None),
            "the next window begins with nothing"
        );
        // For names beyond those that are counted, the bound for all together applies, and they
        // take no memory.
        let passed = (0..2 * LOG_NAMES_MAX)
            .filter(|n| GATE.passes(&n.to_string(), now + LOG_NAME_WINDOW))
            .count();
        assert_eq!(passed, 2 * LOG_NAMES_MAX);
        assert_eq!(
            GATE.names.lock().unwrap_or_else(PoisonError::into_inner).lines.len(),
            LOG_NAMES_MAX
        );
        report_left_out();
        assert_eq!(counted("0"), None, "the first window owed word of what it left out");
    }
}
