//! Text from peers, made safe for people to read: on a terminal, in a log, on a page.

/// Returns true if a terminal may interpret this character, or if it is invisible and changes how
/// the text around it is read: control characters, line and paragraph separators, marks that change
/// the direction of text, and invisible format characters.
///
/// ```
/// use reverse_http::text::misleads;
/// assert!(misleads('\u{1b}') && misleads('\n') && misleads('\u{202e}') && misleads('\u{200b}'));
/// assert!(!misleads('a') && !misleads(' ') && !misleads('é') && !misleads('灯'));
/// ```
#[must_use]
pub fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{115f}' | '\u{1160}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// A count with its noun: `1 link`, `2 links`.
///
/// ```
/// use reverse_http::text::counted;
/// assert_eq!((counted(1, "link"), counted(0, "link")), ("1 link".to_owned(), "0 links".to_owned()));
/// ```
#[must_use]
pub fn counted(count: u64, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

/// The text with such characters escaped (`\u{1b}`, `\n`).
///
/// ```
/// use reverse_http::text::spelled_out;
/// assert_eq!(spelled_out("lamp\u{202e}\x1b[2J é"), "lamp\\u{202e}\\u{1b}[2J é");
/// ```
#[must_use]
pub fn spelled_out(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_control() => out.extend(c.escape_default()),
            c if misleads(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}
