//! Log lines that peers can cause: few per second of each kind, and nothing in them that a terminal would obey.
//!
//! ```text
//!   log_peers!(Info, "an offer was refused: {reason}")   50 lines a second, then once "… and 1,234 more like this"
//! ```
//! Each place in the source that logs so is a kind of its own. Lines below `info` are not counted: who asks for them wants them all.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::LOG_LINE_CHARS_MAX;

/// Logs like `log::log!`, within bounds.
macro_rules! log_peers {
    // What becomes of devices by name: an operator looks for each.
    ($level:ident of names, $($what:tt)+) => {{
        static GATE: $crate::logs::Gate = $crate::logs::Gate::new(module_path!(), $crate::limits::LOG_NAMES_PER_SECOND);
        GATE.log(log::Level::$level, format_args!($($what)+));
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
    /// Lines that were left out since the last one that was not.
    more: u64,
}

/// Gates that owe word of lines they left out.
static OWING: Mutex<Vec<&'static Gate>> = Mutex::new(Vec::new());

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
        if window.began.is_none_or(|began| now.saturating_duration_since(began) >= Duration::from_secs(1)) {
            (window.began, window.lines) = (Some(now), 0);
            self.settle(&mut window);
        }
        window.lines = window.lines.saturating_add(1);
        if window.lines <= self.per_second {
            return true;
        }
        window.more += 1;
        if window.more == 1 {
            drop(window);
            OWING.lock().unwrap_or_else(PoisonError::into_inner).push(self);
        }
        false
    }

    /// Says how many lines were left out.
    fn settle(&self, window: &mut Window) {
        if window.more > 0 {
            let more = std::mem::take(&mut window.more);
            log::warn!(target: self.module, "… and {} more lines like the last of their kind", thousands(more));
        }
    }
}

/// Says what was left out of kinds that have fallen silent. To be called now and then.
pub(crate) fn settle() {
    for gate in std::mem::take(&mut *OWING.lock().unwrap_or_else(PoisonError::into_inner)) {
        gate.settle(&mut gate.window.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The text on one line, without what a terminal obeys or what turns the direction of reading, and not without end.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (n, c) in text.chars().enumerate() {
        if n == LOG_LINE_CHARS_MAX {
            out.push('…');
            break;
        }
        match c {
            c if c.is_control() => out.extend(c.escape_default()),
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
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
        assert_eq!(plain("a\x1b[31mb\r\nc\u{9b}2J\u{202e}d é"), "a\\u{1b}[31mb\\r\\nc\\u{9b}2J\\u{202e}d é");
        let long = plain(&"x".repeat(LOG_LINE_CHARS_MAX + 1));
        assert!(long.ends_with('…') && long.chars().count() == LOG_LINE_CHARS_MAX + 1);
    }

    #[test]
    fn a_flood_is_a_few_lines_and_a_count() {
        static GATE: Gate = Gate::new("test", crate::limits::LOG_LINES_PER_SECOND);
        let now = Instant::now();
        let passed = (0..10_000).filter(|_| GATE.passes(now)).count();
        assert_eq!(passed, crate::limits::LOG_LINES_PER_SECOND as usize);
        assert_eq!(GATE.window.lock().unwrap_or_else(PoisonError::into_inner).more, 10_000 - passed as u64);
        settle();
        assert_eq!(GATE.window.lock().unwrap_or_else(PoisonError::into_inner).more, 0);
        assert!(!GATE.passes(now) && GATE.passes(now + Duration::from_secs(1)));
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!((thousands(7), thousands(100)), ("7".to_owned(), "100".to_owned()));
    }
}
