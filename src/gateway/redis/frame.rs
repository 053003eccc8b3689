//! Finds the end of an answer of the server, before it is read as values: an answer that is longer
//! than a bound, has more values, or is nested deeper is refused first. Bytes alone, no socket.
//!
//! ```text
//! *2\r\n$3\r\nfoo\r\n:7\r\n      an array of two values: a line for each, after a string's line its bytes
//! ```

use std::fmt;

/// Longest answer, in bytes. The longest that is expected, to a lookup of 64 names, has some tens of
/// kilobytes.
pub(super) const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Most values in one answer, each of which takes memory of its own.
const VALUES_MAX: usize = 1 << 16;
/// Deepest nesting; a script's answer has two levels.
const DEPTH_MAX: usize = 8;
/// Longest line, which is a number or an error's text, in bytes.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Why an answer is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// No value begins with this byte.
    Begins(u8),
    /// A length is not a number.
    Length,
    TooLong,
    TooMany,
    TooDeep,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Begins(byte) => write!(f, "Parse error: unexpected `{byte}`"),
            Wrong::Length => write!(f, "Parse error: a length is no number"),
            Wrong::TooLong => write!(
                f,
                "its answer is longer than {} KiB, which no answer of a directory is",
                ANSWER_BYTES_MAX >> 10
            ),
            Wrong::TooMany => write!(
                f,
                "its answer has more than {VALUES_MAX} values, which no answer of a directory has"
            ),
            Wrong::TooDeep => write!(f, "its answer is nested deeper than {DEPTH_MAX} levels"),
        }
    }
}

/// The progress of an answer.
#[derive(Debug, Default)]
pub(super) struct Frame {
    /// Where the next value begins.
    at: usize,
    /// The number of values that are missing in each open array.
    open: Vec<usize>,
    values: usize,
}

impl Frame {
    /// Continues with the bytes of an answer that have arrived so far; returns its length if it is
    /// complete.
    ///
    /// # Errors
    /// It is not an answer, or is beyond a bound. Nothing more can be read on the connection.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, Wrong> {
        loop {
            let Some(kind) = bytes.get(self.at) else { return Ok(None) };
            if !b"+-:$*".contains(kind) {
                return Err(Wrong::Begins(*kind));
            }
            let begins = self.at + 1;
            let Some(length) = line_length(&bytes[begins..])? else { return Ok(None) };
            let line = &bytes[begins..begins + length];
            self.at = match kind {
                b'$' => {
                    let end = begins + length + 2 + string_length(line)?;
                    if end > ANSWER_BYTES_MAX {
                        return Err(Wrong::TooLong);
                    }
                    if bytes.len() < end {
                        return Ok(None); // the line is short: it is read again
                    }
                    end
                }
                b'*' => {
                    let count = number(line)?.unwrap_or(0);
                    self.values = self.values.saturating_add(count);
                    if self.values > VALUES_MAX {
                        return Err(Wrong::TooMany);
                    }
                    if count > 0 {
                        self.open.push(count);
                        if self.open.len() > DEPTH_MAX {
                            return Err(Wrong::TooDeep);
                        }
                    }
                    begins + length + 2
                }
                _ => begins + length + 2,
            };
            if self.at > ANSWER_BYTES_MAX {
                return Err(Wrong::TooLong);
            }
            let is_array = *kind == b'*' && number(line)?.is_some_and(|count| count > 0);
            if !is_array && self.close() {
                return Ok(Some(self.at));
            }
        }
    }

    /// A value is complete. Returns true if it was the last one of the answer.
    fn close(&mut self) -> bool {
        while let Some(left) = self.open.last_mut() {
            *left -= 1;
            if *left > 0 {
                return false;
            }
            self.open.pop();
        }
        true
    }
}

/// The length of a line without its end; `None`: it is not complete.
fn line_length(bytes: &[u8]) -> Result<Option<usize>, Wrong> {
    let seen = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    match seen.windows(2).position(|pair| pair == b"\r\n") {
        Some(length) => Ok(Some(length)),
        None if bytes.len() < LINE_BYTES_MAX => Ok(None),
        None => Err(Wrong::TooLong),
    }
}

/// The bytes of a string after its line.
fn string_length(line: &[u8]) -> Result<usize, Wrong> {
    match number(line)? {
        None => Ok(0),
        Some(length) if length <= ANSWER_BYTES_MAX => Ok(length + 2),
        Some(_) => Err(Wrong::TooLong),
    }
}

/// Reads digits and nothing else; `None`: `-1`, a missing value.
fn number(line: &[u8]) -> Result<Option<usize>, Wrong> {
    if line == b"-1" {
        return Ok(None);
    }
    if line.is_empty() || !line.iter().all(u8::is_ascii_digit) {
        return Err(Wrong::Length);
    }
    let text = std::str::from_utf8(line).map_err(|_| Wrong::Length)?;
    Ok(Some(text.parse().unwrap_or(usize::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads it as if bytes arrived one by one.
    fn whole(bytes: &[u8]) -> Result<Option<usize>, Wrong> {
        let mut frame = Frame::default();
        for end in 0..=bytes.len() {
            if let Some(length) = frame.advance(&bytes[..end])? {
                return Ok(Some(length));
            }
        }
        Ok(None)
    }

    #[test]
    fn an_answer_ends_where_its_last_value_does_however_it_comes() {
        for answer in [
            "+OK\r\n",
            "-NOSCRIPT No matching script.\r\n",
            ":42\r\n",
            ":-42\r\n",
            "$0\r\n\r\n",
            "$-1\r\n",
            "$6\r\na\r\nb\r\n\r\n",
            "*0\r\n",
            "*-1\r\n",
            "*2\r\n$3\r\nfoo\r\n:7\r\n",
            "*3\r\n*0\r\n*2\r\n$-1\r\n*1\r\n+a\r\n:1\r\n",
            "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nxy\r\n",
        ] {
            let more = format!("{answer}+OK\r\n");
            assert_eq!(
                Frame::default().advance(more.as_bytes()),
                Ok(Some(answer.len())),
                "{answer}"
            );
            assert_eq!(whole(more.as_bytes()), Ok(Some(answer.len())), "{answer}");
            for end in 0..answer.len() {
                assert_eq!(
                    Frame::default().advance(&answer.as_bytes()[..end]),
                    Ok(None),
                    "{answer}"
                );
            }
        }
    }

    #[test]
    fn what_is_beyond_a_bound_is_refused_by_what_it_says_it_has() {
        let string = |length: usize| format!("${length}\r\n");
        let most = ANSWER_BYTES_MAX;
        assert_eq!(whole(string(most - 16).as_bytes()), Ok(None));
        let second = format!("*2\r\n+{}\r\n{}", "x".repeat(1 << 10), string(most - 16));
        assert_eq!(whole(second.as_bytes()), Err(Wrong::TooLong));
        for (answer, wrong) in [
            (string(most + 1), Wrong::TooLong),
            (string(512 << 20), Wrong::TooLong),
            ("$99999999999999999999999\r\n".to_owned(), Wrong::TooLong),
            (format!("*1\r\n+{}", "x".repeat(LINE_BYTES_MAX)), Wrong::TooLong),
            (format!("*{}\r\n", VALUES_MAX + 1), Wrong::TooMany),
            ("*1000000000\r\n".to_owned(), Wrong::TooMany),
            ("*99999999999999999999999\r\n".to_owned(), Wrong::TooMany),
            (format!("*2\r\n*{VALUES_MAX}\r\n"), Wrong::TooMany),
            ("*1\r\n".repeat(DEPTH_MAX + 1), Wrong::TooDeep),
            ("$+5\r\n".to_owned(), Wrong::Length),
            ("*\r\n".to_owned(), Wrong::Length),
            ("$-2\r\n".to_owned(), Wrong::Length),
            ("HTTP/1.1 400\r\n".to_owned(), Wrong::Begins(b'H')),
            ("*1\r\n%1\r\n".to_owned(), Wrong::Begins(b'%')),
        ] {
            assert_eq!(Frame::default().advance(answer.as_bytes()), Err(wrong), "{wrong:?}");
        }
        assert_eq!(Frame::default().advance("*1\r\n".repeat(DEPTH_MAX).as_bytes()), Ok(None));
        // Many values, each within the bounds.
        let piece = format!("{}{}\r\n", string(1 << 10), "x".repeat(1 << 10));
        let answer = format!("*2000\r\n{}", piece.repeat(1_100));
        assert_eq!(Frame::default().advance(answer.as_bytes()), Err(Wrong::TooLong));
    }
}
