//! Path prefixes, and which of them a request's path begins with: one rule for a gateway's routes
//! and for a device's local servers.
//!
//! Prefixes consist of whole segments, and the longest one wins: `/api` matches `/api`, `/api/` and
//! `/api/x`, but not `/apix`. The result of [`origin_form`] is compared byte for byte: case
//! matters, and nothing is decoded a second time, so `/%61pi` and `//api` are not `/api`, and `%2f`
//! is neither a slash nor `%2F` (T11).
//!
//! [`origin_form`]: crate::proto::forward::origin_form

use std::borrow::Cow;
use std::collections::HashMap;

/// Values by path prefix. The empty prefix matches all paths; the others are in the form that
/// [`path_prefix`](crate::proto::forwarded::path_prefix) returns.
#[derive(Clone, Debug)]
pub(crate) struct Prefixes<T> {
    /// The value of the empty prefix: if it is the only one, nothing is hashed.
    all: Option<(String, T)>,
    values: HashMap<String, T>,
    /// Bytes of the longest prefix, and most segments: a path is looked up only so far.
    longest: usize,
    deepest: usize,
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Prefixes { all: None, values: HashMap::new(), longest: 0, deepest: 0 }
    }
}

impl<T> Prefixes<T> {
    /// Adds a value, and returns the one that it replaces.
    pub(crate) fn insert(&mut self, prefix: String, value: T) -> Option<T> {
        if prefix.is_empty() {
            return self.all.replace((prefix, value)).map(|(_, before)| before);
        }
        (self.longest, self.deepest) =
            (self.longest.max(prefix.len()), self.deepest.max(prefix.matches('/').count()));
        self.values.insert(prefix, value)
    }

    /// The value of the longest prefix that this path begins with.
    pub(crate) fn find(&self, path: &str) -> Option<&T> {
        let ends = path.match_indices('/').skip(1).map(|(at, _)| at).chain([path.len()]);
        let within = ends.take(self.deepest).take_while(|end| *end <= self.longest);
        within
            .filter_map(|end| self.values.get(&path[..end]))
            .last()
            .or(self.all.as_ref().map(|(_, value)| value))
    }

    /// The value of exactly this prefix.
    pub(crate) fn get(&self, prefix: &str) -> Option<&T> {
        match prefix {
            "" => self.all.as_ref().map(|(_, value)| value),
            _ => self.values.get(prefix),
        }
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&String, &mut T)> {
        let all = self.all.as_mut().map(|(prefix, value)| (&*prefix, value));
        self.values.iter_mut().chain(all)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.values.values().chain(self.all.as_ref().map(|(_, value)| value))
    }
}

/// A target without its query.
pub(crate) fn path_of(target: &str) -> &str {
    let end = target.bytes().position(|byte| byte == b'?'); // targets are short
    end.map_or(target, |end| &target[..end])
}

/// Removes a prefix from a target; the result still begins with `/`. With an empty prefix, the
/// target is unchanged.
pub(crate) fn without_prefix<'t>(target: &'t str, prefix: &str) -> Cow<'t, str> {
    match target.strip_prefix(prefix) {
        Some(rest) if !rest.starts_with('/') && !prefix.is_empty() => format!("/{rest}").into(),
        Some(rest) => rest.into(),
        None => target.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let mut prefixes = Prefixes::default();
        for prefix in ["/api", "/api/v2", "/a%20b"] {
            prefixes.insert(prefix.to_owned(), prefix);
        }
        let paths = [
            ("/api", Some("/api")),
            ("/api/", Some("/api")),
            ("/api?x=/api/v2", Some("/api")),
            ("/api/v2", Some("/api/v2")),
            ("/api/v2/x/y?z", Some("/api/v2")),
            ("/api/v21", Some("/api")),
            ("/api//v2", Some("/api")),
            ("/a%20b/c", Some("/a%20b")),
            ("/apix", None),
            ("/API", None),
            ("/%61pi", None),
            ("/api%2fx", None),
            ("//api", None),
            ("/x/api", None),
            ("/", None),
            ("*", None),
        ];
        for (path, found) in paths {
            assert_eq!(prefixes.find(path_of(path)).copied(), found, "{path}");
        }
        prefixes.insert(String::new(), "/");
        for (path, found) in paths {
            assert_eq!(prefixes.find(path_of(path)).copied(), found.or(Some("/")), "{path}");
        }
    }

    #[test]
    fn what_is_left_of_a_target_begins_with_a_slash() {
        for (target, prefix, left) in [
            ("/api/x?y", "/api", "/x?y"),
            ("/api", "/api", "/"),
            ("/api?y", "/api", "/?y"),
            ("/api//x", "/api", "//x"),
            ("/api/x", "", "/api/x"),
            ("*", "", "*"),
        ] {
            assert_eq!(without_prefix(target, prefix), left, "{target}");
        }
    }
}
