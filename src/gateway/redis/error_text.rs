//! The text for a failure of the server: the server, the fault, and the remedy if one is known,
//! without the scripts that were run.

use redis::RedisError;

use crate::setting::{DIRECTORY_PASSWORD, DIRECTORY_USER};

/// Longest answer of a server that is quoted, in characters.
const SAID_MAX: usize = 200;

/// The text for a failure of the server at this place. `is_secure`: the connection uses TLS.
pub(super) fn told(e: &RedisError, at: &str, is_secure: bool) -> String {
    let said = match (e.is_timeout(), e.detail()) {
        (true, _) => "it did not answer in time".to_owned(),
        (_, Some(detail)) => match e.code() {
            Some(code) => format!("{code} {detail}"),
            None => detail.to_owned(),
        },
        _ => e.to_string(),
    };
    format!("Redis at {at}: {}", explained(&said, e.is_connection_dropped(), is_secure))
}

/// The text without the command, which the crate repeats and which may be long, and without the
/// position in the script, which a server adds.
fn explained(said: &str, is_dropped: bool, is_secure: bool) -> String {
    let said = said.split(" script: ").next().unwrap_or_default();
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let said: String = said.trim_end_matches([',', '.']).chars().take(SAID_MAX).collect();
    match remedy(&said, is_dropped, is_secure) {
        Some(remedy) => format!("{remedy} ({said})"),
        None => said,
    }
}

fn remedy(said: &str, is_dropped: bool, is_secure: bool) -> Option<String> {
    let begins = |code: &str| said.starts_with(code);
    let has = |part: &str| said.contains(part);
    Some(match () {
        () if begins("NOAUTH") || has("unauthenticated") => {
            format!("it wants a password; give it ({DIRECTORY_PASSWORD})")
        }
        () if begins("WRONGPASS") || has("authentication failed") => format!(
            "it does not take this user or this password ({DIRECTORY_USER}; {DIRECTORY_PASSWORD})"
        ),
        () if begins("NOPERM") || has("can't run this command") || has("No permissions") => {
            "its user has too few rights; docs/cluster.md lists the commands and keys that it needs"
                .to_owned()
        }
        () if begins("OOM") => {
            "it is full, and takes no claims; raise its maxmemory, or give the directory a server of its own".to_owned()
        }
        () if begins("MISCONF") => {
            "it cannot save to its disk, and takes no claims; see its log".to_owned()
        }
        () if begins("READONLY") => "it is a replica, and takes no claims".to_owned(),
        () if begins("LOADING") => "it still reads its data".to_owned(),
        () if has("DB index is out of range") => {
            "it has no database of the number in the URL; without databases N in its configuration there are 16, from 0 on".to_owned()
        }
        () if begins("MOVED") || begins("CROSSSLOT") || has("cluster mode") => {
            "it is a Redis Cluster, which cannot be the directory".to_owned()
        }
        () if has("unknown command") && has("SENTINEL") => {
            "it is no sentinel; write redis:// in the URL".to_owned()
        }
        // How the crate reports the first byte of HTTP/1.1, and of a TLS alert.
        () if begins("Parse error") && has("`72`") => {
            "what answers there is no Redis: it speaks HTTP".to_owned()
        }
        () if begins("Parse error") && has("`21`") => {
            "it speaks TLS; write rediss:// in the URL".to_owned()
        }
        () if begins("Parse error") => "what answers there is no Redis".to_owned(),
        () if is_secure && (has("corrupt message") || has("in time") || is_closed(said, is_dropped)) => {
            "there was no answer over TLS; does it speak TLS at this port (without: redis://)?"
                .to_owned()
        }
        () if is_closed(said, is_dropped) => {
            "it closed the connection; does it speak TLS at this port (rediss://)?".to_owned()
        }
        () => return None,
    })
}

/// Returns true if the other side accepted the connection and ended it.
fn is_closed(said: &str, is_dropped: bool) -> bool {
    is_dropped && !said.contains("refused") && !said.contains("No such file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_say_is_told_with_a_remedy_and_without_scripts() {
        for (said, remedy) in [
            ("NOAUTH Authentication required.", "--directory-password"),
            ("ERR Protocol error: unauthenticated multibulk length", "--directory-password"),
            ("WRONGPASS invalid username-password pair", "--directory-user"),
            ("NOPERM User a has no permissions to run the 'evalsha' command", "docs/cluster.md"),
            ("OOM command not allowed. script: cc56, on @user_script:27.", "maxmemory"),
            ("MISCONF Redis is configured to save RDB snapshots", "disk"),
            ("READONLY You can't write against a read only replica.", "replica"),
            ("LOADING Redis is loading the dataset in memory", "reads its data"),
            ("ERR DB index is out of range", "no database"),
            ("MOVED 866 127.0.0.1:7001", "Redis Cluster"),
            ("ERR unknown command 'SENTINEL', with args", "redis://"),
            ("Parse error at 1\nUnexpected `84`\nUnexpected `72`\n", "HTTP"),
            ("Parse error at 0\nUnexpected `21`\n", "rediss://"),
            ("Parse error at 0\nUnexpected `0`\n", "no Redis"),
        ] {
            let told = explained(said, false, false);
            assert!(told.contains(remedy), "{said}: {told}");
            assert!(!told.contains("script") && !told.contains('\n'), "{told}");
        }
        let late = "it did not answer in time";
        assert_eq!(explained(late, false, false), late);
        assert!(explained(late, false, true).contains("redis://"));
        assert!(explained("unexpected end of file", true, false).contains("rediss://"));
        let refused = "Connection refused (os error 111)";
        assert_eq!(explained(refused, true, true), refused);
        assert!(explained(&"x".repeat(900), false, false).len() <= SAID_MAX);
    }
}
