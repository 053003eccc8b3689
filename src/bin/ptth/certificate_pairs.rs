//! Certificates with their keys: those of single options, and those of a folder. They are read
//! together, and take effect together or not at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use reverse_http::tls::Identity;

use crate::certificates::{read, warn_of_readers};
use crate::files::{self, Reading};

/// The most certificates of a folder. With more, it is probably the wrong folder.
const PAIRS_MAX: usize = 1_000;

/// One side's options, `certificate` and `key` in pairs, in the order in which they were given.
pub(crate) struct Pairs<'f> {
    pub(crate) certificate: (&'static str, &'f [PathBuf]),
    pub(crate) key: (&'static str, &'f [PathBuf]),
    pub(crate) folder: (&'static str, Option<&'f Path>),
}

/// One certificate and its key.
struct Pair {
    certificate: (&'static str, PathBuf),
    key: (&'static str, PathBuf),
}

impl Pairs<'_> {
    /// The current certificates: first those of options, then those of the folder. Empty without
    /// such options.
    ///
    /// # Errors
    /// A file cannot be read; a key is not its certificate's; the only certificate is read again
    /// and is not valid now; one that is not the default has no DNS name.
    pub(crate) fn identities(&self, reading: Reading) -> Result<Vec<Identity>, String> {
        let read = self.read(reading)?;
        for (identity, pair) in &read {
            warn_of_readers(pair.key.0, &pair.key.1);
            match identity.check_dates(SystemTime::now()) {
                Ok(()) => {}
                // The others are renewed nevertheless. A machine without a clock may still start.
                Err(e) if reading == Reading::First || read.len() > 1 => {
                    log::warn!("{}: {e}", told_of(&pair.certificate))
                }
                Err(e) => return Err(format!("{}: {e}", told_of(&pair.certificate))),
            }
        }
        in_order(read, self.certificate.1.is_empty())
    }

    /// The default one, without repeating the reports of [`identities`](Self::identities).
    ///
    /// # Errors
    /// A file cannot be read; a key is not its certificate's.
    pub(crate) fn default_again(&self, reading: Reading) -> Result<Option<Identity>, String> {
        Ok(self.read(reading)?.into_iter().next().map(|(identity, _)| identity))
    }

    fn read(&self, reading: Reading) -> Result<Vec<(Identity, Pair)>, String> {
        // A renewal writes one file after the other; in between they do not match.
        files::together(reading, || {
            let all = self.named()?.into_iter().chain(self.of_folder(reading)?);
            all.map(|pair| Ok((pair.identity(reading)?, pair))).collect::<Result<Vec<_>, String>>()
        })
    }

    fn named(&self) -> Result<Vec<Pair>, String> {
        let ((option, certificates), (key_option, keys)) = (self.certificate, self.key);
        match (certificates.len(), keys.len()) {
            (ours, theirs) if ours == theirs => {}
            (0, _) | (_, 0) => {
                return Err(format!("{option} and {key_option} go together; give both"));
            }
            (ours, theirs) => {
                return Err(format!(
                    "{option} is given {ours} times and {key_option} {theirs} times; give each certificate its key, in the same order"
                ));
            }
        }
        let pairs = certificates.iter().zip(keys).map(|(certificate, key)| Pair {
            certificate: (option, certificate.clone()),
            key: (key_option, key.clone()),
        });
        Ok(pairs.collect())
    }

    fn of_folder(&self, reading: Reading) -> Result<Vec<Pair>, String> {
        let (option, Some(folder)) = self.folder else { return Ok(Vec::new()) };
        let wrong = |what| format!("{option} {}: {what}", folder.display());
        let listed = folder.to_owned();
        let pairs = files::on_a_thread(files::within(reading), move || list(&listed));
        let pairs = pairs.map_err(wrong)?.into_iter().map(|(certificate, key)| Pair {
            certificate: (option, certificate),
            key: (option, key),
        });
        Ok(pairs.collect())
    }
}

impl Pair {
    fn identity(&self, reading: Reading) -> Result<Identity, String> {
        let certificate = read(self.certificate.0, &self.certificate.1, reading)?;
        let key = read(self.key.0, &self.key.1, reading)?;
        Identity::from_pem(certificate, key)
            .map_err(|e| format!("{} with {}: {e}", told_of(&self.certificate), told_of(&self.key)))
    }
}

/// Puts the default first. For a folder, it is the first one that is valid now; one without a DNS
/// name can only be the default, so it stays first.
///
/// # Errors
/// Another one has no DNS name.
fn in_order(mut read: Vec<(Identity, Pair)>, is_folder: bool) -> Result<Vec<Identity>, String> {
    if is_folder && read.first().is_some_and(|(first, _)| !first.names().is_empty()) {
        let now = SystemTime::now();
        let is_valid = |(identity, _): &(Identity, Pair)| identity.check_dates(now).is_ok();
        let default = read.iter().position(is_valid).unwrap_or(0);
        read[..=default].rotate_right(1);
    }
    match read.iter().skip(1).find(|(identity, _)| identity.names().is_empty()) {
        Some((_, pair)) => Err(format!(
            "{}: it has no DNS name (subjectAltName), so beside the default no client could ask for it",
            told_of(&pair.certificate)
        )),
        None => Ok(read.into_iter().map(|(identity, _)| identity).collect()),
    }
}

/// `--visitors-cert www.crt`.
fn told_of((option, file): &(&'static str, PathBuf)) -> String {
    format!("{option} {}", file.display())
}

/// The pairs of a folder, by their names: `NAME.crt` with `NAME.key` as lego and Kubernetes write
/// them, `NAME/fullchain.pem` with `NAME/privkey.pem` as certbot does. Certificates of CAs
/// (`ca.crt`, `NAME.issuer.crt`) have no key there; hidden and other files are ignored.
fn list(folder: &Path) -> Result<Vec<(PathBuf, PathBuf)>, String> {
    let mut pairs: BTreeMap<String, [Option<PathBuf>; 2]> = BTreeMap::new();
    let mut entries = 0;
    for entry in std::fs::read_dir(folder).map_err(|e| e.to_string())? {
        let path = entry.map_err(|e| e.to_string())?.path();
        entries += 1;
        if entries > 8 * PAIRS_MAX || pairs.len() > PAIRS_MAX {
            return Err(format!("there are more than {PAIRS_MAX} certificates in it"));
        }
        let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else {
            continue;
        };
        let is_cas = name == "ca.crt" || name.ends_with(".issuer.crt");
        if name.starts_with('.') || is_cas {
            continue;
        }
        if path.is_dir() {
            let files = ["fullchain.pem", "privkey.pem"].map(|file| path.join(file));
            let [certificate, key] = files.map(|file| file.exists().then_some(file));
            if certificate.is_some() || key.is_some() {
                pairs.insert(name, [certificate, key]);
            }
        } else if let Some(stem) = name.strip_suffix(".crt") {
            pairs.entry(stem.to_owned()).or_default()[0] = Some(path);
        } else if let Some(stem) = name.strip_suffix(".key") {
            pairs.entry(stem.to_owned()).or_default()[1] = Some(path);
        }
    }
    if pairs.is_empty() {
        return Err(
            "there is no pair in it: NAME.crt and NAME.key, or NAME/fullchain.pem and NAME/privkey.pem"
                .to_owned(),
        );
    }
    let whole = pairs.into_iter().map(|(name, pair)| match pair {
        [Some(certificate), Some(key)] => Ok((certificate, key)),
        [None, _] => Err(format!("{name} has a key and no certificate")),
        [_, None] => Err(format!("{name} has a certificate and no key")),
    });
    whole.collect()
}

/// The most names in a log line.
const TOLD_MAX: usize = 5;

/// The certificates of a listener, for the log: `a.example until Sun, 06 Nov 2094 08:49:37 GMT`.
pub(crate) fn told(identities: &[Identity]) -> String {
    let told = identities.iter().take(TOLD_MAX).map(|identity| {
        let names = identity.names();
        let name = names.first().map_or("(no DNS name)", String::as_str);
        let until = identity.valid_until().map(httpdate::fmt_http_date);
        format!("{name} until {}", until.as_deref().unwrap_or("(no date)"))
    });
    let told = told.collect::<Vec<_>>().join(", ");
    match identities.len().saturating_sub(TOLD_MAX) {
        0 => told,
        more => format!("{told}, and {more} more"),
    }
}
