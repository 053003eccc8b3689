//! The tables `[gateway]` and `[device]` of a file of `--config`: every option of the command line,
//! by its name. They are validated by the command line's own rules, and put before the typed
//! arguments. The command line and the environment take precedence.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::ops::Range;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};
use toml::de::{DeTable, DeValue};

use super::{File, in_order, unknown};
use crate::environment::reason_of;
use crate::files::Reading;
use crate::{Failure, usage};

/// The tables, and the subcommands whose options they have.
pub(super) const TABLES: [&str; 2] = ["gateway", "device"];

/// Options about the use of the file itself.
const NOT_IN_FILES: [&str; 4] = ["config", "check", "help", "version"];

/// The arguments, with those of the file before the typed ones.
pub(crate) struct Merged {
    pub(crate) arguments: Vec<OsString>,
    /// The file of `--config`.
    pub(crate) file: Option<File>,
    /// The place in the file of each option that was taken from it.
    places: HashMap<String, String>,
    /// The value of each of these options, by its name.
    pub(crate) said: BTreeMap<String, String>,
    /// The options that were given anywhere and are not just defaults.
    given: BTreeSet<String>,
}

impl Merged {
    /// Reads the file that the command line or the environment names, if they name one.
    ///
    /// # Errors
    /// A mistake in the file, with its line and column.
    pub(crate) fn of(
        command: &Command,
        typed: Vec<OsString>,
        reading: Reading,
    ) -> Result<Self, Failure> {
        let plain = |arguments| Merged {
            arguments,
            file: None,
            places: HashMap::new(),
            said: BTreeMap::new(),
            given: BTreeSet::new(),
        };
        // Errors in the arguments themselves are reported by the final parse.
        let Ok(matches) = without_demands(command).try_get_matches_from(&typed) else {
            return Ok(plain(typed));
        };
        let Some((name, given)) = matches.subcommand() else { return Ok(plain(typed)) };
        let Some(table) = table_of(name) else { return Ok(plain(typed)) };
        let Some(path) = given.get_one::<PathBuf>("config") else { return Ok(plain(typed)) };
        let told = |what| usage(format!("--config {what}"));
        let file = File::read(path, reading).map_err(told)?;
        let settings = settings_of(&file, command).map_err(told)?;
        let Some(subcommand) = command.find_subcommand(name) else { return Ok(plain(typed)) };
        let (mut own, mut places, mut said) = (Vec::new(), HashMap::new(), BTreeMap::new());
        for setting in settings.iter().filter(|setting| setting.table == table) {
            if table != name && !has(subcommand, &setting.id) {
                continue; // options of the gateway that do not apply here
            }
            if !is_given(subcommand, given, &setting.id) {
                own.extend(setting.arguments.iter().map(OsString::from));
                places.insert(format!("--{}", setting.id), file.place(&setting.at));
                said.insert(setting.id.clone(), setting.arguments.join(" "));
            }
        }
        // After `ptth gateway`, before all other arguments.
        let (head, rest) = typed.split_at(2.min(typed.len()));
        let arguments = head.iter().cloned().chain(own).chain(rest.iter().cloned()).collect();
        Ok(Merged { arguments, file: Some(file), places, said, given: BTreeSet::new() })
    }

    /// Records which options are given, after all are read.
    pub(crate) fn note_given(&mut self, all: &ArgMatches) {
        let Some((_, given)) = all.subcommand() else { return };
        let is_said = |id: &&str| {
            given.value_source(id).is_some_and(|from| from != ValueSource::DefaultValue)
        };
        let ids: Vec<&str> = given.ids().map(clap::Id::as_str).collect();
        self.given = ids.into_iter().filter(is_said).map(|id| id.replace('_', "-")).collect();
    }

    /// Returns true if an option, without its dashes, was given.
    pub(crate) fn is_given(&self, option: &str) -> bool {
        self.given.contains(option)
    }

    /// Adds the place to an error that names an option of the file.
    pub(crate) fn located(&self, failure: Failure) -> Failure {
        let named = |(option, place): (&String, &String)| {
            let at = failure.text.find(option.as_str())?;
            let behind = failure.text[at + option.len()..].chars().next();
            let whole = behind.is_none_or(|c| !(c.is_ascii_alphanumeric() || c == '-'));
            whole.then(|| (at, format!("{place} ({option})")))
        };
        match self.places.iter().filter_map(named).min() {
            Some((_, place)) if failure.code == 2 => {
                usage(format!("{}; {option_is}{place}", failure.text, option_is = "see "))
            }
            _ => failure,
        }
    }
}

/// The table in which a subcommand finds its options.
fn table_of(subcommand: &str) -> Option<&'static str> {
    match subcommand {
        "cluster" => Some("gateway"),
        name => TABLES.into_iter().find(|table| *table == name),
    }
}

fn has(subcommand: &Command, id: &str) -> bool {
    subcommand.get_arguments().any(|argument| name_of(argument) == id)
}

/// One option of a table.
#[derive(Clone, Debug)]
struct Setting {
    /// `gateway` or `device`.
    table: &'static str,
    /// Its name without dashes in front.
    id: String,
    /// As it would be typed.
    arguments: Vec<String>,
    at: Range<usize>,
}

/// The command without required options, because the file may contain them.
fn without_demands(command: &Command) -> Command {
    // A build with only `device` has one of them.
    let tables = TABLES.iter().filter(|name| command.find_subcommand(name).is_some());
    tables.fold(command.clone(), |command, name| {
        command.mut_subcommand(name, |subcommand| {
            let groups: Vec<String> =
                subcommand.get_groups().map(|group| group.get_id().to_string()).collect();
            let subcommand = subcommand.mut_args(|argument| argument.required(false));
            groups.into_iter().fold(subcommand, |subcommand, group| {
                subcommand.mut_group(group, |group| group.required(false))
            })
        })
    })
}

/// Returns true if the command line or the environment has this option, or one that excludes it.
fn is_given(subcommand: &Command, given: &ArgMatches, id: &str) -> bool {
    let is_here = |id: &str| {
        matches!(given.value_source(id), Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    };
    let key = id.replace('-', "_");
    is_here(&key) || rivals(subcommand, &key).iter().any(|rival| is_here(rival))
}

/// The options that cannot be given together with this one.
fn rivals(subcommand: &Command, key: &str) -> Vec<String> {
    let excludes = |group: &&ArgGroup| {
        !(*group).clone().is_multiple() && group.get_args().any(|member| member.as_str() == key)
    };
    let groups = subcommand.get_groups().filter(excludes);
    let members = groups.flat_map(ArgGroup::get_args).map(ToString::to_string);
    members.filter(|member| member != key).collect()
}

/// Every option of both tables, each with a value that its option takes.
///
/// # Errors
/// The first mistake, with its line and column.
fn settings_of(file: &File, command: &Command) -> Result<Vec<Setting>, String> {
    let mut settings: Vec<Setting> = Vec::new();
    let whole = file.table()?;
    for (key, value) in in_order(whole.get_ref()) {
        let Some(table) = TABLES.into_iter().find(|table| key.get_ref() == table) else {
            continue; // the routes, or an error that is reported when they are read
        };
        let Some(entries) = value.get_ref().as_table() else {
            return Err(file.mistake(key.span(), format_args!("write [{table}], a table")));
        };
        if let Some(subcommand) = command.find_subcommand(table) {
            read_table(file, (table, subcommand), entries, &mut settings)?;
        }
    }
    Ok(settings)
}

fn read_table(
    file: &File,
    (table, subcommand): (&'static str, &Command),
    entries: &DeTable<'_>,
    settings: &mut Vec<Setting>,
) -> Result<(), String> {
    let begin = settings.len();
    for (key, value) in in_order(entries) {
        let id = key.get_ref().replace('_', "-");
        let at = key.span();
        let found = subcommand.get_arguments().find(|argument| name_of(argument) == id);
        let Some(argument) = found.filter(|_| !NOT_IN_FILES.contains(&id.as_str())) else {
            let names = subcommand.get_arguments().map(name_of);
            let names = names.filter(|name| !NOT_IN_FILES.contains(&name.as_str()));
            let names: Vec<String> = names.map(|name| name.replace('-', "_")).collect();
            let what = unknown(&format!("[{table}]"), key.get_ref(), &names);
            return Err(file.mistake(at, what));
        };
        let others = settings[begin..].iter().map(|setting| setting.id.as_str());
        let rivals = rivals(subcommand, &id.replace('-', "_"));
        if let Some(other) = others
            .into_iter()
            .find(|other| *other == id || rivals.contains(&other.replace('-', "_")))
        {
            let what = match other == id {
                true => format!("{id} occurs a second time"),
                false => format!("{id} and {other} exclude each other"),
            };
            return Err(file.mistake(at, what));
        }
        let arguments = arguments_of(argument, value.get_ref()).map_err(|what| {
            file.mistake(value.span(), format_args!("{}: {what}", key.get_ref()))
        })?;
        settings.push(Setting { table, id, arguments, at });
    }
    Ok(())
}

/// The option without its dashes; for a positional argument, its name.
fn name_of(argument: &Arg) -> String {
    argument.get_long().map_or_else(|| argument.get_id().to_string(), str::to_owned)
}

/// The arguments for this value.
fn arguments_of(argument: &Arg, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    if matches!(argument.get_action(), ArgAction::SetTrue) {
        return match value.as_bool() {
            Some(true) => Ok(vec![format!("--{}", name_of(argument))]),
            Some(false) => Ok(Vec::new()),
            None => Err("write true or false".to_owned()),
        };
    }
    let written = match value {
        DeValue::Array(values) if matches!(argument.get_action(), ArgAction::Append) => {
            values.iter().map(|value| scalar(value.get_ref())).collect::<Result<Vec<_>, _>>()?
        }
        value => vec![scalar(value)?],
    };
    let typed = |value: String| match argument.get_long() {
        Some(long) => format!("--{long}={value}"),
        None => value,
    };
    let arguments: Vec<String> = written.into_iter().map(typed).collect();
    for typed in &arguments {
        // It is checked alone: conflicts are found when all options are known.
        let alone = argument.clone().required(false).env(Resettable::Reset);
        let command = Command::new("ptth").no_binary_name(true).arg(alone);
        command.try_get_matches_from([typed]).map_err(|error| reason_of(&error))?;
    }
    Ok(arguments)
}

fn scalar(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.clone().into_owned()),
        DeValue::Integer(number) => {
            let value = i128::from_str_radix(number.as_str(), number.radix());
            value.map(|value| value.to_string()).map_err(|_| "write a whole number".to_owned())
        }
        DeValue::Array(_) => Err("it takes one value, not a list".to_owned()),
        DeValue::Boolean(_) => Err("it is not a switch; write a value in quotes".to_owned()),
        _ => Err("write the value in quotes, as on the command line".to_owned()),
    }
}
