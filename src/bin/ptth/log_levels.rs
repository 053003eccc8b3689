//! The log's level, which an operator may change while the command runs, and the form of its lines.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use clap::ValueEnum;
use env_logger::fmt::Formatter;
use env_logger::{Builder, Env, Logger, Target};
use log::{LevelFilter, Log, Metadata, Record};
#[cfg(feature = "cli")]
use reverse_http::admin::LogLevel;
use serde_json::json;

/// The level from the environment, until an operator sets another one.
struct Levels {
    of_environment: InForms,
    /// The same without a filter.
    all: InForms,
    /// A level plus one; 0 for the environment's.
    chosen: AtomicUsize,
}

/// Lines of the library that the command prints itself, on standard output or at its end.
const NOTICES: &str = "reverse_http::device::notices";

static LEVELS: OnceLock<Levels> = OnceLock::new();
/// Whether lines are JSON.
static JSON: AtomicBool = AtomicBool::new(false);

/// How lines of the log are written.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// One logger for each form.
struct InForms {
    text: Logger,
    json: Logger,
}

impl InForms {
    fn build(mut text: Builder, mut json: Builder) -> Self {
        InForms { text: text.build(), json: json.format(write_json).build() }
    }

    fn chosen(&self) -> &Logger {
        if are_json() { &self.json } else { &self.text }
    }
}

fn write_json(to: &mut Formatter, record: &Record<'_>) -> std::io::Result<()> {
    let line = json!({
        "time": to.timestamp_millis().to_string(),
        "level": record.level().as_str(),
        "target": record.target(),
        "message": record.args().to_string(),
    });
    writeln!(to, "{line}")
}

impl Levels {
    /// The logger for such a record.
    fn logger(&self, metadata: &Metadata<'_>) -> Option<&Logger> {
        if metadata.target() == NOTICES {
            return None;
        }
        match self.chosen.load(Relaxed) {
            0 => Some(self.of_environment.chosen()),
            chosen => ((metadata.level() as usize) < chosen).then(|| self.all.chosen()),
        }
    }
}

impl Log for Levels {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.logger(metadata).is_some_and(|logger| logger.enabled(metadata))
    }
    fn log(&self, record: &Record<'_>) {
        if let Some(logger) = self.logger(record.metadata()) {
            logger.log(record);
        }
    }
    fn flush(&self) {}
}

/// Starts the log to `output`, with the level of `RUST_LOG` (default `info`).
pub(crate) fn start(output: impl Write + Send + Clone + 'static) {
    let to = |output| Target::Pipe(Box::new(output));
    // For lines before the options are read.
    if std::env::var("PTTH_LOG_FORMAT").is_ok_and(|format| format == "json") {
        set_format(LogFormat::Json);
    }
    let filtered = || {
        let mut builder = Builder::from_env(Env::default().default_filter_or("info"));
        builder.target(to(output.clone()));
        builder
    };
    let whole = || {
        let mut builder = Builder::new();
        builder.filter_level(LevelFilter::Trace).target(to(output.clone()));
        builder
    };
    let of_environment = InForms::build(filtered(), filtered());
    let all = InForms::build(whole(), whole());
    let usual = of_environment.text.filter();
    let levels = LEVELS.get_or_init(|| Levels { of_environment, all, chosen: AtomicUsize::new(0) });
    if log::set_logger(levels).is_ok() {
        log::set_max_level(usual);
    }
}

/// Sets the form of further lines.
pub(crate) fn set_format(format: LogFormat) {
    JSON.store(format == LogFormat::Json, Relaxed);
}

pub(crate) fn are_json() -> bool {
    JSON.load(Relaxed)
}

/// Sets the level, which replaces that of the environment.
#[cfg(feature = "cli")]
pub(crate) fn set(level: LogLevel) {
    let level = level.as_str().parse().unwrap_or(LevelFilter::Info); // both know the same names
    if let Some(levels) = LEVELS.get() {
        levels.chosen.store(level as usize + 1, Relaxed);
    }
    log::set_max_level(level);
}
