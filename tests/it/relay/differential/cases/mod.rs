//! Generated messages: legal ones in all their variety, and mutated ones, the material of request
//! smuggling. A case depends on its seed and number alone.

mod mutations;

use mutations::{mutate, scramble};

/// SplitMix64: a small generator whose sequence no dependency can change.
pub struct Random(u64);

impl Random {
    /// For one case.
    pub fn of(seed: u64, case: u64) -> Random {
        let mut random = Random(seed ^ case.wrapping_mul(0xD134_2543_DE82_EF95));
        random.next();
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to `n` - 1.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'p, T: ?Sized>(&mut self, of: &[&'p T]) -> &'p T {
        of[self.below(of.len())]
    }

    fn letters(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| b"abcdefghijklmnopqrstuvwxyz0123456789"[self.below(36)]).collect()
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        // Bodies that look like other messages, or like anything.
        match self.below(4) {
            0 => b"GET /lamp/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
                .iter()
                .copied()
                .cycle()
                .take(n)
                .collect(),
            1 => b"0\r\n\r\n".iter().copied().cycle().take(n).collect(),
            2 => (0..n).map(|_| self.next() as u8).collect(),
            _ => self.letters(n),
        }
    }

    fn length(&mut self) -> usize {
        match self.below(10) {
            0 => 1,
            1..=6 => 1 + self.below(40),
            7 | 8 => self.below(3_000),
            _ => self.below(20_000),
        }
    }
}

/// A field line in its parts.
#[derive(Clone, Debug)]
struct Line {
    name: Vec<u8>,
    colon: Vec<u8>,
    value: Vec<u8>,
    end: Vec<u8>,
}

impl Line {
    fn new(name: &str, value: impl Into<Vec<u8>>) -> Line {
        Line {
            name: name.into(),
            colon: b": ".to_vec(),
            value: value.into(),
            end: b"\r\n".to_vec(),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        [&self.name, &self.colon, &self.value, &self.end]
            .into_iter()
            .for_each(|part| out.extend(part));
    }
}

#[derive(Clone, Debug)]
struct Chunk {
    size: Vec<u8>,
    size_end: Vec<u8>,
    data: Vec<u8>,
    data_end: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Content {
    None,
    Plain(Vec<u8>),
    Chunked { chunks: Vec<Chunk>, last: Vec<u8>, trailers: Vec<Line>, end: Vec<u8> },
}

/// A message in its parts, so that a mutation can aim.
#[derive(Clone, Debug)]
struct Parts {
    before: Vec<u8>,
    start: Vec<u8>,
    start_end: Vec<u8>,
    lines: Vec<Line>,
    blank: Vec<u8>,
    content: Content,
}

impl Parts {
    fn write(&self, out: &mut Vec<u8>) {
        [&self.before, &self.start, &self.start_end].into_iter().for_each(|part| out.extend(part));
        self.lines.iter().for_each(|line| line.write(out));
        out.extend(&self.blank);
        match &self.content {
            Content::None => {}
            Content::Plain(bytes) => out.extend(bytes),
            Content::Chunked { chunks, last, trailers, end } => {
                for chunk in chunks {
                    [&chunk.size, &chunk.size_end, &chunk.data, &chunk.data_end]
                        .into_iter()
                        .for_each(|part| out.extend(part));
                }
                out.extend(last);
                trailers.iter().for_each(|line| line.write(out));
                out.extend(end);
            }
        }
    }

    fn insert(&mut self, random: &mut Random, line: Line) {
        self.lines.insert(random.below(self.lines.len() + 1), line);
    }

    fn find(&mut self, name: &str) -> Option<&mut Line> {
        self.lines.iter_mut().find(|line| line.name.eq_ignore_ascii_case(name.as_bytes()))
    }

    fn any_line(&mut self, random: &mut Random) -> Option<&mut Line> {
        let n = random.below(self.lines.len());
        self.lines.get_mut(n)
    }
}

/// What is sent, and what was done to it.
#[derive(Clone, Debug)]
pub struct Case {
    pub bytes: Vec<u8>,
    /// Where it is cut into pieces that are written one by one.
    pub cuts: Vec<usize>,
    /// Names of the mutations; none: it is legal, and has to be served.
    pub mutations: Vec<&'static str>,
}

impl Case {
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let ends = self.cuts.iter().copied().chain([self.bytes.len()]);
        let starts = [0].into_iter().chain(self.cuts.iter().copied());
        starts.zip(ends).map(|(from, to)| &self.bytes[from..to])
    }
}

const ODD_VALUES: [&[u8]; 16] = [
    b"",
    b"a",
    b"a b  c",
    b"a\tb",
    b",",
    b", ,a,,",
    b"\"quoted, \\\" text\"",
    b"\"open",
    b"a:b: c",
    b"\xe4\xf6\xfc \xff\x80",
    b"=?;()<>@[]{}/\\",
    b"chunked",
    b"close",
    b"0",
    b"HTTP/1.1",
    b"%00%0d%0a",
];

const NAMES: [&str; 22] = [
    "Accept",
    "accept",
    "ACCEPT",
    "Cookie",
    "User-Agent",
    "X-A",
    "x-a",
    "X",
    "X!#$%&'*+-.^`|~9",
    "Authorization",
    "If-None-Match",
    "Range",
    "Content-Type",
    "Content-Encoding",
    "Max-Forwards",
    "Pragma",
    "Date",
    "Origin",
    "X-Real-IP",
    "Link",
    "ETag",
    "Hosts",
];

/// A field that goes on, or goes, without any bearing on framing.
fn any_field(random: &mut Random) -> Line {
    let value = match random.below(12) {
        0 => random.letters(1_500),
        1..=5 => random.letters(8),
        _ => ODD_VALUES[random.below(ODD_VALUES.len())].to_vec(),
    };
    let mut line = Line::new(NAMES[random.below(NAMES.len())], value);
    white_space(random, &mut line);
    line
}

fn white_space(random: &mut Random, line: &mut Line) {
    const SPACES: [&[u8]; 5] = [b": ", b":", b":  ", b":\t", b": \t "];
    // White space of length and coding is tabs' business, which a mutation has.
    if line.name.len() != 14 && line.name.len() != 17 {
        line.colon = SPACES[random.below(SPACES.len())].to_vec();
        line.value.extend(random.pick(&[b"".as_slice(), b"", b" ", b"\t "]));
    }
}

fn trailer(random: &mut Random) -> Line {
    const ALLOWED: [&str; 4] = ["X-Trailer", "x-sum", "Server-Timing", "X-T"];
    // Not those of framing: both parsers refuse them even here.
    const FORBIDDEN: [&str; 10] = [
        "Host",
        "Authorization",
        "Connection",
        "Content-Type",
        "Set-Cookie",
        "X-Forwarded-For",
        "TE",
        "Trailer",
        "Via",
        "Cookie",
    ];
    let value = random.letters(5);
    let mut line = match random.below(3) {
        0 => Line::new(FORBIDDEN[random.below(10)], value),
        _ => Line::new(ALLOWED[random.below(4)], value),
    };
    white_space(random, &mut line);
    line
}

fn chunked(random: &mut Random, length: usize) -> Content {
    let mut left = length;
    let mut chunks = Vec::new();
    while left > 0 {
        let parts = 1 + random.below(4);
        let n = 1 + random.below(left.min(1 + left / parts));
        left -= n;
        let mut size = match random.below(4) {
            0 => format!("{n:X}"),
            1 => format!("00{n:x}"),
            _ => format!("{n:x}"),
        };
        if random.chance(30) {
            size += random.pick(&[";a", ";a=b", ";a=\"b\"", ";a=b;c", "; a = b", ";a1"]);
        }
        let data = random.bytes(n);
        chunks.push(Chunk {
            size: size.into(),
            size_end: b"\r\n".to_vec(),
            data,
            data_end: b"\r\n".to_vec(),
        });
    }
    let last = random.pick(&["0\r\n", "0\r\n", "0\r\n", "000\r\n", "0;last\r\n"]).into();
    let trailers = if random.chance(35) {
        (0..1 + random.below(3)).map(|_| trailer(random)).collect()
    } else {
        Vec::new()
    };
    Content::Chunked { chunks, last, trailers, end: b"\r\n".to_vec() }
}

/// A body, and the field that frames it.
fn content(random: &mut Random, parts: &mut Parts) {
    let length = random.length();
    if random.chance(50) {
        parts.content = chunked(random, length);
        let coding = random.pick(&["chunked", "chunked", "Chunked", "CHUNKED"]);
        let name = random.pick(&["Transfer-Encoding", "transfer-encoding"]);
        parts.insert(random, Line::new(name, coding));
    } else {
        parts.content = Content::Plain(random.bytes(length));
        let name = random.pick(&["Content-Length", "content-length", "CONTENT-LENGTH"]);
        parts.insert(random, Line::new(name, length.to_string()));
    }
}

fn target(random: &mut Random, n: usize) -> String {
    let paths = [
        "",
        "a/b",
        "a//b/",
        "%2F%2f%41",
        "?q=a&b=%20",
        "x?/../y?z",
        "~!$&'()*+,;=:@",
        "...",
        ".a/b..",
        "lamp/lamp/",
        "a?\"<>^`{|}",
        "x\"y",
        "?",
        "a%25/",
        "a?\\b",
    ];
    let path = paths[random.below(paths.len())];
    match random.below(12) {
        0 => format!("http://visitors.example/lamp/{n}/{path}"),
        1 => format!("HTTP://Visitors.Example:80/lamp/{n}/{path}"),
        2 => format!("/nobody/{n}/{path}"),
        3 => "/lamp".to_owned(),
        4 => format!("/lamp?{n}"),
        5 => format!("/lamp/{}", "long".repeat(random.below(400))),
        _ => format!("/lamp/{n}/{path}"),
    }
}

/// A request that has to be served, the `n`th on its connection.
fn legal_request(random: &mut Random, n: usize, last: bool) -> Parts {
    const METHODS: [&str; 14] = [
        "GET", "GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE", "OPTIONS", "PATCH",
        "TRACE", "PROPFIND", "M-SEARCH",
    ];
    // Of these only h11 can tell; llhttp has a list of methods.
    let method = if random.chance(5) {
        random.pick(&["get", "X!#$%&'*+-.^_`|~"])
    } else {
        METHODS[random.below(METHODS.len())]
    };
    let minor = if random.chance(10) { 0 } else { 1 };
    let target = target(random, n);
    let mut parts = Parts {
        before: if random.chance(4) { b"\r\n".to_vec() } else { Vec::new() },
        start: format!("{method} {target} HTTP/1.{minor}").into(),
        start_end: b"\r\n".to_vec(),
        lines: (0..random.below(6)).map(|_| any_field(random)).collect(),
        blank: b"\r\n".to_vec(),
        content: Content::None,
    };
    if random.chance(2) {
        parts.lines.extend((0..80).map(|i| Line::new(&format!("X-Many-{i}"), "x")));
    }
    for _ in 0..random.below(3) {
        let line = hop_by_hop(random, minor);
        parts.insert(random, line);
    }
    let may_have_body = minor == 1 || random.chance(50);
    if may_have_body
        && random.chance(if matches!(method, "POST" | "PUT" | "PATCH" | "get") { 85 } else { 15 })
    {
        content(random, &mut parts);
        if minor == 0 {
            if let Content::Chunked { .. } = parts.content {
                parts.content = Content::None;
                parts.lines.retain(|line| line.name.len() != 17);
            }
        }
        if random.chance(10) {
            let expect = Line::new("Expect", random.pick(&["100-continue", "100-Continue"]));
            parts.insert(random, expect);
        }
    } else if random.chance(10) {
        parts.insert(random, Line::new("Content-Length", "0"));
    } else if minor == 1 && random.chance(8) {
        let protocol = random.pick(&["websocket", "h2c", "chat/2, h2c", "h2c, x"]);
        parts.insert(random, Line::new("Upgrade", protocol));
        let connection =
            random.pick(&["Upgrade", "upgrade, HTTP2-Settings", "keep-alive, Upgrade"]);
        parts.insert(random, Line::new("Connection", connection));
    }
    let host = if target.starts_with("HTTP") { "visitors.example" } else { "Visitors.example" };
    if minor == 1 || random.chance(60) {
        let mut line = Line::new(random.pick(&["Host", "host", "HOST"]), host);
        white_space(random, &mut line);
        parts.insert(random, line);
    }
    if last && random.chance(10) {
        let close =
            Line::new("Connection", random.pick(&["close", "Close", "close, x-a", "x, close"]));
        parts.insert(random, close);
    } else if minor == 0 && random.chance(60) {
        parts.insert(random, Line::new("Connection", "keep-alive"));
    }
    parts
}

/// A field between two neighbours, or one that the relay writes itself.
fn hop_by_hop(random: &mut Random, minor: u8) -> Line {
    let rows: [(&str, &str); 20] = [
        ("TE", "trailers"),
        ("TE", "deflate;q=0.5, trailers"),
        ("TE", "deflate"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("HTTP2-Settings", "AAMAAABk"),
        ("Connection", "X-A, accept"),
        ("Connection", "content-length, host, authorization, cookie, transfer-encoding"),
        ("Connection", "keep-alive"),
        ("Upgrade", "websocket"),
        ("Via", "1.0 elsewhere"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("x-forwarded-host", "evil.example"),
        ("X-Forwarded-Prefix", "/evil"),
        ("Forwarded", "for=10.0.0.1"),
        ("x_forwarded_for", "10.0.0.1"),
        ("Content_Length", "5"),
        ("Proxy-Authorization", "Basic eDp5"),
        ("Trailer", "X-Trailer"),
        ("X-Forwarded-", "x"),
    ];
    let row = rows[random.below(rows.len())];
    // What would keep an HTTP/1.0 connection open is added elsewhere.
    if minor == 0 && row.0 == "Connection" {
        Line::new("X-Zero", "x")
    } else {
        Line::new(row.0, row.1)
    }
}

/// One to three requests on a connection.
pub fn requests(seed: u64, number: u64) -> Case {
    let mut random = Random::of(seed, number);
    let count = random.pick(&[&1, &1, &2, &3]).to_owned();
    let mut messages: Vec<Parts> =
        (1..=count).map(|n| legal_request(&mut random, n, n == count)).collect();
    let mut mutations = Vec::new();
    if random.chance(55) {
        for _ in 0..1 + random.below(2) {
            let n = random.below(messages.len());
            mutations.push(mutate(&mut random, &mut messages[n], true));
        }
    }
    let mut bytes = Vec::new();
    messages.iter().for_each(|message| message.write(&mut bytes));
    if random.chance(12) {
        mutations.push(scramble(&mut random, &mut bytes));
    }
    finish(&mut random, bytes, mutations)
}

/// A device's response, with what comes before and after it.
pub fn response(seed: u64, number: u64) -> Case {
    let mut random = Random::of(seed ^ 0x0072_6573_706f_6e73, number);
    let mut bytes = Vec::new();
    let mut mutations = Vec::new();
    for _ in 0..if random.chance(15) { 1 + random.below(3) } else { 0 } {
        let status = random.pick(&["100 Continue", "103 Early Hints", "102 Processing", "199 "]);
        let mut parts = empty_response(&format!("HTTP/1.1 {status}"));
        parts.lines = (0..random.below(3)).map(|_| any_field(&mut random)).collect();
        parts.write(&mut bytes);
    }
    let mut parts = legal_response(&mut random);
    if random.chance(50) {
        for _ in 0..1 + random.below(2) {
            mutations.push(mutate(&mut random, &mut parts, false));
        }
    }
    parts.write(&mut bytes);
    if random.chance(12) {
        mutations.push(scramble(&mut random, &mut bytes));
    }
    if random.chance(8) {
        bytes.extend(random.pick(&[
            b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nsecond!".as_slice(),
            b"x",
            b"\r\n",
            b"\n",
        ]));
        mutations.push("bytes behind the response");
    }
    finish(&mut random, bytes, mutations)
}

fn empty_response(start: &str) -> Parts {
    Parts {
        before: Vec::new(),
        start: start.into(),
        start_end: b"\r\n".to_vec(),
        lines: Vec::new(),
        blank: b"\r\n".to_vec(),
        content: Content::None,
    }
}

fn legal_response(random: &mut Random) -> Parts {
    const STATUSES: [&str; 14] = [
        "200 OK",
        "200 OK",
        "200 OK",
        "200 ",
        "201 Created",
        "404 Not Found \u{e4}",
        "500 Oh, no!",
        "299 \t odd",
        "599 x",
        "302 Found",
        "206 Partial Content",
        "401 Who",
        "204 No Content",
        "304 Not Modified",
    ];
    let status = STATUSES[random.below(STATUSES.len())];
    let minor = if random.chance(10) { 0 } else { 1 };
    let mut parts = empty_response("");
    parts.start = format!("HTTP/1.{minor} {status}").chars().map(|c| c as u8).collect(); // ISO-8859-1
    parts.lines = (0..random.below(7)).map(|_| any_field(random)).collect();
    for _ in 0..random.below(2) {
        let rows = [
            ("Keep-Alive", "timeout=5"),
            ("Connection", "x-a, accept"),
            ("Connection", "keep-alive"),
            ("Via", "1.1 inner"),
            ("Proxy-Connection", "close"),
            ("Set-Cookie", "a=b; Path=/, c"),
            ("Set-Cookie", "a=b"),
            ("Trailer", "X-Trailer"),
            ("under_score", "kept"),
            ("X-Forwarded-For", "10.0.0.1"),
            ("Host", "odd"),
            ("Upgrade", "chat"),
        ];
        let (name, value) = rows[random.below(rows.len())];
        parts.insert(random, Line::new(name, value));
    }
    match status.get(..3) {
        Some("204") => {}
        Some("304") => {
            if random.chance(30) {
                parts.insert(random, Line::new("Content-Length", "77"));
            }
        }
        _ => match random.below(10) {
            0 => {
                let length = random.length();
                parts.content = Content::Plain(random.bytes(length)); // to the end of the stream
            }
            1 => parts.insert(random, Line::new("Content-Length", "0")),
            _ if minor == 1 => content(random, &mut parts),
            _ => {
                let length = random.length();
                parts.content = Content::Plain(random.bytes(length));
                parts.insert(random, Line::new("Content-Length", length.to_string()));
            }
        },
    }
    if random.chance(10) {
        parts.insert(random, Line::new("Connection", "close"));
    }
    parts
}

fn finish(random: &mut Random, bytes: Vec<u8>, mutations: Vec<&'static str>) -> Case {
    let mut cuts: Vec<usize> = match random.chance(30) {
        true => (0..1 + random.below(5)).map(|_| random.below(bytes.len() + 1)).collect(),
        false => Vec::new(),
    };
    cuts.sort_unstable();
    Case { bytes, cuts, mutations }
}
