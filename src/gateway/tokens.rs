//! Credentials bound to names: the table of tokens, and the token in an `Authorization` field.
//! [`credentials`](super::credentials) decides which table is current.
//!
//! ```text
//!   Authorization ─► digest ─► a line of the table? ─► are these names of that line? ─► (authorize) ─► the registry: held by another? 409
//!                     │ none, malformed: 401   │ no: 401                │ no: 403
//! ```
//! The table contains the SHA-256 of each token, and no token. The lookup of a digest is not an
//! oracle: a client cannot choose the digests of the tokens that it sends, the table's own hash has
//! a random key, and a digest does not reveal a token of 32 random bytes. Names are checked only
//! for a known digest, so that clients without a token do not learn which names exist.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::calendar;
use crate::error::{Error, Fault};
use crate::proto::authorization::Credential;
use crate::proto::digits::{from_hex, hex};
use crate::proto::turn::Name;
use crate::text::misleads;

/// SHA-256 of a token. It does not reveal the token, yet no `Debug` needs to show it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A digest that this gateway has signed.
    pub(super) fn of_bytes(bytes: [u8; 32]) -> Self {
        Digest(bytes)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(not shown)")
    }
}

/// The challenges for a visitor without a valid token, for which browsers ask (RFC 7617 §2, RFC
/// 6750 §3).
pub(super) const CHALLENGES: [(&str, &str); 2] = [
    ("WWW-Authenticate", "Basic realm=\"ptth\", charset=\"UTF-8\""),
    ("WWW-Authenticate", "Bearer realm=\"ptth\""),
];

/// The longest label, in bytes; a longer comment is cut.
const LABEL_BYTES_MAX: usize = 64;

/// The number of bytes of a random token, which is written in base64url.
const TOKEN_BYTES: usize = 32;

/// A table of tokens and the names that each is bound to. Only the SHA-256 of each token is kept.
///
/// ```
/// use reverse_http::Tokens;
/// let token = Tokens::generate()?;
/// let tokens = Tokens::parse(&Tokens::line(&token, "lamp, https://*.example")?)?;
/// assert!(tokens.permits(&token, "lamp") && tokens.permits(&token, "https://porch.example"));
/// assert!(!tokens.permits(&token, "door") && !tokens.permits("guessed", "lamp"));
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Tokens {
    lines: HashMap<Digest, Line>,
    /// All names that are written out: devices of these names are known before they first connect.
    names: HashSet<Box<str>>,
}

/// One line of the table.
#[derive(Clone, Default)]
struct Line {
    /// Its number in the text.
    number: usize,
    names: HashSet<Box<str>>,
    /// Every device name.
    any: bool,
    /// Origins of every host one label below: the texts before and after that label.
    below: Vec<(Box<str>, Box<str>)>,
    /// The identity, for take-overs.
    identity: Arc<str>,
    /// Its comment, for lists of devices.
    label: Box<str>,
    expires: Option<Expiry>,
}

/// The last day of a token.
#[derive(Clone, PartialEq, Eq)]
struct Expiry {
    day: Box<str>,
    /// The time from which it is invalid.
    at: SystemTime,
}

impl Expiry {
    fn read(day: &str) -> Result<Self, String> {
        const DAY: Duration = Duration::from_secs(86_400);
        let first =
            calendar::day(day).map_err(|e| format!("{EXPIRES} is followed by {day:?}: {e}"))?;
        Ok(Expiry { day: day.into(), at: first + DAY })
    }
}

/// The word after a line's names if its token has a last day.
const EXPIRES: &str = "expires=";

/// Shows how many there are.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("lines", &self.lines.len()).finish_non_exhaustive()
    }
}

impl Tokens {
    /// Reads a table: on each line the SHA-256 of a token in hex, white space, and the names it is
    /// for, with commas between. A name is a device's (`lamp`), an origin (`https://lamp.example`),
    /// `*` (any device name), or an origin whose first label is `*` (`https://*.example`: any host
    /// one label below). The names may be followed by `expires=2026-12-31`, the last day in UTC on which
    /// the token counts. Text after `#` is a comment, and the token's label for operators;
    /// empty lines do not count. Without a line nobody has a token.
    ///
    /// # Errors
    /// One line: the number of the first invalid line, and its fault. No error repeats a token.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut tokens = Tokens::default();
        for (number, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
            let (line, label) = line.split_once('#').unwrap_or((line, ""));
            let line = line.trim();
            if !line.is_empty() {
                tokens
                    .add(number + 1, line, label.trim())
                    .map_err(|what| Error::usage(format!("line {}: {what}", number + 1)))?;
            }
        }
        Ok(tokens)
    }

    fn add(&mut self, number: usize, text: &str, label: &str) -> Result<(), String> {
        let (digits, names) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let digest = digest_of_hex(digits)?;
        if let Some(first) = self.lines.get(&digest) {
            return Err(format!(
                "this token is already in line {}; write all its names there",
                first.number
            ));
        }
        let (names, expires) = names_and_expiry(names)?;
        let mut line = Line::read(names)?;
        line.expires = expires;
        line.number = number;
        line.identity = hex(&digest.0).into();
        let label = label.replace(misleads, " ");
        line.label = crate::observe::cut(&label, LABEL_BYTES_MAX);
        self.names.extend(line.names.iter().cloned());
        self.lines.insert(digest, line);
        Ok(())
    }

    /// The number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Returns true if there is no token, so that nobody is admitted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The differences from an earlier table, for the log: `2 added, 1 removed`.
    #[must_use]
    pub fn changes_since(&self, before: &Tokens) -> String {
        let added = self.lines.keys().filter(|digest| !before.lines.contains_key(digest)).count();
        let removed = before.lines.keys().filter(|digest| !self.lines.contains_key(digest)).count();
        let changed = self.lines.iter().filter(|(digest, line)| {
            before.lines.get(digest).is_some_and(|was| !was.says_the_same(line))
        });
        let counts = [(added, "added"), (removed, "removed"), (changed.count(), "changed")];
        let told = counts.iter().filter(|(count, _)| *count > 0);
        let told: Vec<String> = told.map(|(count, what)| format!("{count} {what}")).collect();
        if told.is_empty() { "nothing changed".to_owned() } else { told.join(", ") }
    }

    /// Returns true if this token is bound to this name: that of a device, or an origin as it is
    /// registered.
    #[must_use]
    pub fn permits(&self, token: &str, name: &str) -> bool {
        self.allows(&digest(token.as_bytes()), name)
    }

    /// A new token: 32 random bytes in base64url, 43 characters.
    ///
    /// # Errors
    /// The operating system provides no randomness.
    pub fn generate() -> Result<String, Error> {
        let mut bytes = [0; TOKEN_BYTES];
        getrandom::fill(&mut bytes)
            .map_err(|e| Error::io(Fault::Caller, "drawing a token", std::io::Error::other(e)))?;
        Ok(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Makes the line of a table that binds this token to these names.
    ///
    /// # Errors
    /// A name is invalid, or cannot be written in a line.
    pub fn line(token: &str, names: &str) -> Result<String, Error> {
        Tokens::line_with(token, names, None, None)
    }

    /// The same with a last day (`2026-12-31`), and a label for operators.
    ///
    /// # Errors
    /// Those of [`line`](Self::line); the date is invalid; the label has characters that
    /// [mislead](crate::text::misleads).
    pub fn line_with(
        token: &str,
        names: &str,
        expires: Option<&str>,
        label: Option<&str>,
    ) -> Result<String, Error> {
        Line::read(names).map_err(Error::usage)?;
        let names: Vec<&str> = names.split(',').map(str::trim).collect();
        let mut line = format!("{} {}", hex(&digest(token.as_bytes()).0), names.join(","));
        if let Some(day) = expires {
            Expiry::read(day).map_err(Error::usage)?;
            line += &format!(" {EXPIRES}{day}");
        }
        if let Some(label) = label {
            if label.trim().is_empty() || label.chars().any(misleads) {
                return Err(Error::usage(
                    "a label is some text, without control characters and other invisible characters",
                ));
            }
            line += &format!(" # {}", label.trim());
        }
        Ok(line)
    }

    /// The operator's label of this token: the comment of its line, or the line's number.
    pub(crate) fn label(&self, digest: &Digest) -> Option<Box<str>> {
        let line = self.lines.get(digest)?;
        match &*line.label {
            "" => Some(format!("line {}", line.number).into()),
            label => Some(label.into()),
        }
    }

    /// Only its comment, for its owner, who does not know the file.
    pub(super) fn comment(&self, digest: &Digest) -> Option<Box<str>> {
        let label = &self.lines.get(digest)?.label;
        (!label.is_empty()).then(|| label.clone())
    }

    /// Returns true if the table has this token and its last day is not over.
    pub(crate) fn is_valid(&self, digest: &Digest) -> bool {
        self.lines.get(digest).is_some_and(|line| !line.is_over(SystemTime::now()))
    }

    /// The last day of a token, if it has passed.
    pub(crate) fn expired(&self, digest: &Digest) -> Option<&str> {
        let line = self.lines.get(digest).filter(|line| line.is_over(SystemTime::now()))?;
        line.expires.as_ref().map(|expiry| &*expiry.day)
    }

    /// When the next token expires.
    pub(super) fn next_expiry(&self, now: SystemTime) -> Option<SystemTime> {
        let all = self.lines.values().filter_map(|line| Some(line.expires.as_ref()?.at));
        all.filter(|at| *at > now).min()
    }

    pub(super) fn knows(&self, digest: &Digest) -> bool {
        self.lines.contains_key(digest)
    }

    /// The owner of the token, for take-overs.
    pub(super) fn identity(&self, digest: &Digest) -> Option<&Arc<str>> {
        self.lines.get(digest).map(|line| &line.identity)
    }

    pub(super) fn allows(&self, digest: &Digest, name: &str) -> bool {
        self.is_valid(digest) && self.lines.get(digest).is_some_and(|line| line.allows(name))
    }

    /// Returns true if a line contains this name, written out.
    pub(super) fn names(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    pub(super) fn have_origins(&self) -> bool {
        self.names.iter().any(|name| name.contains("://"))
    }
}

impl Line {
    /// Returns true if both are for the same names, with the same label and last day.
    fn says_the_same(&self, other: &Line) -> bool {
        (&self.names, self.any, &self.below, &self.label, &self.expires)
            == (&other.names, other.any, &other.below, &other.label, &other.expires)
    }

    fn is_over(&self, now: SystemTime) -> bool {
        self.expires.as_ref().is_some_and(|expiry| expiry.at <= now)
    }

    fn read(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err(
                "there is no name; write HASH NAME[,NAME...] (ptth token NAME makes such a line)"
                    .to_owned(),
            );
        }
        let mut line = Line::default();
        for name in text.split(',').map(str::trim) {
            let wrong = |what: &str| format!("{name:?} is no name: {what}");
            match name.split_once("://*.") {
                _ if name.is_empty() => return Err("a name is missing beside a comma".to_owned()),
                _ if name == "*" => line.any = true,
                Some((scheme, domain)) => {
                    let like = Name::origin(&format!("{scheme}://x.{domain}"))
                        .map_err(|e| wrong(&e.reason))?
                        .to_string();
                    let Some((before, behind)) = like.split_once("://x") else {
                        return Err(wrong("there is no host after *."));
                    };
                    line.below.push((format!("{before}://").into(), behind.into()));
                }
                None if name.contains('*') => {
                    return Err(wrong(
                        "write * alone, or in place of the whole first label: https://*.example",
                    ));
                }
                None => {
                    let parsed =
                        if name.contains("://") { Name::origin(name) } else { Name::label(name) };
                    line.names.insert(parsed.map_err(|e| wrong(&e.reason))?.to_string().into());
                }
            }
        }
        Ok(line)
    }

    fn allows(&self, name: &str) -> bool {
        let below = |(before, behind): &(Box<str>, Box<str>)| {
            let label = name.strip_prefix(&**before).and_then(|rest| rest.strip_suffix(&**behind));
            label.is_some_and(|label| !label.is_empty() && !label.contains(['.', ':', '/']))
        };
        self.names.contains(name)
            || (self.any && !name.contains("://"))
            || self.below.iter().any(below)
    }
}

/// Separates the names from the last day, which is the following word.
fn names_and_expiry(text: &str) -> Result<(&str, Option<Expiry>), String> {
    let text = text.trim();
    let last = text.rfind(char::is_whitespace).map_or(0, |at| at + 1);
    match text.get(last..).and_then(|word| word.strip_prefix(EXPIRES)) {
        Some(day) => Ok((text[..last].trim_end(), Some(Expiry::read(day)?))),
        None => Ok((text, None)),
    }
}

pub(super) fn digest(token: &[u8]) -> Digest {
    Digest(Sha256::digest(token).into())
}

fn digest_of_hex(digits: &str) -> Result<Digest, String> {
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(
            "it begins with something else than hex digits; write HASH NAME, the second line that ptth token NAME prints (the token itself does not belong here)".to_owned()
        );
    }
    from_hex(digits.as_bytes())
        .map(Digest)
        .ok_or_else(|| format!("there are {} hex digits; a SHA-256 has 64", digits.len()))
}

/// If an unknown token is in a line that was written incorrectly: the line's number, and the
/// mistake. Only the operator gets this.
pub(super) fn mistake<'a>(
    tokens: &Tokens,
    fields: impl Iterator<Item = &'a [u8]>,
    most: usize,
) -> Option<(usize, &'static str)> {
    let shown = Credential::of(fields, most)?;
    let secret = shown.secret();
    let line = |digest: &Digest| tokens.lines.get(digest).map(|line| line.number);
    let bare = from_hex(secret).map(Digest).and_then(|digest| line(&digest));
    let with_end = || line(&digest(&[secret, b"\n"].concat()));
    bare.map(|line| (line, "it is the token itself, and not its SHA-256")).or_else(|| {
        with_end().map(|line| (line, "its SHA-256 is that of the token with a line end after it"))
    })
}

/// The digest of the token in `Authorization` fields, as `Bearer` or as the password of `Basic`.
/// `None` if there is [no valid one](Credential::of).
pub(crate) fn shown<'a>(fields: impl Iterator<Item = &'a [u8]>, most: usize) -> Option<Digest> {
    Credential::of(fields, most).map(|credential| digest(credential.secret()))
}

/// The side whose tokens they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Devices,
    Visitors,
}

#[cfg(feature = "admin")]
impl Whose {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Whose::Devices => "devices",
            Whose::Visitors => "visitors",
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_sha_256() {
        // FIPS 180-4's example, as sha256sum prints it.
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest_of_hex(known).unwrap(), digest(b"abc"));
        assert_eq!(Tokens::line("abc", " lamp , * ").unwrap(), format!("{known} lamp,*"));
    }

    #[test]
    fn a_token_counts_until_the_end_of_its_last_day() {
        let line = Tokens::line_with("abc", "lamp, door", Some("2026-12-31"), Some("the shop"));
        let line = line.unwrap();
        assert!(line.ends_with(" lamp,door expires=2026-12-31 # the shop"), "{line}");
        let table = Tokens::parse(&line).unwrap();
        let digest = digest(b"abc");
        assert_eq!(table.label(&digest).as_deref(), Some("the shop"));
        let ends = calendar::day("2027-01-01").unwrap();
        let second = Duration::from_secs(1);
        let line = &table.lines[&digest];
        assert!(!line.is_over(ends - second) && line.is_over(ends));
        assert_eq!(table.next_expiry(ends - second), Some(ends));
        assert_eq!(table.next_expiry(ends), None);
        let over = Tokens::parse(&Tokens::line_with("abc", "*", Some("2020-02-29"), None).unwrap());
        let over = over.unwrap();
        assert_eq!(over.expired(&digest), Some("2020-02-29"));
        assert!(!over.permits("abc", "lamp") && over.knows(&digest) && !over.is_valid(&digest));
        for wrong in [
            "lamp expires=2020-02-30",
            "lamp expires=",
            "expires=2020-02-29",
            "lamp expires=2020-01-01 door",
            "lamp expires=2020\u{1b}[31m",
        ] {
            let mistake = Tokens::parse(&format!("{} {wrong}", hex(&digest.0))).unwrap_err();
            assert!(!mistake.to_string().contains(char::is_control), "{mistake}");
        }
        let odd = format!("{} lamp # a\u{1b}b\tc\u{202e}d\u{2066}é", hex(&digest.0));
        let odd = Tokens::parse(&odd).unwrap();
        assert_eq!(odd.label(&digest).as_deref(), Some("a b c d é"));
        for label in ["two\nlines", "pmal\u{202e}", "la\u{200b}mp", " "] {
            assert!(Tokens::line_with("abc", "lamp", None, Some(label)).is_err(), "{label:?}");
        }
        assert!(Tokens::line_with("abc", "lamp", Some("soon"), None).is_err());
    }

    #[test]
    fn names_of_a_line() {
        let tokens = Tokens::parse(
            &Tokens::line(
                "t",
                "lamp,https://a.example:443,https://*.b.example:8443,http://*.c.example",
            )
            .unwrap(),
        )
        .unwrap();
        for name in ["lamp", "https://a.example", "https://x.b.example:8443", "http://x.c.example"]
        {
            assert!(tokens.permits("t", name), "{name}");
        }
        let others = [
            "lam",
            "lamp2",
            "https://b.example:8443",
            "https://x.b.example",
            "https://y.x.b.example:8443",
            "http://x.b.example:8443",
        ];
        for name in others.into_iter().chain([
            "https://.b.example:8443",
            "http://x.c.example:80",
            "http://xc.example",
            "x",
            "",
        ]) {
            assert!(!tokens.permits("t", name), "{name}");
        }
        let any = Tokens::parse(&Tokens::line("t", "*").unwrap()).unwrap();
        assert!(
            any.permits("t", "lamp")
                && !any.permits("t", "https://lamp.example")
                && !any.permits("T", "lamp")
        );
        assert!(any.names.is_empty(), "a wildcard makes nobody known");
    }

    #[test]
    fn credentials_that_are_shown() {
        let of = |values: &[&str]| shown(values.iter().map(|v| v.as_bytes()), 16);
        let basic = |pair: &[u8]| {
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
        };
        let right = Some(digest(b"abc"));
        assert_eq!(of(&["Bearer abc"]), right);
        assert_eq!(of(&["bEARER   abc "]), right);
        assert_eq!(of(&[&basic(b"anybody:abc")]), right);
        assert_eq!(of(&[&basic(b":abc")]), right);
        assert_eq!(of(&[basic(b":abc").trim_end_matches('=')]), right);
        assert_eq!(of(&[&basic("é:é:x".as_bytes())]), Some(digest("é:x".as_bytes())));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "abc",
            "Bearer a b",
            "Bearer a,b",
            "Bearer \u{e9}",
            "Digest abc",
            "Basic abc",
            "Basic YWJj",
            "Basic !",
        ] {
            assert_eq!(of(&[wrong]), None, "{wrong}");
        }
        assert_eq!(of(&["Bearer abc", "Bearer abc"]), None);
        assert_eq!(of(&["Bearer 12345678901234567"]), None, "longer than the bound");
        assert_eq!(of(&[&basic(&[b'a'; 40_000])]), None);
        assert_eq!(of(&[]), None);
    }
}
