//! Secrets of a configuration file, and what they are part of: database URLs, passwords, keys. Each can come from a variable of the
//! environment (`"${NAME}"`) or from a file (`.._file`), whose path may name variables as well: `"${CREDENTIALS_DIRECTORY}/name"` is a
//! credential that systemd hands over. No message repeats any of them.

use std::{
    fmt::Write as _,
    fs::File,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use toml::Spanned;

use super::{
    super::{Url, channels::Secret},
    ConfigError, Source,
};
use crate::hosts::Hosts;

/// Largest file that is read for one value, bytes.
const LARGEST_FILE: u64 = 1 << 20;
/// Mode bits of a file that others than its owner and group may read.
const READ_BY_ALL: u32 = 0o004;

/// Replaces `${NAME}` by the environment's value.
///
/// # Errors
/// What is wrong with it, by the variable's name.
pub(in crate::config) fn expand(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').ok_or("\"${\" has no end; expected ${NAME}")?;
        let value =
            environment(name).ok_or_else(|| format!("the environment has no variable {name:?}; expected it to be set"))?;
        expanded.push_str(before);
        expanded.push_str(&value);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// The part of a database URL with user and password, where it has one: from where it begins to the `@` behind it.
fn user_info(url: &str) -> Option<(usize, usize)> {
    let begin = url.find("://")? + 3;
    let end = url[begin..].find(['/', '?', '#']).map_or(url.len(), |length| begin + length);
    url[begin..end].rfind('@').map(|at| (begin, begin + at))
}

/// Whether a database URL, as it is written, holds a password that is not all variables.
pub(in crate::config) fn has_written_password(url: &str) -> bool {
    let written = |value: &str| {
        let mut rest = value;
        while let Some(after) = rest.strip_prefix("${").and_then(|rest| rest.split_once('}')) {
            rest = after.1;
        }
        !rest.is_empty()
    };
    if url.starts_with("sqlite:") {
        return false;
    }
    // A `/` or `?` that is not encoded cuts the part with the password short: whatever stands before an `@` counts.
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let user = after_scheme.rsplit_once('@').map(|(user, _)| user);
    let in_user = user
        .and_then(|user| user.split_once(':'))
        .is_some_and(|(_, password)| written(password));
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let in_query = query
        .split('&')
        .filter_map(|parameter| parameter.split_once('='))
        .any(|(name, value)| name.eq_ignore_ascii_case("password") && written(value));
    in_user || in_query
}

/// The URL with a password.
fn with_password(url: &str, password: &str) -> Result<String, &'static str> {
    let Some((begin, end)) = user_info(url) else {
        return Err("the url names no user; expected postgres://user@host/database beside password_file");
    };
    if url[begin..end].contains(':') {
        return Err("the url holds a password, and password_file stands beside it; expected one of them");
    }
    let mut with = url[..end].to_owned();
    // A write to a string cannot fail.
    let _ = write!(with, ":{}", utf8_percent_encode(password, NON_ALPHANUMERIC));
    with.push_str(&url[end..]);
    Ok(with)
}

/// A connection string whose variables are filled in, with the path of a SQLite file resolved against `base`.
///
/// # Errors
/// What is wrong with it, without its text.
pub(in crate::config) fn database_url(url: String, base: &Path) -> Result<Url, String> {
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        // Its variables may hold what does not belong into a message; the problem names positions only.
        Hosts::parse(&url).map_err(|problem| format!("the URL cannot be used: {problem}"))?;
        return Ok(Url(url));
    }
    let Some(rest) = url.strip_prefix("sqlite:") else {
        return Err("the URL is of no known kind; expected sqlite://path/to/file.db or postgres://user@host/database".to_owned());
    };
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (path, options) = rest
        .split_once('?')
        .map_or((rest, None), |(path, options)| (path, Some(options)));
    if path.is_empty() || path.contains(":memory:") {
        return Err("the URL names no file; expected sqlite://path/to/file.db".to_owned());
    }
    let resolved = base.join(path);
    let resolved = resolved.to_str().ok_or("the file's path is no UTF-8")?;
    Ok(Url(options.map_or_else(
        || format!("sqlite://{resolved}"),
        |options| format!("sqlite://{resolved}?{options}"),
    )))
}

impl Source<'_> {
    pub(super) fn expand(&self, text: &str) -> Result<String, String> {
        expand(text, self.environment)
    }

    /// The URL of a database: as it is written, or the first line of a file; its password may be in a file of its own.
    pub(super) fn database(
        &self,
        url: Option<&Spanned<String>>,
        url_file: Option<&Spanned<PathBuf>>,
        password_file: Option<&Spanned<PathBuf>>,
    ) -> Result<Option<Url>, ConfigError> {
        let place = url.map(|url| url.span().start).or(url_file.map(|file| file.span().start));
        let read = self.secret("url", url, url_file)?;
        let password = self.secret("password", None, password_file)?;
        let (Some(read), Some(place)) = (read, place) else {
            return match password_file {
                None => Ok(None),
                Some(file) => Err(self.refuse(
                    file.span().start,
                    "password_file is set, and url is not; expected postgres://user@host/database beside it",
                )),
            };
        };
        let mut url = read.expose().to_owned();
        if let (Some(password), Some(file)) = (password, password_file) {
            if !url.starts_with("postgres") {
                return Err(self.refuse(
                    file.span().start,
                    "password_file stands beside the url of a file, which has no password; expected it beside postgres://",
                ));
            }
            url = with_password(&url, password.expose()).map_err(|problem| self.refuse(file.span().start, problem))?;
        }
        database_url(url, self.base)
            .map(Some)
            .map_err(|problem| self.refuse(place, problem))
    }

    /// A secret: as it is written, with the environment's variables, or the first line of a file. No message repeats it.
    pub(super) fn secret(
        &self,
        key: &str,
        text: Option<&Spanned<String>>,
        file: Option<&Spanned<PathBuf>>,
    ) -> Result<Option<Secret>, ConfigError> {
        let (secret, place) = match (text, file) {
            (None, None) => return Ok(None),
            (Some(_), Some(file)) => {
                return Err(self.refuse(
                    file.span().start,
                    format!("{key}_file stands beside {key}; expected one of them"),
                ));
            }
            (Some(text), None) => {
                let place = text.span().start;
                let secret = self.expand(text.get_ref()).map_err(|problem| self.refuse(place, problem))?;
                (secret, place)
            }
            (None, Some(file)) => {
                let text = self.file(&format!("{key}_file"), file, true)?;
                let text = String::from_utf8(text)
                    .map_err(|_| self.refuse(file.span().start, format!("{key}_file: is no UTF-8; expected a line of text")))?;
                (text.lines().next().unwrap_or_default().to_owned(), file.span().start)
            }
        };
        if secret.is_empty() || secret.chars().any(char::is_control) {
            return Err(self.refuse(
                place,
                format!("{key} is empty or has control characters; expected one line of text"),
            ));
        }
        Ok(Some(Secret::from(secret)))
    }

    /// What a file holds. One with a secret that everybody on the machine may read is warned of.
    pub(super) fn file(&self, key: &str, file: &Spanned<PathBuf>, secret: bool) -> Result<Vec<u8>, ConfigError> {
        let place = file.span().start;
        let refused = |problem: String| self.refuse(place, format!("{key}: {problem}"));
        let written = file.get_ref();
        let path = match written.to_str() {
            Some(text) => PathBuf::from(self.expand(text).map_err(refused)?),
            None => written.clone(),
        };
        let path = self.base.join(path);
        let shown = path.display();
        let mut content = Vec::new();
        let read = File::open(&path).and_then(|opened| {
            let found = opened.metadata()?;
            opened.take(LARGEST_FILE + 1).read_to_end(&mut content)?;
            Ok(found)
        });
        let found = read.map_err(|error| refused(format!("{shown}: {error}")))?;
        if content.len() as u64 > LARGEST_FILE {
            return Err(refused(format!("{shown}: is larger than {LARGEST_FILE} bytes")));
        }
        if secret && found.is_file() && found.mode() & READ_BY_ALL != 0 {
            tracing::warn!(key, path = %shown, "everybody on this machine may read the file of a secret; expected mode 0600 or 0640");
        }
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_comes_to_stand_behind_the_user_whatever_is_in_it() {
        let with = |url: &str| with_password(url, "p:@/ ?#ä%");
        assert_eq!(
            with("postgres://u@h1:1,h2:2/d?sslmode=require").as_deref(),
            Ok("postgres://u:p%3A%40%2F%20%3F%23%C3%A4%25@h1:1,h2:2/d?sslmode=require")
        );
        assert!(with("postgres://h/d").is_err_and(|problem| problem.contains("names no user")));
        assert!(with("postgres://h/d?options=a@b").is_err_and(|problem| problem.contains("names no user")));
        assert!(with("postgres://u:x@h/d").is_err_and(|problem| problem.contains("holds a password")));
        let url = with("postgres://u@h/d").expect("a URL");
        assert_eq!(url::Url::parse(&url).expect("a URL").username(), "u");
        Hosts::parse(&url).expect("the driver takes it");
    }

    #[test]
    fn a_password_that_is_written_out_is_told_from_a_variable() {
        for (url, written) in [
            ("postgres://u@h/d", false),
            ("postgres://u:${P}@h/d", false),
            ("postgres://u:${P}${Q}@h1,h2/d", false),
            ("postgres://u:@h/d", false),
            ("postgres://u:x@h/d", true),
            ("postgres://u:x${P}@h/d", true),
            ("postgres://u:${P}x@h/d", true),
            ("postgres://u:x/y@h/d", true),
            ("postgres://u:x?y@h/d", true),
            ("postgres://u@h/d?password=x", true),
            ("postgres://u@h/d?sslmode=require&PASSWORD=x", true),
            ("postgres://u@h/d?password=${P}", false),
            ("postgres://h:5432/d", false),
            ("sqlite://a:b@c.db", false),
            ("u:x@h", true),
        ] {
            assert_eq!(has_written_password(url), written, "{url}");
        }
    }
}
