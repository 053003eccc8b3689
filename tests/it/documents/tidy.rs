//! The layers, proved from the sources: `proto/` names no socket, clock or thread; every file says
//! what it is for; a file names only files above it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on has failed

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below a folder of the crate: path from there, text.
fn sources(folder: &str) -> Vec<(String, String)> {
    files_of(folder, "rs")
}

/// The same of files with another extension.
fn files_of(folder: &str, extension: &str) -> Vec<(String, String)> {
    let top = root().join(folder);
    let mut folders = vec![top.clone()];
    let mut files: Vec<PathBuf> = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|of| of == extension) {
                files.push(path);
            }
        }
    }
    files.sort();
    let relative = |path: &Path| path.strip_prefix(&top).unwrap().to_string_lossy().into_owned();
    files.iter().map(|path| (relative(path), fs::read_to_string(path).unwrap())).collect()
}

/// Lines with their number, without comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(i, line)| (i + 1, line.split("//").next().unwrap_or_default()))
}

#[test]
fn proto_names_no_socket_clock_or_thread() {
    const NEVER: [&str; 18] = [
        "std::net",
        "std::io",
        "std::fs",
        "std::env",
        "std::process",
        "std::sync",
        "std::thread",
        "std::os",
        "Instant",
        "SystemTime",
        "mio",
        "socket2",
        "TcpStream",
        "UnixStream",
        "crossbeam",
        "getrandom",
        "httpdate",
        "log::",
    ];
    for (file, text) in sources("src/proto") {
        for (number, line) in code(&text) {
            for never in NEVER {
                assert!(!names(line, never), "src/proto/{file}:{number} names {never}: {line}");
            }
            // `use std::{io, …}` would hide from the above.
            assert!(
                !line.contains("std::{"),
                "src/proto/{file}:{number}: write each use of std on its own line"
            );
        }
    }
}

/// Whether the line has this path or word, not as a part of a longer word.
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let part = |c: char| c.is_alphanumeric() || c == '_';
        !line[..at].ends_with(part)
            && (word.ends_with(':') || !line[at + word.len()..].starts_with(part))
    })
}

#[test]
fn every_file_says_first_what_it_is_for() {
    for folder in ["src", "tests/it", "tests/support/src"] {
        for (file, text) in sources(folder) {
            assert!(text.starts_with("//!"), "{folder}/{file} does not open with //!");
        }
    }
}

/// A file is read from its top to its end.
#[test]
fn no_file_is_above_800_lines() {
    for folder in ["src", "tests"] {
        for (file, text) in sources(folder) {
            let lines = text.lines().count();
            assert!(lines <= 800, "{folder}/{file} has {lines} lines: split it by subject");
        }
    }
}

/// An example is read in one sitting, and shows one thing.
#[test]
fn no_example_has_80_lines() {
    for folder in ["examples", "examples/servers/src/bin"] {
        for (file, text) in sources(folder) {
            let lines = text.lines().count();
            assert!(
                lines < 80,
                "{folder}/{file} has {lines} lines: what does it show beside the one thing?"
            );
        }
    }
}

/// From the top down; a folder stands for its files. What is not here may name anything (it is new:
/// give it a place).
const ORDER: &[&str] = &[
    "limits",
    "error",
    "close_reason",
    "text",
    "setting",
    "logs",
    "calendar",
    "http_date",
    "subscription",
    "cancel",
    "clock",
    "proto",
    "tls",
    "stream",
    "body",
    "message",
    "link",
    "upgraded",
    "engine",
    "observe",
    "relay",
    "gateway",
    "admin",
    "device",
    "testing",
];

/// Place of a path like `proto/head` or `engine/connections`, or of a file without its `.rs`.
fn place(path: &str) -> Option<usize> {
    ORDER.iter().position(|above| {
        path == *above || path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
    })
}

#[test]
fn a_file_names_only_files_above_it() {
    for (file, text) in sources("src") {
        let module = file.trim_end_matches(".rs").trim_end_matches("/mod");
        let Some(own) = place(module) else { continue };
        for (number, line) in code(&text) {
            assert!(
                !line.contains("crate::{"),
                "src/{file}:{number}: write each use of crate on its own line, so that it can be read here"
            );
            for (at, _) in line.match_indices("crate::") {
                let path = &line[at + "crate::".len()..];
                let end = path
                    .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
                    .unwrap_or(path.len());
                let path = path[..end].replace("::", "/");
                let Some(named) = place(&path) else { continue };
                // limits and error are one layer: a bound that cannot work is an error, and errors
                // are bounded.
                let allowed = named <= own || (own < 2 && named < 2);
                assert!(
                    allowed,
                    "src/{file}:{number} names {path}, which stands below it: {}",
                    line.trim()
                );
            }
        }
    }
}

/// Folders whose `mod.rs` lists their files from the top down, one in each row of a table.
const FOLDERS: [&str; 10] =
    ["proto", "tls", "stream", "link", "engine", "observe", "relay", "gateway", "admin", "device"];

/// The files of a folder as its `mod.rs` orders them, without `.rs`.
fn listed(mod_rs: &str) -> Vec<&str> {
    let rows = mod_rs
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `").or_else(|| line.strip_prefix("// | `")));
    rows.filter_map(|row| row.split_once(".rs`").map(|(file, _)| file)).collect()
}

#[test]
fn in_a_folder_a_file_names_only_files_above_it() {
    for folder in FOLDERS {
        // Tests stand outside of the order; `mod.rs` has only names for others.
        let sources = sources(&format!("src/{folder}"));
        let mod_rs = &sources.iter().find(|(file, _)| file == "mod.rs").expect("a mod.rs").1;
        let order = listed(mod_rs);
        // A row may be a file of a folder in the folder (`polls/reply.rs`).
        let place = |path: &str| {
            let path = path.trim_end_matches(".rs").replace("::", "/");
            order.iter().position(|listed| {
                path.strip_prefix(listed)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
        };
        let is_ordered = |file: &str| {
            file != "simulated.rs"
                && !file.ends_with("mod.rs")
                && !file.starts_with("tests/")
                && !format!("/{file}").ends_with("/tests.rs")
        };
        for (file, text) in sources.iter().filter(|(file, _)| is_ordered(file)) {
            let own = place(file)
                .unwrap_or_else(|| panic!("src/{folder}/{file} is not listed in its mod.rs"));
            let own_tests = |line: &str| line == "    use super::*;";
            for (number, line) in code(text).filter(|(_, line)| !own_tests(line)) {
                let at = format!("src/{folder}/{file}:{number}: {}", line.trim());
                let prefixes = [format!("crate::{folder}::"), "super::".into()];
                for path in prefixes.iter().flat_map(|prefix| line.split(prefix).skip(1)) {
                    let named = path.split([';', ' ', '(', ',', ')', '<', '{']).next();
                    match named.and_then(place) {
                        Some(named) => assert!(named <= own, "{at} names a file below it"),
                        None => panic!("{at} does not name the file that has it"),
                    }
                }
                assert!(
                    !line.contains("super::{") && !line.contains(&format!("crate::{folder}::{{")),
                    "{at} names several files at once: write each use on its own line"
                );
            }
        }
        for file in &order {
            let is_there = sources.iter().any(|(path, _)| {
                path.starts_with(file) && path[file.len()..].starts_with(['.', '/'])
            });
            assert!(is_there, "src/{folder}/mod.rs lists {file}.rs, which is not there");
        }
    }
}

/// Readers of docs.rs do not want to know which file names which.
#[test]
fn the_order_of_files_is_not_in_the_documentation_of_a_public_module() {
    for folder in ["proto", "tls", "stream", "link", "gateway", "admin", "device"] {
        let mod_rs = fs::read_to_string(root().join(format!("src/{folder}/mod.rs"))).unwrap();
        assert!(
            !mod_rs.contains("//! | `"),
            "src/{folder}/mod.rs: the order of files belongs into comments (//)"
        );
    }
}

/// The types whose methods are spread over a folder's files: to call one is to name its file.
const SPREAD: [(&str, &str); 3] =
    [("relay", "Exchange"), ("gateway", "GatewayRole"), ("device", "DeviceRole")];

/// The `impl` blocks of a type in a file: what is in them.
fn impls<'t>(text: &'t str, of: &str) -> Vec<&'t str> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("\nimpl").map(|(at, head)| (at + 1, head)) {
        let block = &text[at..];
        let (head, rest) = block.split_once(" {\n").unwrap_or((block, ""));
        let whose = head.rsplit(' ').next().unwrap_or_default();
        if whose.split('<').next() == Some(of) && !head.contains('\n') {
            found.push(rest.split_once("\n}").map_or(rest, |(inside, _)| inside));
        }
    }
    found
}

/// The names after each `prefix`, up to a bracket.
fn called<'t>(text: &'t str, prefix: &str) -> Vec<&'t str> {
    let name = |rest: &'t str| {
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_'))?;
        rest[end..].starts_with('(').then_some(&rest[..end])
    };
    text.split(prefix).skip(1).filter_map(name).collect()
}

/// A file of a folder, its `impl` blocks of the folder's type, without comments and line breaks.
fn spread(folder: &str, of: &str) -> Vec<(String, String)> {
    let without_tests = |text: &str| match text.split_once("\n#[cfg(test)]\nmod tests") {
        Some((text, _)) => text.to_owned(),
        None => text.to_owned(),
    };
    sources(&format!("src/{folder}"))
        .into_iter()
        .filter(|(file, _)| !file.contains("tests") && file != "simulated.rs")
        .map(|(file, text)| {
            let lines: Vec<&str> = code(&text).map(|(_, line)| line).collect();
            let blocks = impls(&without_tests(&lines.join("\n")), of).join("\n");
            (file.trim_end_matches(".rs").to_owned(), blocks)
        })
        .filter(|(_, blocks)| !blocks.is_empty())
        .collect()
}

#[test]
fn a_method_calls_only_methods_of_files_above_it() {
    for (folder, of) in SPREAD {
        let mod_rs = fs::read_to_string(root().join(format!("src/{folder}/mod.rs"))).unwrap();
        let order = listed(&mod_rs);
        let place = |file: &str| order.iter().position(|listed| *listed == file);
        let files = spread(folder, of);
        assert!(files.len() > 2, "src/{folder} has no files with methods of {of}");
        let has = |method: &str| {
            let head = format!("fn {method}");
            let defines = |blocks: &str| {
                blocks
                    .match_indices(&head)
                    .any(|(at, _)| blocks[at + head.len()..].starts_with(['(', '<']))
            };
            files.iter().find(|(_, blocks)| defines(blocks)).map(|(file, _)| file.as_str())
        };
        for (file, blocks) in &files {
            // A call may stand on a line of its own.
            let joined: String =
                blocks.split_whitespace().collect::<Vec<_>>().join(" ").replace(" .", ".");
            for prefix in ["self.", "role.", "Self::", &format!("{of}::")] {
                for method in called(&joined, prefix) {
                    let Some(owner) = has(method).filter(|owner| owner != file) else { continue };
                    assert!(
                        place(owner) <= place(file),
                        "src/{folder}/{file}.rs calls {method}() of {owner}.rs, which stands below it"
                    );
                }
            }
        }
    }
}

#[test]
fn methods_and_calls_are_found() {
    let text = "use x;\nimpl Role {\n    fn a(&self) {\n        self.b(c.d());\n    }\n}\n\nimpl X for Role {\n    fn b() {}\n}\nimpl Other {\n    fn c() {}\n}\n";
    let found = impls(text, "Role");
    assert_eq!(found.len(), 2);
    assert!(found[0].contains("fn a") && found[1].contains("fn b"));
    assert_eq!(called("self.b(c), self.d, self.e()", "self."), ["b", "e"]);
}

#[test]
fn the_order_is_the_one_that_is_meant() {
    assert!(
        place("limits") < place("proto/head")
            && place("proto/forward") < place("stream/socket")
            && place("engine/connections") < place("relay")
    );
    assert_eq!(
        (place("proto/head/Part"), place("lib"), place("capi")),
        (place("proto"), None, None)
    );
    assert!(
        names("use std::net::IpAddr;", "std::net") && !names("use core::net::IpAddr;", "std::net")
    );
    assert_eq!(listed("//! | `a.rs` | b |\n//! | file |\n// | `c.rs` | d |\nuse a;"), ["a", "c"]);
    assert!(names("mio::Poll", "mio") && !names("premiom", "mio") && !names("an_mio", "mio"));
}

/// Words for which the project has another one, and that one.
const UNUSED: [(&str, &str); 19] = [
    ("octet", "byte"),
    ("octets", "bytes"),
    ("roster", "registry"),
    ("farewell", "goaway"),
    ("loan", "lease"),
    ("lent", "leased"),
    ("True:", "Returns true if"),
    ("False:", "Returns false if"),
    ("Ticket", "an identifier, or a guard"),
    ("Holder", "owner"),
    ("Patience", "timeout"),
    ("Place", "permit, scope, endpoint"),
    ("Places", "permits"),
    ("Knock", "offer"),
    ("Pen", "writer"),
    ("Fate", "what follows"),
    ("Said", "claims"),
    ("Telling", "event"),
    ("Posting", "a POST"),
];

#[test]
fn one_thing_has_one_word() {
    let pages =
        files_of("docs", "md").into_iter().map(|(file, text)| (format!("docs/{file}"), text));
    let code = sources("src").into_iter().map(|(file, text)| (format!("src/{file}"), text));
    let top = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"]
        .map(|page| (page.to_owned(), fs::read_to_string(root().join(page)).unwrap()));
    for (file, text) in code.chain(pages).chain(top) {
        for (number, line) in text.lines().enumerate() {
            let line = line.replace("octet-stream", "").replace(".octets()", "");
            for (unused, word) in UNUSED {
                let number = number + 1;
                assert!(!names(&line, unused), "{file}:{number} says {unused}, not {word}: {line}");
            }
        }
    }
}

/// Some processors have no 64-bit atomics, so the library has its own, and the command none.
#[test]
fn a_64_bit_atomic_is_that_of_atomic_rs() {
    for (file, text) in sources("src").into_iter().filter(|(file, _)| file != "atomic.rs") {
        let names = |word| code(&text).any(|(_, line)| line.contains(word));
        assert!(!names("AtomicI64"), "src/{file}: not every processor has an AtomicI64");
        assert!(
            !names("AtomicU64") || names("use crate::atomic::AtomicU64;"),
            "src/{file}: use crate::atomic::AtomicU64"
        );
    }
}

/// T47: what a request means is decided about a `FramedRequest` alone, so that nobody forgets its
/// body.
#[test]
fn framing_is_decided_in_one_place() {
    for (file, text) in sources("src") {
        if file.starts_with("proto/") || file.starts_with("sim/") {
            continue;
        }
        for (number, line) in code(&text) {
            assert!(
                !line.contains("of_request("),
                "src/{file}:{number}: decide a request's framing with FramedRequest::of"
            );
        }
    }
}
