//! Serves the files of one directory on worker threads, for
//! [`Device::serve_dir`](crate::Device::serve_dir).
//!
//! It never lists directories, never leaves the directory (`beneath.rs` ensures that for every path
//! and symbolic link), and never opens a file that could block.
//!
//! ```text
//! target ─► names, decoded once ─► file, opened beneath the root ─► conditions (RFC 9110 §13) ─► range (§14) ─► body
//! ```

mod beneath;
#[cfg(test)]
mod tests;

use std::fs::{File, Metadata};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use rustix::io::Errno;

use crate::body::Body;
use crate::device::files::beneath::{Found, Root, STEPS_MAX};
use crate::error::{Error, Refusal};
use crate::http_date::date_of;
use crate::proto::digits::{decimal, percent_decoded};

/// A directory that is served.
#[derive(Debug)]
pub(super) struct Files {
    root: Root,
}

impl Files {
    /// # Errors
    /// The path is not a directory, or may not be entered.
    pub(super) fn open(path: &Path) -> Result<Files, Error> {
        match Root::open(path) {
            Ok(root) => Ok(Files { root }),
            Err(e) => Err(Error::usage(format!(
                "directory {}: {e}; name one that is there and may be entered",
                path.display()
            ))),
        }
    }

    pub(super) fn answer(&self, request: &Request<Body>) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = refuse(&Refusal::new(
                405,
                "these are files: they can be asked for with GET and HEAD only",
            ));
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        self.try_answer(request).unwrap_or_else(|refusal| refuse(&refusal))
    }

    fn try_answer(&self, request: &Request<Body>) -> Result<Response<Body>, Refusal> {
        let path = request.uri().path();
        let Wanted { mut names, is_folder } = wanted(path)?;
        if is_folder {
            names.push(INDEX.to_vec());
        }
        let kind = content_type(names.last().map_or(&[], Vec::as_slice));
        match self.root.find(&names) {
            Ok(Found::File(file)) => {
                answer_file(file, kind, request).map_err(|e| unreadable(path, &e))
            }
            Ok(Found::Directory) if !is_folder => Ok(to_the_folder(&names, request.uri().query())),
            Ok(Found::Directory) => Err(absent()),
            Err(e) => Err(not_found(path, e)),
        }
    }
}

/// The file that a folder shows.
const INDEX: &[u8] = b"index.html";

// ── which file ──

/// The file or folder that a path names.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    names: Vec<Vec<u8>>,
    /// The path ends with a slash.
    is_folder: bool,
}

/// Decodes a path once. Segments that no served name can have are treated as absent: dots (clients
/// resolve these themselves), empty segments, hidden names, and encoded slashes, because the
/// decoded path would differ from the one that a proxy has checked. The same holds for a backslash,
/// which is a letter on Unix, but a separator on some file systems (CIFS). A symbolic link with a
/// visible name may lead to a hidden one, because its author has chosen that.
fn wanted(path: &str) -> Result<Wanted, Refusal> {
    let inside = path.strip_prefix('/').ok_or_else(absent)?;
    let is_folder = inside.is_empty() || inside.ends_with('/');
    let inside = inside.strip_suffix('/').unwrap_or(inside);
    let mut names = Vec::new();
    if !inside.is_empty() || path.len() > 1 {
        for segment in inside.split('/') {
            let name = decoded(segment)?;
            let is_hidden = name.starts_with(b".") && !(names.is_empty() && name == b".well-known"); // RFC 8615
            if name.is_empty()
                || is_hidden
                || name.iter().any(|byte| matches!(byte, b'/' | b'\\' | 0))
            {
                return Err(absent());
            }
            names.push(name);
        }
    }
    if names.len() >= STEPS_MAX {
        return Err(absent());
    }
    Ok(Wanted { names, is_folder })
}

fn decoded(segment: &str) -> Result<Vec<u8>, Refusal> {
    percent_decoded(segment.as_bytes())
        .ok_or_else(|| Refusal::new(400, "the path has a % that is not followed by two hex digits"))
}

/// Redirects from a folder without its slash. The reference is relative, because a gateway may have
/// removed a prefix of the path. It begins with `./`, because a name with a colon would be read as
/// a scheme (RFC 3986 §4.2).
fn to_the_folder(names: &[Vec<u8>], query: Option<&str>) -> Response<Body> {
    let mut location = String::from("./");
    for byte in names.last().map_or(&[][..], Vec::as_slice) {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                location.push(char::from(*byte))
            }
            byte => location.push_str(&format!("%{byte:02X}")),
        }
    }
    location.push('/');
    if let Some(query) = query {
        location.push('?');
        location.push_str(query);
    }
    let mut response =
        refuse(&Refusal::new(301, "this is a folder; its address ends with a slash"));
    put(response.headers_mut(), header::LOCATION, location);
    response
}

/// The type for the name's extension. Text is labelled as UTF-8; XML and JSON declare their
/// encoding themselves. Other files have an unknown type, and `nosniff` keeps browsers from
/// guessing.
fn content_type(name: &[u8]) -> &'static str {
    let Some(dot) = name.iter().rposition(|byte| *byte == b'.') else { return UNKNOWN };
    let ending = name[dot + 1..].to_ascii_lowercase();
    let is_it =
        |(endings, _): &&(&str, &str)| endings.split(' ').any(|known| known.as_bytes() == ending);
    TYPES.iter().find(is_it).map_or(UNKNOWN, |(_, kind)| kind)
}

const UNKNOWN: &str = "application/octet-stream";
const TYPES: [(&str, &str); 45] = [
    ("html htm", "text/html; charset=utf-8"),
    ("css", "text/css; charset=utf-8"),
    ("js mjs", "text/javascript; charset=utf-8"), // RFC 9239
    ("json map", "application/json"),
    ("webmanifest", "application/manifest+json"),
    ("svg", "image/svg+xml"),
    ("png", "image/png"),
    ("apng", "image/apng"),
    ("jpg jpeg", "image/jpeg"),
    ("gif", "image/gif"),
    ("webp", "image/webp"),
    ("avif", "image/avif"),
    ("bmp", "image/bmp"),
    ("tif tiff", "image/tiff"),
    ("ico", "image/x-icon"),
    ("txt text log conf ini", "text/plain; charset=utf-8"),
    ("md markdown", "text/markdown; charset=utf-8"),
    ("csv", "text/csv; charset=utf-8"),
    ("ics", "text/calendar; charset=utf-8"),
    ("vtt", "text/vtt; charset=utf-8"),
    ("xml xsl", "application/xml"),
    ("xhtml", "application/xhtml+xml"),
    ("atom", "application/atom+xml"),
    ("rss", "application/rss+xml"),
    ("yaml yml", "application/yaml"),
    ("toml", "application/toml"),
    ("wasm", "application/wasm"),
    ("pdf", "application/pdf"),
    ("epub", "application/epub+zip"),
    ("mp4 m4v", "video/mp4"),
    ("webm", "video/webm"),
    ("ogv", "video/ogg"),
    ("mov", "video/quicktime"),
    ("mp3", "audio/mpeg"),
    ("m4a", "audio/mp4"),
    ("ogg oga opus", "audio/ogg"),
    ("wav", "audio/wav"),
    ("flac", "audio/flac"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
    ("ttf", "font/ttf"),
    ("otf", "font/otf"),
    ("zip", "application/zip"),
    ("gz tgz", "application/gzip"),
    ("tar", "application/x-tar"),
];

// ── what of it ──

/// Answers with an open file, with its length at this moment. If it grows later, the rest is not
/// sent; if it shrinks, the message is aborted (the body ends before its length).
fn answer_file(
    mut file: File,
    kind: &'static str,
    request: &Request<Body>,
) -> io::Result<Response<Body>> {
    let (metadata, now) = (file.metadata()?, SystemTime::now());
    let size = metadata.len();
    let validators = Validators::new(&metadata, now);
    let mut response = Response::new(Body::empty());
    match validators.judge(request.headers()) {
        Condition::Holds => {}
        Condition::NotModified => {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            validators.write(response.headers_mut());
            return Ok(response);
        }
        Condition::Fails => {
            return Ok(refuse(&Refusal::new(
                412,
                "the file is not the one that the request's conditions are for",
            )));
        }
    }
    let length = match validators.wanted_range(request, size, now) {
        Ranged::Whole => size,
        Ranged::Part { first, last } => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            put(
                response.headers_mut(),
                header::CONTENT_RANGE,
                format!("bytes {first}-{last}/{size}"),
            );
            file.seek(SeekFrom::Start(first))?;
            last - first + 1
        }
        Ranged::Beyond => {
            let mut response =
                refuse(&Refusal::new(416, format!("the range is none of the file's {size} bytes")));
            put(response.headers_mut(), header::CONTENT_RANGE, format!("bytes */{size}"));
            return Ok(response);
        }
    };
    validators.write(response.headers_mut());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    *response.body_mut() = Body::from_reader_with_length(file, length);
    Ok(response)
}

/// The validators of a file (RFC 9110 §8.8).
#[derive(Clone, Debug)]
struct Validators {
    /// Strong: a write changes the modification time (with the kernel's granularity of some
    /// milliseconds), and a replaced file is another inode.
    tag: String,
    /// In seconds since 1970; `None` if no date can represent it.
    modified: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Holds,
    NotModified,
    Fails,
}

impl Validators {
    fn new(metadata: &Metadata, now: SystemTime) -> Validators {
        let nanoseconds =
            i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        let tag = format!("\"{:x}-{:x}-{nanoseconds:x}\"", metadata.ino(), metadata.len());
        // Not later than this answer's own Date (RFC 9110 §8.8.2.1).
        let modified = u64::try_from(metadata.mtime()).ok().map(|at| at.min(seconds(now)));
        Validators { tag, modified }
    }

    fn write(&self, headers: &mut HeaderMap) {
        put(headers, header::ETAG, self.tag.clone());
        if let Some(date) = self.modified.and_then(date_of) {
            put(headers, header::LAST_MODIFIED, date.as_str().to_owned());
        }
    }

    /// RFC 9110 §13.2.2, in its order. If there is a field with a tag, the one with a date is
    /// ignored.
    fn judge(&self, headers: &HeaderMap) -> Condition {
        let fulfilled = match self.matches(headers, &header::IF_MATCH, Comparison::Strong) {
            Some(matches) => matches,
            None => !self.moved(headers, &header::IF_UNMODIFIED_SINCE).unwrap_or(false),
        };
        if !fulfilled {
            return Condition::Fails;
        }
        let changed = match self.matches(headers, &header::IF_NONE_MATCH, Comparison::Weak) {
            Some(matches) => !matches,
            None => self.moved(headers, &header::IF_MODIFIED_SINCE).unwrap_or(true),
        };
        if changed { Condition::Holds } else { Condition::NotModified }
    }

    /// Whether this field lists our tag, or is `*`. `None` if there is no such field.
    fn matches(
        &self,
        headers: &HeaderMap,
        name: &HeaderName,
        comparison: Comparison,
    ) -> Option<bool> {
        let mut lines = headers.get_all(name).iter().peekable();
        lines.peek()?;
        Some(lines.any(|line| {
            line.as_bytes().trim_ascii() == b"*"
                || lists_tag(line.as_bytes(), self.tag.as_bytes(), comparison)
        }))
    }

    /// Whether the file is newer than the date in this field. `None` if there is no valid date, or
    /// the file has none.
    fn moved(&self, headers: &HeaderMap, name: &HeaderName) -> Option<bool> {
        Some(self.modified? > date(one(headers, name)?)?)
    }

    /// The range of a file of this size to send. Only GET has ranges (RFC 9110 §14.2).
    fn wanted_range(&self, request: &Request<Body>, size: u64, now: SystemTime) -> Ranged {
        match one(request.headers(), &header::RANGE) {
            Some(value)
                if *request.method() == Method::GET && self.allow_range(request.headers(), now) =>
            {
                range(value, size)
            }
            _ => Ranged::Whole,
        }
    }

    /// `If-Range`: whether the client's part belongs to this version of the file, so that the rest
    /// is sufficient.
    fn allow_range(&self, headers: &HeaderMap, now: SystemTime) -> bool {
        if !headers.contains_key(header::IF_RANGE) {
            return true;
        }
        let Some(value) = one(headers, &header::IF_RANGE) else { return false };
        match (date(value), self.modified) {
            // Within the second of a change another one may follow, with the same date (RFC 9110
            // §8.8.2.2).
            (Some(date), Some(modified)) => date == modified && modified < seconds(now),
            _ => value.trim_ascii() == self.tag.as_bytes(),
        }
    }
}

/// RFC 9110 §8.8.3.2. Ours is strong, so it equals a weak one only in the weak comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

/// Reads a list of entity tags, which may contain commas. In a malformed list, tags after the error
/// do not count.
fn lists_tag(mut list: &[u8], tag: &[u8], comparison: Comparison) -> bool {
    loop {
        let skip = list.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b',')).count();
        list = &list[skip..];
        let (is_weak, quoted) = list.strip_prefix(b"W/").map_or((false, list), |rest| (true, rest));
        if quoted.first() != Some(&b'"') {
            return false;
        }
        let Some(end) = quoted[1..].iter().position(|byte| *byte == b'"') else { return false };
        let (theirs, rest) = quoted.split_at(end + 2);
        if theirs == tag && !(is_weak && comparison == Comparison::Strong) {
            return true;
        }
        list = rest;
    }
}

/// The result of `Range` for a file of some size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ranged {
    Whole,
    Part { first: u64, last: u64 },
    Beyond,
}

/// Reads a single range of bytes. An invalid field is ignored (RFC 9110 §14.2). So are several
/// ranges in one field, which the RFC leaves to the server: clients that send them are rare and
/// accept the whole file, while `multipart/byteranges` can cost more than the file (overlaps and
/// heads) and is one more format to implement.
fn range(value: &[u8], size: u64) -> Ranged {
    let Some((unit, set)) = split_at_byte(value, b'=') else { return Ranged::Whole };
    if !unit.eq_ignore_ascii_case(b"bytes") {
        return Ranged::Whole;
    }
    let mut ranges =
        set.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|range| !range.is_empty());
    let (Some(range), None) = (ranges.next(), ranges.next()) else { return Ranged::Whole };
    let Some((from, to)) = split_at_byte(range, b'-') else { return Ranged::Whole };
    match (decimal(from), decimal(to)) {
        (None, Some(suffix)) if from.is_empty() => match size {
            _ if suffix == 0 => Ranged::Beyond,
            0 => Ranged::Whole, // Content-Range cannot express an empty range
            _ => Ranged::Part { first: size.saturating_sub(suffix), last: size - 1 },
        },
        (Some(first), last) if to.is_empty() || last.is_some_and(|last| last >= first) => {
            match size {
                _ if first >= size => Ranged::Beyond,
                _ => Ranged::Part { first, last: last.map_or(size - 1, |last| last.min(size - 1)) },
            }
        }
        _ => Ranged::Whole,
    }
}

fn split_at_byte(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = bytes.iter().position(|byte| *byte == at)?;
    Some((&bytes[..place], &bytes[place + 1..]))
}

// ── small things ──

/// The value of a field that has to occur once; several count as none.
fn one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    Some(value.as_bytes())
}

/// An HTTP-date in any of its three forms, in seconds since 1970.
fn date(value: &[u8]) -> Option<u64> {
    Some(seconds(httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()?))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since: Duration| since.as_secs())
}

/// Sets a field whose value is made here, of visible ASCII.
fn put(headers: &mut HeaderMap, name: HeaderName, value: String) {
    match HeaderValue::try_from(value) {
        Ok(value) => drop(headers.insert(name, value)),
        Err(_) => log_names!(Debug, "a field {name} could not be written and is left out"),
    }
}

fn absent() -> Refusal {
    Refusal::new(404, "there is no such file here")
}

/// Visitors cannot distinguish absent files from files that are not served. Only problems that the
/// owner has to fix have another status: an existing file that may not be read (403), and a lack of
/// resources.
fn not_found(path: &str, error: Errno) -> Refusal {
    match error {
        Errno::ACCESS | Errno::PERM => {
            log_names!(Debug, "files: {path:?} may not be read: {error}");
            Refusal::new(403, "this file may not be read")
        }
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => {
            log_names!(Warn, "files: {path:?} could not be opened: {error}");
            Refusal::new(503, "too many files are open here; try again")
        }
        Errno::NOENT
        | Errno::NOTDIR
        | Errno::LOOP
        | Errno::NAMETOOLONG
        | Errno::XDEV
        | Errno::INVAL
        | Errno::ILSEQ
        | Errno::NXIO => {
            log_names!(Debug, "files: {path:?} is not served: {error}");
            absent()
        }
        error => unreadable(path, &error.into()),
    }
}

fn unreadable(path: &str, error: &io::Error) -> Refusal {
    log_names!(Warn, "files: {path:?} could not be read: {error}");
    Refusal::new(500, "the file could not be read")
}

fn refuse(refusal: &Refusal) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{}\n", refusal.reason)));
    *response.status_mut() =
        StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if refusal.status == 503 {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
