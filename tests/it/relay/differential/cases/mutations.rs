//! Mutated messages: the material of request smuggling.

use super::{Content, Line, Parts, Random, chunked};

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
pub(super) fn mutate(random: &mut Random, parts: &mut Parts, request: bool) -> &'static str {
    let length = match &parts.content {
        Content::Plain(bytes) => bytes.len(),
        _ => 5,
    };
    let choice = random.below(if request { 46 } else { 36 });
    match choice {
        0..=7 => change_framing(choice, random, parts, length),
        8..=13 => change_lines(choice, random, parts),
        14..=18 => insert_bytes(choice, random, parts),
        19..=22 => change_chunks(choice, random, parts),
        23..=25 => change_last_chunks(choice, random, parts),
        26..=31 => change_sizes(choice, random, parts),
        32..=36 => change_start(choice, random, parts, length),
        37..=40 => change_destination(choice, random, parts),
        _ => change_request(choice, random, parts),
    }
}

/// Fields that frame the body.
fn change_framing(
    choice: usize,
    random: &mut Random,
    parts: &mut Parts,
    length: usize,
) -> &'static str {
    match choice {
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
        _ => {
            let name = random.pick(&["Content-Length", "Transfer-Encoding", "Connection", "Host"]);
            let odd = random.pick(&[" ", "\t", "\x0b", "\0", "_", "\u{7f}", "\r", "\n"]);
            let name =
                if random.chance(50) { format!("{name}{odd}") } else { format!("{odd}{name}") };
            parts
                .insert(random, Line::new(&name, if name.contains('T') { "chunked" } else { "5" }));
            "a byte too many in a framing field's name"
        }
    }
}

/// Lines and their ends.
fn change_lines(choice: usize, random: &mut Random, parts: &mut Parts) -> &'static str {
    match choice {
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
        _ => {
            parts.blank = random
                .pick(&[b"\n".as_slice(), b"\r", b"\r\r\n", b"\n\n", b" \r\n", b"\r\n\r\n", b""])
                .to_vec();
            "a wrong empty line"
        }
    }
}

/// Bytes too many.
fn insert_bytes(choice: usize, random: &mut Random, parts: &mut Parts) -> &'static str {
    match choice {
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
        _ => {
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
    }
}

/// Chunks.
fn change_chunks(choice: usize, random: &mut Random, parts: &mut Parts) -> &'static str {
    match choice {
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
        _ => {
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
    }
}

/// The lengths of chunks, the last one, and the trailers' end.
fn change_last_chunks(choice: usize, random: &mut Random, parts: &mut Parts) -> &'static str {
    match choice {
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
        _ => {
            chunk_by_force(random, parts);
            if let Content::Chunked { end, .. } = &mut parts.content {
                *end = random
                    .pick(&[b"\n".as_slice(), b"", b"\r", b"\r\r\n", b"x\r\n", b" \r\n\r\n"])
                    .to_vec();
            }
            "a wrong end of the trailers"
        }
    }
}

/// Trailers, and more or less than there should be.
fn change_sizes(choice: usize, random: &mut Random, parts: &mut Parts) -> &'static str {
    match choice {
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
        _ => {
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
    }
}

/// The start line, both framings, and lines twice or not at all.
fn change_start(
    choice: usize,
    random: &mut Random,
    parts: &mut Parts,
    length: usize,
) -> &'static str {
    match choice {
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
        _ => {
            parts.lines.retain(|line| line.name.len() != 4);
            "no Host"
        }
    }
}

/// Where a request is to.
fn change_destination(choice: usize, random: &mut Random, parts: &mut Parts) -> &'static str {
    match choice {
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
        _ => {
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
    }
}

/// Methods, targets and what a request asks for.
fn change_request(choice: usize, random: &mut Random, parts: &mut Parts) -> &'static str {
    match choice {
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
pub(super) fn scramble(random: &mut Random, bytes: &mut Vec<u8>) -> &'static str {
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
