//! Files with a secret in each line: the first is used, and the others are still accepted. Secrets
//! are never logged.

use std::path::Path;

use reverse_http::Error;

use crate::certificates;
use crate::files::{self, Reading};

/// Longest file that is read, in bytes.
const FILE_MAX: u64 = 64 << 10;

/// The lines, without blank ones and comments. `check` validates a line.
///
/// # Errors
/// The option, the file, the line and the error.
pub(crate) fn read(
    (option, file): (&str, &Path),
    reading: Reading,
    check: impl Fn(&str) -> Result<(), Error>,
) -> Result<Vec<String>, String> {
    let text = files::text((option, file), FILE_MAX, reading)?;
    if reading == Reading::First {
        certificates::warn_of_readers(option, file);
    }
    let lines = text.lines().map(str::trim).enumerate();
    let mut secrets = Vec::new();
    for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        check(line)
            .map_err(|e| format!("{option} {}, line {}: {e}", file.display(), number + 1))?;
        secrets.push(line.to_owned());
    }
    Ok(secrets)
}
