//! The log's level, which an operator may change while the command runs.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use env_logger::{Builder, Env, Logger, Target};
use log::{LevelFilter, Log, Metadata, Record};

/// What the environment says until an operator says something else.
struct Levels {
    of_environment: Logger,
    /// The same without a filter.
    all: Logger,
    /// A level and one; 0: the environment's.
    chosen: AtomicUsize,
}

static LEVELS: OnceLock<Levels> = OnceLock::new();

impl Levels {
    /// The logger that takes such a record.
    fn logger(&self, metadata: &Metadata<'_>) -> Option<&Logger> {
        match self.chosen.load(Relaxed) {
            0 => Some(&self.of_environment),
            chosen => ((metadata.level() as usize) < chosen).then_some(&self.all),
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

/// Starts the log: `level` out of the environment, `output` where it goes.
pub(crate) fn start(level: Env<'_>, output: impl Write + Send + Clone + 'static) {
    let to = |output| Target::Pipe(Box::new(output));
    let of_environment = Builder::from_env(level).target(to(output.clone())).build();
    let all = Builder::new().filter_level(LevelFilter::Trace).target(to(output)).build();
    let usual = of_environment.filter();
    let levels = LEVELS.get_or_init(|| Levels { of_environment, all, chosen: AtomicUsize::new(0) });
    if log::set_logger(levels).is_ok() {
        log::set_max_level(usual);
    }
}

/// From here on this level counts, and no longer what the environment says.
pub(crate) fn set(level: LevelFilter) {
    if let Some(levels) = LEVELS.get() {
        levels.chosen.store(level as usize + 1, Relaxed);
    }
    log::set_max_level(level);
}
