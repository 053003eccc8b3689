//! The documents hold together: every section that is cited exists, every link between files leads
//! somewhere, and the pages that have a bound on their length keep it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[cfg(feature = "cli")]
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
#[cfg(feature = "cli")]
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files with one of these endings, in these folders (and below) or at the root itself.
fn files(folders: &[&str], endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    let is_wanted = |path: &Path| {
        path.extension().is_some_and(|ending| endings.iter().any(|wanted| ending == *wanted))
    };
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("tests/peers") && !path.ends_with("target") {
                open.push(path);
            } else if is_wanted(&path) {
                found.push(path);
            }
        }
    }
    let top = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    found.extend(top.filter(|path| path.is_file() && is_wanted(path)));
    found.sort();
    found
}

/// The text without comment markers and line ends, so that a citation may be wrapped.
fn flat(text: &str) -> String {
    let bare = text.lines().map(|line| {
        let line = line.trim_start();
        ["//!", "///", "//"]
            .iter()
            .find_map(|marker| line.strip_prefix(marker))
            .unwrap_or(line)
            .trim()
    });
    bare.collect::<Vec<_>>().join(" ")
}

/// The number at the beginning of a text: `1`, `1.6`, not the full stop after it.
fn number(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text[..end].trim_end_matches('.')
}

/// Each `NAME.md §N`, and the sections that are listed after it (`§1.2, §1.3 and §2`).
fn citations(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(".md") {
        let begin = text[..at]
            .rfind(|c: char| !(c.is_ascii_alphanumeric() || "-_./".contains(c)))
            .map_or(0, |before| before + text[before..].chars().next().unwrap().len_utf8());
        let (name, behind) = (&text[begin..at + 3], &text[at + 3..]);
        if !behind.trim_start_matches(['`', ')', ' ', ',']).starts_with('§') {
            continue;
        }
        let end = ["RFC", ".md", ". ", ";"].iter().filter_map(|stop| behind.find(stop)).min();
        let list = &behind[..end.unwrap_or(behind.len())];
        for section in list.split('§').skip(1).map(number).filter(|section| !section.is_empty()) {
            found.push((name.to_owned(), section.to_owned()));
        }
    }
    found
}

/// Sections of a page: `## 1.`, `### 1.6 Demand`, and rows of tables that begin with a number.
fn sections(page: &str) -> Vec<&str> {
    let headed = page.lines().filter_map(|line| {
        line.strip_prefix('#').map(|rest| rest.trim_start_matches('#')).or(line.strip_prefix('|'))
    });
    headed.map(|rest| number(rest.trim_start())).filter(|number| !number.is_empty()).collect()
}

fn page(name: &str) -> Option<String> {
    let file = name.rsplit('/').next()?;
    ["docs", "."].iter().find_map(|folder| fs::read_to_string(root().join(folder).join(file)).ok())
}

#[test]
fn every_cited_section_exists() {
    let mut seen = 0;
    for file in
        files(&["src", "tests", "docs", "benches", "examples", "fuzz/fuzz_targets"], &["rs", "md"])
    {
        if file.ends_with(file!()) {
            continue; // its own examples
        }
        for (name, section) in citations(&flat(&fs::read_to_string(&file).unwrap())) {
            let page =
                page(&name).unwrap_or_else(|| panic!("{}: there is no {name}", file.display()));
            assert!(
                sections(&page).contains(&section.as_str()),
                "{}: {name} has no section {section}",
                file.display()
            );
            seen += 1;
        }
    }
    assert!(seen >= 30, "only {seen} citations were found");
}

/// What docs/protocol.md says of itself: a § without a document before it.
#[test]
fn the_protocols_own_references_exist() {
    let text = page("protocol.md").unwrap();
    let sections = sections(&text);
    for (at, _) in text.match_indices('§') {
        let before = text[..at].trim_end();
        let is_elsewhere = before.ends_with(|c: char| c.is_ascii_digit()) && {
            let word = before.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end();
            word.ends_with("RFC")
        };
        let section = number(&text[at + '§'.len_utf8()..]);
        let is_example = before.ends_with(".md"); // in its first lines
        assert!(is_elsewhere || is_example || sections.contains(&section), "§{section}");
    }
}

/// As GitHub makes the anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn every_link_between_files_leads_somewhere() {
    for file in files(&["docs", "src"], &["md"]) {
        let text = fs::read_to_string(&file).unwrap();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap();
            if target.contains("://") || target.contains("::") || target.starts_with("crate") {
                continue;
            }
            let (path, fragment) = target.split_once('#').unwrap_or((target, ""));
            let there = match path {
                "" => file.clone(),
                path => file.parent().unwrap().join(path),
            };
            assert!(there.exists(), "{}: {target} leads nowhere", file.display());
            if !fragment.is_empty() {
                let text = fs::read_to_string(&there).unwrap();
                let found = text.lines().filter(|line| line.starts_with('#'));
                assert!(
                    found.map(|line| anchor(line.trim_start_matches('#'))).any(|a| a == fragment),
                    "{}: {target} names no heading",
                    file.display()
                );
            }
        }
    }
}

/// A README is read to its end, and a map looked at, as long as they are short.
#[test]
fn the_first_pages_stay_short() {
    for (name, words_max) in [("README.md", 700), ("ARCHITECTURE.md", 1_500)] {
        let words = page(name).unwrap().split_whitespace().count();
        assert!(words <= words_max, "{name} has {words} words");
    }
}

/// Options in the pages that are other programs'.
#[cfg(feature = "cli")]
const FOREIGN: [&str; 41] = [
    // cargo and its tools
    "bin",
    "no-default-features",
    "profile",
    "all",
    "all-features",
    "all-targets",
    "bench",
    "branch",
    "check",
    "doc",
    "features",
    "html",
    "lib",
    "locked",
    "open",
    "path",
    "release",
    "shard",
    "sharding",
    "test",
    "timeout",
    "workspace",
    // .ci/flaky
    "changed",
    "load",
    "loads",
    // certbot, lego
    "domains",
    "email",
    "http",
    "renew-hook",
    "run-hook",
    "standalone",
    // systemctl, systemd-tmpfiles, podman, and cargo again
    "create",
    "format",
    "network",
    "no-healthcheck",
    "now",
    "read-only",
    "stop-timeout",
    "target",
    // pkg-config
    "cflags",
    "libs",
];

#[cfg(feature = "cli")]
#[test]
fn every_option_in_a_document_is_one_of_the_command() {
    let mut known: BTreeSet<String> = FOREIGN.iter().map(|option| (*option).to_owned()).collect();
    for command in [
        "gateway", "device", "token", "check", "cluster", "call", "man", "status", "health", "demo",
    ] {
        let help = Command::new(env!("CARGO_BIN_EXE_ptth")).args([command, "--help"]).output();
        known.extend(options(&String::from_utf8(help.unwrap().stdout).unwrap()));
    }
    for file in files(&["docs", "src"], &["md"]) {
        if file.ends_with("CHANGELOG.md") {
            continue; // it names what was
        }
        for option in options(&fs::read_to_string(&file).unwrap()) {
            assert!(known.contains(&option), "{}: there is no --{option}", file.display());
        }
    }
}

/// Names after two hyphens that begin a word.
#[cfg(feature = "cli")]
fn options(text: &str) -> Vec<String> {
    let begins = |at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '-');
    let name = |at: usize| {
        let rest = &text[at + 2..];
        &rest[..rest.find(|c: char| !(c.is_ascii_lowercase() || c == '-')).unwrap_or(rest.len())]
    };
    let found = text.match_indices("--").filter(|(at, _)| begins(*at)).map(|(at, _)| name(at));
    found
        .filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
        .map(|name| name.trim_end_matches('-').to_owned())
        .collect()
}

/// Messages of the library name a setting by names that exist, all from one file.
#[cfg(feature = "cli")]
#[test]
fn settings_in_messages_are_there() {
    let known: BTreeSet<String> = ["gateway", "device"]
        .iter()
        .flat_map(|command| {
            let help = Command::new(env!("CARGO_BIN_EXE_ptth")).args([command, "--help"]).output();
            options(&String::from_utf8(help.unwrap().stdout).unwrap())
        })
        .collect();
    let sources: Vec<(PathBuf, String)> = files(&["src"], &["rs"])
        .into_iter()
        .map(|file| (file.clone(), fs::read_to_string(file).unwrap()))
        .collect();
    let table = root().join("src/setting.rs");
    let text = fs::read_to_string(&table).unwrap();
    for setting in text.split('"').skip(1).step_by(2).filter(|text| text.contains("::")) {
        let method = setting.split([',', ' ']).next().unwrap();
        let (_, name) = method.split_once("::").unwrap();
        let declared = format!("pub fn {name}");
        assert!(sources.iter().any(|(_, text)| text.contains(&declared)), "{method}");
        let named = options(setting);
        assert!(
            !named.is_empty() && named.iter().all(|option| known.contains(option)),
            "{setting}"
        );
    }
    for (file, text) in &sources {
        if *file == table || file.starts_with(root().join("src/bin")) {
            continue;
        }
        let tests = text.find("#[cfg(test)]").unwrap_or(text.len());
        for line in text[..tests].lines().map(str::trim).filter(|line| !line.starts_with("//")) {
            assert!(options(line).is_empty(), "{}: {line}", file.display());
        }
    }
}

/// Every feature and command is in the list of all.
#[cfg(feature = "cli")]
#[test]
fn every_feature_and_every_command_is_listed() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let features = manifest.split_once("\n[features]\n").unwrap().1;
    let features = features.split("\n[").next().unwrap().lines().filter_map(|line| {
        line.split_once(" = ").map(|(name, _)| name).filter(|name| !name.starts_with('#'))
    });
    let readme = page("README.md").unwrap();
    let listed = readme.lines().find(|line| line.starts_with("Features: ")).unwrap();
    let forgotten: Vec<&str> = features
        .filter(|name| *name != "default" && !listed.contains(&format!("`{name}`")))
        .collect();
    assert!(forgotten.is_empty(), "README.md lists no feature {forgotten:?}");
    let help = Command::new(env!("CARGO_BIN_EXE_ptth")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let commands = help.split_once("Commands:\n").unwrap().1.lines();
    let commands = commands.take_while(|line| !line.is_empty());
    let commands = commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let table = page("command-line.md").unwrap();
    let told = |command: &&str| *command != "help" && !command.is_empty();
    let commands: Vec<&str> = commands.filter(told).collect();
    assert!(commands.len() > 9, "{commands:?}");
    for command in commands {
        assert!(table.contains(&format!("`ptth {command}")), "docs/command-line.md: {command}");
    }
}

/// A program that gets an error finds what to do about it.
#[test]
fn every_predicate_of_errors_is_explained() {
    let page = page("in-a-program.md").unwrap();
    let source = fs::read_to_string(root().join("src/error.rs")).unwrap();
    for predicate in source.split("pub fn is_").skip(1) {
        let name = format!("is_{}", predicate.split('(').next().unwrap());
        assert!(page.contains(&format!("| `{name}` |")), "docs/in-a-program.md: {name}");
    }
}

/// An operator who reads a limit's name in a message finds its option, or that there is none.
#[test]
fn every_limit_is_in_the_table_of_options() {
    let page = page("command-line.md").unwrap();
    let shown = format!("{:?}", reverse_http::Limits::default());
    let inner = shown.strip_prefix("Limits { ").unwrap().strip_suffix(" }").unwrap();
    for field in inner.split(", ") {
        let name = field.split(':').next().unwrap();
        assert!(page.contains(&format!("`{name}`")), "docs/command-line.md does not tell {name}");
    }
}

#[test]
fn citations_are_found_wherever_they_are_wrapped() {
    let text = "//! The rules of protocol.md\n//! §1.2 (*who*), §1.5 and §2.1. See RFC 9112 §3, `docs/x.md` §4";
    let found = citations(&flat(text));
    let expected = [
        ("protocol.md", "1.2"),
        ("protocol.md", "1.5"),
        ("protocol.md", "2.1"),
        ("docs/x.md", "4"),
    ];
    assert_eq!(found, expected.map(|(name, section)| (name.to_owned(), section.to_owned())));
    assert_eq!(sections("# A\n## 1. The turn\n### 1.6 Demand\n| 7 | x |\n"), ["1", "1.6", "7"]);
    assert_eq!(anchor(" What is taken, and what is not"), "what-is-taken-and-what-is-not");
}
