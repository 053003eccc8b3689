//! Generated messages: legal ones in all their variety, and mutated ones, the material of request
//! smuggling. A case depends on its seed and number alone.

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

/// A device's response, with what comes before and behind it.
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

const BAD_LENGTHS: [&[u8]; 19] = [
    b"+5",
    b"-1",
    b"0x5",
    b"5,6",
    b"5, 5",
    b"5 5",
    b"1_0",
    b"",
    b"99999999999999999999",
    b"18446744073709551617",
    b"9223372036854775808",
    b"5;",
    b"5.0",
    b"5e0",
    b"\t5",
    b"5\x0b",
    b",5",
    b"5,",
    b"\xd9\xa5",
];

const BAD_CODINGS: [&[u8]; 22] = [
    b"xchunked",
    b"chunked, gzip",
    b"gzip, chunked",
    b"gzip",
    b"identity",
    b"\"chunked\"",
    b"'chunked'",
    b"\tchunked",
    b"chunked\t",
    b"\x0bchunked",
    b"\x0cchunked",
    b"chunked\x0b",
    b"chunked, chunked",
    b"chunked,",
    b", chunked",
    b"",
    b"chunked;q=1",
    b"ch\xffunked",
    b"chunke",
    b"chunked identity",
    b"chunked\x00",
    b"identity, chunked",
];

const BAD_SIZES: [&[u8]; 22] = [
    b"0x2",
    b"+2",
    b"-2",
    b" 2",
    b"2 ",
    b"2\t",
    b"",
    b"g",
    b"2g",
    b"00000000000000002",
    b"0000000000000000000000002",
    b"10000000000000002",
    b"ffffffffffffffff",
    b"7fffffffffffffff",
    b"2;\n",
    b"2;a\rb",
    b"2;\x00",
    b"2;a=\"\n\"",
    b"2\x0b",
    b"2,2",
    b"2 ;a",
    b"2\x00",
];

/// Changes one thing about a message. What it is called.
fn mutate(random: &mut Random, parts: &mut Parts, request: bool) -> &'static str {
    let length = match &parts.content {
        Content::Plain(bytes) => bytes.len(),
        _ => 5,
    };
    match random.below(if request { 46 } else { 36 }) {
        0 => {
            parts.insert(random, Line::new("Content-Length", length.to_string()));
            "one more Content-Length"
        }
        1 => {
            let other = length + 1 + random.below(9);
            parts.insert(random, Line::new("content-length", other.to_string()));
            "another Content-Length"
        }
        2 | 3 => {
            let value = BAD_LENGTHS[random.below(BAD_LENGTHS.len())];
            match parts.find("content-length") {
                Some(line) => line.value = value.to_vec(),
                None => parts.insert(random, Line::new("Content-Length", value)),
            }
            "a wrong Content-Length"
        }
        4 => {
            parts.insert(random, Line::new("Transfer-Encoding", "chunked"));
            "one more Transfer-Encoding"
        }
        5 | 6 => {
            let value = BAD_CODINGS[random.below(BAD_CODINGS.len())];
            match parts.find("transfer-encoding") {
                Some(line) => line.value = value.to_vec(),
                None => parts.insert(random, Line::new("Transfer-Encoding", value)),
            }
            "a wrong Transfer-Encoding"
        }
        7 => {
            let name = random.pick(&["Content-Length", "Transfer-Encoding", "Connection", "Host"]);
            let odd = random.pick(&[" ", "\t", "\x0b", "\0", "_", "\u{7f}", "\r", "\n"]);
            let name =
                if random.chance(50) { format!("{name}{odd}") } else { format!("{odd}{name}") };
            parts
                .insert(random, Line::new(&name, if name.contains('T') { "chunked" } else { "5" }));
            "a byte too many in a framing field's name"
        }
        8 => {
            if let Some(line) = parts.any_line(random) {
                line.colon = random
                    .pick(&[b" :".as_slice(), b"\t: ", b" : ", b"", b"=", b"\0:", b"\r:"])
                    .to_vec();
            }
            "a wrong colon"
        }
        9 | 10 => {
            if let Some(line) = parts.any_line(random) {
                let at = random.below(line.value.len() + 1);
                let fold =
                    random.pick(&[b"\r\n ".as_slice(), b"\r\n\t", b"\n ", b"\r\n  x", b"\r \n"]);
                line.value.splice(at..at, fold.iter().copied());
            }
            "a folded line"
        }
        11 => {
            if let Some(line) = parts.any_line(random) {
                line.end = random
                    .pick(&[
                        b"\n".as_slice(),
                        b"\r",
                        b"\r\r\n",
                        b"\n\r",
                        b"\r\n\r",
                        b"",
                        b"\r\n\0",
                        b"\0\r\n",
                    ])
                    .to_vec();
            }
            "a wrong line end"
        }
        12 => {
            parts.start_end = random
                .pick(&[
                    b"\n".as_slice(),
                    b"\r",
                    b"\r\r\n",
                    b" \r\n",
                    b"\t\r\n",
                    b"\r\n ",
                    b"\r\n\t",
                ])
                .to_vec();
            "a wrong end of the start line"
        }
        13 => {
            parts.blank = random
                .pick(&[b"\n".as_slice(), b"\r", b"\r\r\n", b"\n\n", b" \r\n", b"\r\n\r\n", b""])
                .to_vec();
            "a wrong empty line"
        }
        14 | 15 => {
            if let Some(line) = parts.any_line(random) {
                let at = random.below(line.value.len() + 1);
                let odd = random.pick(&[
                    b"\0".as_slice(),
                    b"\r",
                    b"\n",
                    b"\x01",
                    b"\x7f",
                    b"\x1b[31m",
                    b"\x0b",
                    b"\x0c",
                    b"\x85",
                    b"\r\n",
                ]);
                line.value.splice(at..at, odd.iter().copied());
            }
            "a byte too many in a value"
        }
        16 => {
            if let Some(line) = parts.any_line(random) {
                let at = random.below(line.name.len() + 1);
                let odd = random.pick(&[
                    b"\0".as_slice(),
                    b" ",
                    b"\t",
                    b"\"",
                    b"(",
                    b"\xe4",
                    b":",
                    b"@",
                    b"/",
                    b"\r\n",
                ]);
                line.name.splice(at..at, odd.iter().copied());
            }
            "a byte too many in a name"
        }
        17 => {
            if let Some(line) = parts.any_line(random) {
                line.name.clear();
            }
            "an empty name"
        }
        18 => {
            parts.before = random
                .pick(&[
                    b"\r\n".as_slice(),
                    b"\r\n\r\n",
                    b"\r\n\r\n\r\n",
                    b"\n",
                    b"\r",
                    b" ",
                    b"\0",
                    b"x",
                ])
                .to_vec();
            "bytes before the start line"
        }
        19 | 20 => {
            chunk_by_force(random, parts);
            let size = BAD_SIZES[random.below(BAD_SIZES.len())];
            if let Content::Chunked { chunks, .. } = &mut parts.content {
                let n = random.below(chunks.len());
                chunks[n].size = size.to_vec();
            }
            "a wrong chunk size"
        }
        21 => {
            chunk_by_force(random, parts);
            if let Content::Chunked { chunks, .. } = &mut parts.content {
                let n = random.below(chunks.len());
                chunks[n].data_end = random
                    .pick(&[
                        b"\n".as_slice(),
                        b"\r",
                        b"",
                        b"xx",
                        b"\r\n\r\n",
                        b"\n\r",
                        b"x\r\n",
                        b"\r\r\n",
                    ])
                    .to_vec();
            }
            "a wrong end of a chunk"
        }
        22 => {
            chunk_by_force(random, parts);
            if let Content::Chunked { chunks, .. } = &mut parts.content {
                let n = random.below(chunks.len());
                chunks[n].size_end = random
                    .pick(&[
                        b"\n".as_slice(),
                        b"\r",
                        b"\r\r\n",
                        b" \r\n",
                        b"\r\n\r\n",
                        b"\0\r\n",
                        b"\r\n ",
                    ])
                    .to_vec();
            }
            "a wrong end of a chunk size"
        }
        23 => {
            chunk_by_force(random, parts);
            if let Content::Chunked { chunks, .. } = &mut parts.content {
                let n = random.below(chunks.len());
                match random.chance(50) {
                    true => chunks[n].data.push(b'x'),
                    false => drop(chunks[n].data.pop()),
                }
            }
            "a chunk of another length than it says"
        }
        24 => {
            chunk_by_force(random, parts);
            if let Content::Chunked { last, .. } = &mut parts.content {
                *last = random
                    .pick(&[
                        b"".as_slice(),
                        b"0\n",
                        b"0",
                        b"0\r",
                        b"0 \r\n",
                        b"-0\r\n",
                        b"0x0\r\n",
                        b"\r\n",
                        b"0\r\n0\r\n",
                    ])
                    .to_vec();
            }
            "a wrong last chunk"
        }
        25 => {
            chunk_by_force(random, parts);
            if let Content::Chunked { end, .. } = &mut parts.content {
                *end = random
                    .pick(&[b"\n".as_slice(), b"", b"\r", b"\r\r\n", b"x\r\n", b" \r\n\r\n"])
                    .to_vec();
            }
            "a wrong end of the trailers"
        }
        26 => {
            chunk_by_force(random, parts);
            if let Content::Chunked { trailers, .. } = &mut parts.content {
                let mut line = Line::new("X-Trailer", "x");
                match random.below(6) {
                    0 => line.name = b"X-Trailer ".to_vec(),
                    4 => line = Line::new("Content-Length", "5"),
                    1 => line.value = b"a\r\n b".to_vec(),
                    2 => line.end = b"\n".to_vec(),
                    3 => line.colon = Vec::new(),
                    _ => line.value = b"a\0b".to_vec(),
                }
                trailers.push(line);
            }
            "a wrong trailer"
        }
        27 => {
            if let Content::Plain(bytes) = &mut parts.content {
                bytes.truncate(bytes.len() / 2);
            }
            "a body shorter than it says"
        }
        28 => {
            if let Content::Plain(bytes) = &mut parts.content {
                bytes.extend(b"GET /lamp/smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
            }
            "a body longer than it says"
        }
        29 => {
            parts.lines.extend((0..101).map(|i| Line::new(&format!("X-Many-{i}"), "x")));
            "too many fields"
        }
        30 => {
            parts.insert(random, Line::new("X-Long", vec![b'x'; 17_000]));
            "a head that is too long"
        }
        31 => {
            let value = random.pick(&[
                "close, keep-alive",
                "close;x",
                "\"close\"",
                ",close",
                "close\t",
                "keep-alive, close",
                "clos",
                "x close",
            ]);
            parts.insert(random, Line::new("Connection", value));
            "an odd Connection"
        }
        32 => {
            let text = String::from_utf8_lossy(&parts.start).into_owned();
            let from = if text.contains("HTTP/1.0") { "HTTP/1.0" } else { "HTTP/1.1" };
            const VERSIONS: [&str; 16] = [
                "HTTP/1.2",
                "HTTP/2.0",
                "HTTP/0.9",
                "HTTP/1",
                "HTTP/1.",
                "HTTP/1.10",
                "HTTP/01.1",
                "http/1.1",
                "HTTP/1,1",
                "HTTP 1.1",
                "HTTPS/1.1",
                "HTTP/1.1\0",
                "HTP/1.1",
                "RTSP/1.0",
                "ICE/1.0",
                "HTTP/3.0",
            ];
            parts.start = text.replace(from, VERSIONS[random.below(VERSIONS.len())]).into_bytes();
            "another version"
        }
        33 => {
            let text = String::from_utf8_lossy(&parts.start).into_owned();
            parts.start = text
                .replacen(
                    ' ',
                    random.pick(&["  ", "\t", "", "\x0b", "\r", "\0", "\u{a0}", " \t"]),
                    1 + random.below(2),
                )
                .into_bytes();
            "a wrong space in the start line"
        }
        34 => {
            parts.insert(random, Line::new("Transfer-Encoding", "chunked"));
            parts.insert(random, Line::new("Content-Length", length.to_string()));
            "both framings"
        }
        35 => {
            let n = random.below(parts.lines.len());
            if let Some(line) = parts.lines.get(n).cloned() {
                parts.insert(random, line);
            }
            "a line twice"
        }
        36 => {
            parts.lines.retain(|line| line.name.len() != 4);
            "no Host"
        }
        37 | 38 => {
            let host = random.pick(&[
                "a, b",
                "",
                "a b",
                "user@a",
                "a:b",
                "a:99999",
                "[::1",
                "[::1]",
                "a/b",
                "a?",
                "ä",
                "a..b",
                "127.0.0.1:80",
                "%61",
            ]);
            match parts.find("host") {
                Some(line) if random.chance(70) => line.value = host.into(),
                _ => parts.insert(random, Line::new("Host", host)),
            }
            "an odd Host, or one more"
        }
        39 | 40 => {
            let text = String::from_utf8_lossy(&parts.start).into_owned();
            let target = text.split(' ').nth(1).unwrap_or_default().to_owned();
            let odd = random.pick(&[
                "*",
                "lamp/x",
                "lamp:80",
                "ftp://visitors.example/lamp/",
                "http://other.example/lamp/",
                "http:///lamp/x",
                "http://u@visitors.example/lamp/",
                "/lamp/../x",
                "/lamp/%2e%2e/x",
                "/lamp/a#b",
                "/lamp/\\x",
                "/lamp/%zz",
                "/lamp/%00",
                "/lamp/\u{e4}",
                "/lamp/a\tb",
                "/lamp/a\x0cb",
                "/LAMP/x",
                "//lamp/x",
                "/%6camp/x",
                "/lamp./x",
                "/lamp%2fx/y",
                "http://visitors.example?x",
                "/lamp/\x01",
                "/lamp/\x7f",
                "",
                "/lamp;x/y",
            ]);
            parts.start = text.replacen(&target, odd, 1).into_bytes();
            "an odd target"
        }
        41 => {
            let text = String::from_utf8_lossy(&parts.start).into_owned();
            let method = text.split(' ').next().unwrap_or_default().to_owned();
            let odd = random.pick(&[
                "", "G(T", "GET\t", "G\u{e9}T", "CONNECT", "PRI", "\"GET\"", "GET,", "SOURCE",
                "G/T", "\0GET", "@", "GET\r\n",
            ]);
            parts.start = text.replacen(&method, odd, 1).into_bytes();
            "an odd method"
        }
        42 => {
            let text = String::from_utf8_lossy(&parts.start).into_owned();
            parts.start = text
                .replacen(" /", &format!(" /lamp/{}", "x".repeat(7_980 + random.below(40))), 1)
                .into_bytes();
            "a target about as long as may be"
        }
        43 => {
            let text = String::from_utf8_lossy(&parts.start).into_owned();
            parts.start = text.split(" HTTP/").next().unwrap_or_default().as_bytes().to_vec();
            "no version"
        }
        44 => {
            let expect = random.pick(&["100-continue", "200-ok", "", "100-continue, x"]);
            parts.insert(random, Line::new("Expect", expect));
            "an odd Expect"
        }
        _ => {
            let upgrade = random.pick(&["websocket", "h2c", "TLS/1.0", "PTTH/1.0", ""]);
            parts.insert(random, Line::new("Upgrade", upgrade));
            parts.insert(random, Line::new("Connection", "Upgrade"));
            "an Upgrade, perhaps with a body"
        }
    }
}

/// Makes a message chunked that is not, with at least one chunk.
fn chunk_by_force(random: &mut Random, parts: &mut Parts) {
    if let Content::Chunked { chunks, .. } = &parts.content {
        if !chunks.is_empty() {
            return;
        }
    }
    parts.lines.retain(|line| line.name.len() != 14 && line.name.len() != 17);
    parts.content = chunked(random, 2);
    parts.insert(random, Line::new("Transfer-Encoding", "chunked"));
}

/// Changes bytes anywhere.
fn scramble(random: &mut Random, bytes: &mut Vec<u8>) -> &'static str {
    // Heads are where it matters most, and they are at the front.
    let reach = if random.chance(70) { bytes.len().min(400) } else { bytes.len() };
    let at = random.below(reach);
    match random.below(6) {
        0 => {
            bytes[at] = random.next() as u8;
            "another byte"
        }
        1 => {
            bytes.remove(at);
            "a byte less"
        }
        2 => {
            bytes.insert(at, *random.pick(&[&b'\r', &b'\n', &b' ', &0, &b':', &b'0', &0xFF]));
            "a byte more"
        }
        3 => {
            bytes.truncate(at);
            "cut short"
        }
        4 => {
            let end = (at + 1 + random.below(30)).min(bytes.len());
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
            "some bytes twice"
        }
        _ => {
            let other = random.below(reach);
            bytes.swap(at, other);
            "two bytes exchanged"
        }
    }
}
