//! The files of `--tokens` and `--visitor-tokens`, and what `ptth token` prints.

use std::path::Path;

use reverse_http::Tokens;

use crate::Failure;
use crate::files::{self, Reading};
use crate::output::print_line;

/// Longest file that is read, in bytes: some 150,000 tokens. A longer file is a mistake.
const FILE_MAX: u64 = 16 << 20;

/// The table in a file.
///
/// # Errors
/// One line: the file, the line in it, the error.
pub(crate) fn read(file: &Path, reading: Reading) -> Result<Tokens, String> {
    let bytes = files::read(file, FILE_MAX, reading)
        .map_err(|what| format!("{}: {what}", file.display()))?;
    // Most likely an error of a script. A table without tokens has to contain a comment.
    if bytes.trim_ascii().is_empty() {
        return Err(format!(
            "{}: the file is empty; a file that admits nobody needs a comment (# nobody)",
            file.display()
        ));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        format!("{}, line {line}: there are bytes that are no UTF-8", file.display())
    })?;
    Tokens::parse(&text).map_err(|e| format!("{}, {e}", file.display()))
}

/// Prints a new token, and the line for the gateway's file that binds it to these names. The token
/// is stored nowhere else.
pub(crate) fn print_new(
    names: &str,
    expires: Option<&str>,
    label: Option<&str>,
) -> Result<(), Failure> {
    let token = Tokens::generate()?;
    let line = Tokens::line_with(&token, names, expires, label)?;
    print_line(format_args!("{token}\n{line}"))
}
