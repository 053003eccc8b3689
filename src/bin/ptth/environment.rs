//! Arguments from the environment: an invalid value is reported with its variable, and an unknown
//! variable with the nearest name.

use std::error::Error as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory, FromArgMatches};

use crate::config::Merged;
use crate::files::Reading;
use crate::{Failure, usage};

/// Variables that are read in addition to the arguments.
const OTHERS: [&str; 3] = ["PTTH_ADMIN_TOKEN", "PTTH_TOKEN", "PTTH_VISITOR_TOKEN"];

/// The arguments, completed by the environment, and then by the file of --config. Help and errors
/// in the arguments themselves end the process here.
///
/// # Errors
/// An invalid value in the environment: one line that begins with the variable. An error in the
/// file: one line with its place.
pub(crate) fn parse<C: CommandFactory + FromArgMatches>() -> Result<(C, Merged), Failure> {
    let command = with_hyphens(C::command());
    warn_of_unknown(&command);
    let mut merged = Merged::of(&command, std::env::args_os().collect(), Reading::First)?;
    let parsed = command.clone().try_get_matches_from(&merged.arguments).and_then(|matches| {
        merged.note_given(&matches);
        C::from_arg_matches(&matches)
    });
    let parsed = parsed.map_err(|error| match variable_of(&command, &error) {
        Some(variable) => usage(of_variable(&variable, &error)),
        None => error.exit(),
    })?;
    Ok((parsed, merged))
}

/// Parses again while the command runs, with the current contents of the file.
///
/// # Errors
/// One line: the fault.
pub(crate) fn parse_again<C: CommandFactory + FromArgMatches>() -> Result<(C, Merged), String> {
    let command = with_hyphens(C::command());
    let arguments = std::env::args_os().collect();
    let merged = Merged::of(&command, arguments, Reading::Again).map_err(|e| e.text)?;
    let parsed = command
        .try_get_matches_from(&merged.arguments)
        .and_then(|matches| C::from_arg_matches(&matches));
    let parsed = parsed.map_err(|error| {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        merged.located(usage(line)).text
    })?;
    Ok((parsed, merged))
}

/// A number may begin with `-`: then the error is about the value, and not about an unknown option.
fn with_hyphens(command: Command) -> Command {
    let is_number = |argument: &Arg| {
        let names = argument.get_value_names().unwrap_or_default();
        names.iter().any(|name| NUMBERS.contains(&name.as_str()))
    };
    command.mut_subcommands(|subcommand| {
        subcommand.mut_args(|argument| match is_number(&argument) {
            true => argument.allow_hyphen_values(true),
            false => argument,
        })
    })
}

/// The names of numeric values in help texts.
const NUMBERS: [&str; 5] = ["DURATION", "N", "BYTES", "MIN..MAX", "N|MIN..MAX"];

/// The variable with the invalid value.
fn variable_of(command: &Command, error: &clap::Error) -> Option<String> {
    if !matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation) {
        return None;
    }
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let option = argument.split([' ', '=']).next()?.to_owned();
    let given = |argument: std::ffi::OsString| {
        argument.to_str().is_some_and(|argument| argument.split('=').next() == Some(&option))
    };
    if std::env::args_os().skip(1).any(given) {
        return None;
    }
    let chosen = std::env::args().nth(1)?;
    let variable = command
        .find_subcommand(chosen)?
        .get_arguments()
        .find(|a| a.get_long() == option.strip_prefix("--"))?
        .get_env()?;
    Some(variable.to_str()?.to_owned())
}

/// An error in the environment. Containers often set unused variables to an empty value.
fn of_variable(variable: &str, error: &clap::Error) -> String {
    let reason = reason_of(error);
    match reason.strip_prefix("\"\": ") {
        Some(right) => format!("{variable} in the environment is empty; unset it, or {right}"),
        None => format!("{variable} in the environment: {reason}"),
    }
}

pub(crate) fn reason_of(error: &clap::Error) -> String {
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => value.as_str(),
        _ => "",
    };
    let right = match (error.source(), error.get(ContextKind::ValidValue)) {
        (Some(why), _) => why.to_string(),
        (None, Some(ContextValue::Strings(values))) => format!("write {}", values.join(", ")),
        _ => "it cannot be".to_owned(),
    };
    format!("{value:?}: {right}")
}

/// Logs a line for each unknown variable that looks like one of ours.
fn warn_of_unknown(command: &Command) {
    let commands = std::iter::once(command).chain(command.get_subcommands());
    let arguments = commands
        .flat_map(Command::get_arguments)
        .filter_map(|argument| argument.get_env()?.to_str());
    let known: Vec<&str> = arguments.chain(OTHERS).collect();
    for (name, _) in std::env::vars_os() {
        let Some(name) =
            name.to_str().filter(|name| name.starts_with("PTTH_") && !is_of_kubernetes(name))
        else {
            continue;
        };
        if known.contains(&name) {
            continue;
        }
        let nearest = known.iter().map(|known| (distance(name, known), *known)).min();
        match nearest.filter(|(distance, known)| *distance <= known.len() / 3) {
            Some((_, nearest)) => log::warn!(
                "the environment has {name}, which nothing reads; did you mean {nearest}?"
            ),
            None => log::warn!(
                "the environment has {name}, which nothing reads; ptth gateway --help and ptth device --help name all"
            ),
        }
    }
}

/// Kubernetes sets variables of this form in every container for a service called `ptth` or
/// `ptth-…`.
fn is_of_kubernetes(name: &str) -> bool {
    let is_port = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let behind = |mark: &str| name.split_once(mark).map(|(_, rest)| rest);
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_PORT")
        || name.contains("_SERVICE_PORT")
        || behind("_PORT_").is_some_and(|rest| is_port(rest.split('_').next().unwrap_or_default()))
}

/// The edit distance (Levenshtein).
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let exchanged = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = exchanged.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_levenshteins() {
        for (a, b, n) in [
            ("", "", 0),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("PTTH_TOKENS", "PTTH_TOKEN", 1),
            ("ab", "ba", 2),
        ] {
            assert_eq!((distance(a, b), distance(b, a)), (n, n), "{a} {b}");
        }
    }

    #[test]
    fn what_kubernetes_sets_is_no_mistake() {
        for name in [
            "PTTH_SERVICE_HOST",
            "PTTH_SERVICE_PORT_HTTP",
            "PTTH_PORT",
            "PTTH_GATEWAY_PORT_80_TCP_ADDR",
            "PTTH_PORT_443_TCP",
        ] {
            assert!(is_of_kubernetes(name), "{name}");
        }
        for name in ["PTTH_FORWARED", "PTTH_PORT_NAME", "PTTH_SERVICE"] {
            assert!(!is_of_kubernetes(name), "{name}");
        }
    }
}
