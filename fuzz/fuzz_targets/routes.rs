//! The file of routes: a mistake is one line that names a line of the file, and comments and blank
//! lines change nothing.
#![no_main]

#[allow(dead_code)] // the command reads its options there, too
#[path = "../../src/bin/ptth/config.rs"]
mod config;
#[allow(dead_code)] // what reads options from the environment
#[path = "../../src/bin/ptth/environment.rs"]
mod environment;
#[allow(dead_code)] // what opens them
#[path = "../../src/bin/ptth/files.rs"]
mod files;

use config::File;
use libfuzzer_sys::fuzz_target;
use reverse_http::Routes;

/// As the command has it.
#[allow(dead_code)] // nothing fails here but with a text
struct Failure {
    text: String,
    code: u8,
}

fn usage(text: impl Into<String>) -> Failure {
    Failure { text: text.into(), code: 2 }
}

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let read = |text: &str| {
        File::of_text("routes.toml".to_owned(), text.to_owned())
            .routes(Routes::path(), true)
            .map(|routes| (routes.table_len(), format!("{routes:?}")))
    };
    let routes = read(text);
    match &routes {
        Ok((len, _)) => {
            assert!(toml::de::DeTable::parse(text).is_ok(), "what is taken is TOML");
            assert!(*len <= text.matches("route").count());
        }
        Err(mistake) => {
            let place =
                mistake.strip_prefix("routes.toml, line ").and_then(|rest| rest.split_once(": "));
            let line: usize = place
                .filter(|(_, what)| !what.is_empty())
                .and_then(|(place, _)| place.split(',').next()?.parse().ok())
                .expect(mistake);
            assert!((1..=1 + text.matches('\n').count()).contains(&line), "{mistake}");
            assert!(!mistake.contains(['\r', '\x1b', '\0']), "a mistake fits a log: {mistake:?}");
        }
    }
    if let Ok(routes) = routes {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text); // a mark of UTF-8 stands at the start or nowhere
        assert_eq!(
            read(&format!("# routes\n\n{text}\n# end\n")),
            Ok(routes),
            "comments change nothing"
        );
    }
});
