//! The file of tokens: a mistake is one line that names a line of the file and shows nothing of a
//! digest; comments and blank lines change nothing; a table permits only names that stand in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reverse_http::Tokens;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match Tokens::parse(text) {
        Ok(tokens) => {
            assert!(tokens.len() <= text.lines().count());
            let again = Tokens::parse(&format!(
                "# tokens\n\n{}\n# end\n",
                text.strip_prefix('\u{feff}').unwrap_or(text)
            ));
            assert_eq!(
                again.map(|again| again.len()).map_err(|e| e.to_string()),
                Ok(tokens.len()),
                "comments change nothing"
            );
            // Nobody knows the token behind a random digest, so whatever is shown is not one of
            // them.
            for shown in ["", "token", text] {
                assert!(!tokens.permits(shown, "lamp"));
            }
        }
        Err(mistake) => {
            let mistake = mistake.to_string();
            assert!(mistake.contains("line "), "{mistake}");
            assert!(!mistake.chars().any(char::is_control), "a mistake fits a log: {mistake:?}");
            let first =
                text.lines().filter_map(|line| line.split('#').next()?.split_whitespace().next());
            let mut digests = first.filter(|word| {
                word.len() >= 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
            });
            // One that stands in a name, too, may be told with it, as names are told: escaped.
            let escaped = format!("{text:?}");
            let is_alone = |digest: &str| escaped.matches(digest).count() == 1;
            assert!(
                digests.all(|digest| !is_alone(digest) || !mistake.contains(digest)),
                "{mistake}"
            );
        }
    }
});
