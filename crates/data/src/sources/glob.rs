//! Shard lists by pattern: `*` in the file name, nothing more.

use std::fs;
use std::path::{Path, PathBuf};

use super::SourceError;

/// The files of several patterns, in the order of the patterns and sorted by name within one.
/// A path without `*` is taken as it is.
///
/// # Errors
/// When a folder cannot be listed or a pattern matches nothing.
pub fn expand(patterns: &[PathBuf]) -> Result<Vec<PathBuf>, SourceError> {
    let mut files = Vec::new();
    for pattern in patterns {
        match pattern.file_name().and_then(|name| name.to_str()) {
            Some(name) if name.contains('*') => files.extend(matching(pattern, name)?),
            _ => files.push(pattern.clone()),
        }
    }
    Ok(files)
}

/// The files or patterns in one line, for messages.
pub fn listed(files: &[PathBuf]) -> String {
    let files: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
    files.join(", ")
}

fn matching(pattern: &Path, name: &str) -> Result<Vec<PathBuf>, SourceError> {
    let folder = match pattern.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(SourceError::io(folder))? {
        let file = entry.map_err(SourceError::io(folder))?.file_name();
        // Unfinished files carry a leading dot and must not be picked up by `*.tar`.
        if let Some(file) = file.to_str()
            && (!file.starts_with('.') || name.starts_with('.'))
            && matches(name, file)
        {
            names.push(file.to_owned());
        }
    }
    if names.is_empty() {
        return Err(SourceError::NoMatch {
            pattern: pattern.to_owned(),
        });
    }
    names.sort();
    Ok(names
        .into_iter()
        .map(|file| pattern.with_file_name(file))
        .collect())
}

/// Whether a name fits a pattern in which `*` stands for any run of characters.
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_runs_and_never_overlap() {
        assert!(matches("train-*.tar", "train-000.tar"));
        assert!(matches("*", "anything"));
        assert!(matches("a*b*c", "a-b-b-c"));
        assert!(!matches("a*a", "a"));
        assert!(!matches("train-*.tar", "train-0.tar.partial"));
        assert!(!matches("x*", "yx"));
    }
}
