//! Independent parsers as processes of their own: what llhttp and h11 read in some bytes. How they
//! are spoken to stands in tests/peers/llhttp_reader.js.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use crate::support::{START, need, skipped};

/// Names and values in their order, without the white space around values.
pub type Fields = Vec<(String, Vec<u8>)>;

/// A message as a parser read it, whole or as far as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Of a request.
    pub method: String,
    pub target: String,
    /// Of a response, else 0.
    pub status: u16,
    pub reason: Vec<u8>,
    pub minor: u8,
    pub fields: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
    pub whole: bool,
}

impl Message {
    pub fn all<'m>(&'m self, name: &str) -> Vec<&'m [u8]> {
        self.fields
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_slice())
            .collect()
    }

    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.all(name).first().copied()
    }

    /// Members of the comma list over all lines of this name, in lower case.
    pub fn list(&self, name: &str) -> Vec<String> {
        let members = |value: &[u8]| {
            String::from_utf8_lossy(value)
                .split(',')
                .map(|m| m.trim().to_lowercase())
                .collect::<Vec<_>>()
        };
        self.all(name).into_iter().flat_map(members).filter(|m| !m.is_empty()).collect()
    }

    pub fn lists(&self, name: &str, token: &str) -> bool {
        self.list(name).iter().any(|member| member == token)
    }

    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status)
    }
}

/// How a parser's reading ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// At a message's end.
    Clean,
    /// The bytes end within a message.
    Within,
    /// The last message was the connection's last.
    Closed,
    /// What follows is no HTTP, and why.
    Refused(String),
}

/// What a parser read: whole messages, then at most one that is not.
#[derive(Clone, Debug)]
pub struct Reading {
    pub messages: Vec<Message>,
    pub end: End,
}

impl Reading {
    /// How many messages are whole.
    pub fn whole(&self) -> usize {
        self.messages.iter().filter(|m| m.whole).count()
    }

    /// The first final response and the interim ones before it.
    pub fn response(&self) -> (Option<&Message>, Vec<&Message>) {
        (
            self.messages.iter().find(|m| !m.is_interim()),
            self.messages.iter().take_while(|m| m.is_interim()).collect(),
        )
    }
}

/// One parser.
pub struct Reader {
    pub name: &'static str,
    child: Child,
    input: BufWriter<ChildStdin>,
    lines: Receiver<String>,
}

fn peers() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers"))
}

impl Reader {
    /// llhttp and h11; `None` where one of them is not installed.
    pub fn both() -> Option<[Reader; 2]> {
        if !need("node") || !need("python3") {
            return None;
        }
        if !peers().join("python_modules/h11/__init__.py").exists() {
            skipped("h11 (from PyPI)");
            return None;
        }
        let mut h11 = Command::new("python3");
        h11.arg(peers().join("h11_reader.py")).env("PYTHONPATH", peers().join("python_modules"));
        let mut llhttp = Command::new("node");
        llhttp.arg(peers().join("llhttp_reader.js"));
        Some([Reader::start("llhttp", &mut llhttp), Reader::start("h11", &mut h11)])
    }

    fn start(name: &'static str, command: &mut Command) -> Reader {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("starting {name}: {e}"));
        let input = BufWriter::new(child.stdin.take().unwrap());
        let output = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| send.send(line))
        });
        Reader { name, child, input, lines }
    }

    /// Asks for the requests in these bytes; the answer waits for [`reading`](Self::reading).
    pub fn ask_requests(&mut self, bytes: &[u8]) {
        let line = format!("Q {}\n", hex(bytes));
        self.say(&line);
    }

    /// Asks for the responses, one to a request of each method; `end`: the stream ends after the
    /// bytes.
    pub fn ask_responses(&mut self, methods: &[&str], end: bool, bytes: &[u8]) {
        let line = format!("S {} {} {}\n", methods.join(","), u8::from(end), hex(bytes));
        self.say(&line);
    }

    fn say(&mut self, line: &str) {
        self.input
            .write_all(line.as_bytes())
            .and_then(|()| self.input.flush())
            .unwrap_or_else(|e| panic!("asking {}: {e}", self.name));
    }

    /// The answer to the oldest question.
    #[track_caller]
    pub fn reading(&mut self) -> Reading {
        let mut reading = Reading { messages: Vec::new(), end: End::Clean };
        loop {
            let line = self
                .lines
                .recv_timeout(START)
                .unwrap_or_else(|e| panic!("{} said nothing: {e}", self.name));
            let words: Vec<&str> = line.split(' ').collect();
            let bytes = |i: usize| unhex(words[i]);
            let text = |i: usize| bytes(i).iter().map(|o| char::from(*o)).collect::<String>();
            let number = |i: usize| {
                words[i].parse::<u16>().unwrap_or_else(|_| panic!("{}: {line}", self.name))
            };
            match words[0] {
                "." => return reading,
                "m" => reading.messages.push(Message {
                    method: text(1),
                    target: text(2),
                    minor: number(3) as u8,
                    ..Message::default()
                }),
                "s" => {
                    let message = Message {
                        status: number(1),
                        reason: bytes(2),
                        minor: number(3) as u8,
                        ..Message::default()
                    };
                    reading.messages.push(message);
                }
                "i" => reading.end = End::Within,
                "c" => reading.end = End::Closed,
                "x" => reading.end = End::Refused(line[2..].to_owned()),
                word => {
                    let message = reading
                        .messages
                        .last_mut()
                        .unwrap_or_else(|| panic!("{}: {line} before any head", self.name));
                    match word {
                        "f" => message.fields.push((text(1), bytes(2))),
                        "t" => message.trailers.push((text(1), bytes(2))),
                        "b" => message.body.extend(bytes(1)),
                        "e" => message.whole = true,
                        _ => panic!("{} said {line}", self.name),
                    }
                }
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it only waits for its input
        let _ = self.child.wait();
    }
}

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "-".to_owned();
    }
    let digit = |n: u8| char::from(b"0123456789abcdef"[usize::from(n)]);
    bytes.iter().flat_map(|o| [digit(o >> 4), digit(o & 15)]).collect()
}

fn unhex(word: &str) -> Vec<u8> {
    let digit =
        |d: u8| char::from(d).to_digit(16).unwrap_or_else(|| panic!("no hex: {word}")) as u8;
    if word == "-" {
        Vec::new()
    } else {
        word.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }
}
