//! The files of `--tokens` and `--visitor-tokens`, and what `ptth token` prints.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use reverse_http::Tokens;

use crate::{Failure, say};

/// Longest file that is read, in octets: some 150,000 tokens. What is longer was not meant.
const FILE_MAX: u64 = 16 << 20;

/// The table in a file.
///
/// # Errors
/// One line: the file, the line in it, what is wrong.
pub(crate) fn read(file: &Path) -> Result<Tokens, String> {
    let told = |what: &dyn std::fmt::Display| format!("{}: {what}", file.display());
    let mut octets = Vec::new();
    File::open(file).and_then(|opened| opened.take(FILE_MAX + 1).read_to_end(&mut octets)).map_err(|e| told(&e))?;
    if octets.len() as u64 > FILE_MAX {
        return Err(told(&format_args!("it is longer than {} MiB", FILE_MAX >> 20)));
    }
    let text = String::from_utf8(octets).map_err(|e| {
        let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|octet| **octet == b'\n').count();
        format!("{}, line {line}: there are octets that are no UTF-8", file.display())
    })?;
    Tokens::parse(&text).map_err(|e| format!("{}, {e}", file.display()))
}

/// Prints a new token, and the line of the gateway's file that lets it have these names. The token is nowhere else.
pub(crate) fn print_new(names: &str) -> Result<(), Failure> {
    let token = Tokens::draw()?;
    let line = Tokens::line(&token, names)?;
    say(token);
    say(line);
    Ok(())
}
