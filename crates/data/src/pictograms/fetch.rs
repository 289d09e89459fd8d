//! Packages by name and exact version, through the package managers that people already have.
//!
//! What is unpacked in the work folder is never fetched again, so a build resumes, and a folder filled on
//! one machine builds on another without a network.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

use super::attribution::SOURCES;

/// Names, keywords, categories and translations of emoji.
pub(super) const EMOJIBASE: (&str, &str) = ("emojibase-data", "17.0.0");
/// The clip art with its titles and keywords, and the same drawings as PNG.
pub(super) const OPENCLIPART: [&str; 2] = ["openclipart-svg", "openclipart-png"];
/// Version of both clip art packages.
const OPENCLIPART_VERSION: &str = "1:0.18+dfsg-19";

/// Why a package could not be had.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The package manager is not installed.
    #[error("{tool} is not installed, and {package} is fetched with it: {advice}")]
    ToolMissing {
        /// The program.
        tool: &'static str,
        /// The package wanted.
        package: String,
        /// What to do.
        advice: &'static str,
    },
    /// The package manager failed.
    #[error("{tool} could not fetch {package}: {message}; {advice}")]
    ToolFailed {
        /// The program.
        tool: &'static str,
        /// The package wanted.
        package: String,
        /// The last words of the program.
        message: String,
        /// What to do.
        advice: &'static str,
    },
    /// A file in the work folder could not be written or read.
    #[error("{path}: {source}; remove it and run again")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

const NPM_ADVICE: &str = "install Node.js (https://nodejs.org, or your system's `npm` package)";
const NPM_FAILED: &str = "check the network and the registry that npm is set to";
const APT_ADVICE: &str =
    "this part needs Debian or a system made from it; elsewhere build with `--without openclipart`";
const APT_FAILED: &str = "run `apt-get update`, and where this version is not offered (it is Debian 12's) build with `--without openclipart`";

/// The folder of an npm package, fetched and unpacked if need be.
///
/// # Errors
/// [`FetchError`].
pub(super) fn npm_package(work: &Path, name: &str, version: &str) -> Result<PathBuf, FetchError> {
    let stem = format!(
        "{}-{version}",
        name.trim_start_matches('@').replace('/', "-")
    );
    let folder = work.join("packages").join(&stem);
    if folder.is_dir() {
        return Ok(folder);
    }
    let package = format!("{name}@{version}");
    let downloads = fresh_folder(&work.join("downloads").join(&stem))?;
    let mut command = Command::new(if cfg!(windows) { "npm.cmd" } else { "npm" });
    command
        .args(["pack", &package, "--silent", "--pack-destination"])
        .arg(&downloads);
    run(command, "npm", &package, NPM_ADVICE, NPM_FAILED)?;

    let archive = downloads.join(format!("{stem}.tgz"));
    let file = std::fs::File::open(&archive).map_err(|source| FetchError::Io {
        path: archive.clone(),
        source,
    })?;
    let unpacked = downloads.join("unpacked");
    tar::Archive::new(flate2::read::GzDecoder::new(file))
        .unpack(&unpacked)
        .map_err(|source| FetchError::Io {
            path: archive,
            source,
        })?;
    // Every npm archive holds one top folder, nearly always called "package".
    let top = only_child(&unpacked)?;
    settle(&top, &folder)?;
    remove(&downloads)?;
    Ok(folder)
}

/// The folder of a Debian package, fetched and unpacked if need be.
///
/// # Errors
/// [`FetchError`].
pub(super) fn debian_package(work: &Path, name: &str) -> Result<PathBuf, FetchError> {
    let folder = work.join("packages").join(name);
    if folder.is_dir() {
        return Ok(folder);
    }
    let package = format!("{name}={OPENCLIPART_VERSION}");
    let downloads = fresh_folder(&work.join("downloads").join(name))?;
    let mut command = Command::new("apt-get");
    command.args(["download", &package]).current_dir(&downloads);
    run(command, "apt-get", &package, APT_ADVICE, APT_FAILED)?;
    let archive = only_child(&downloads)?;
    let unpacked = downloads.join("unpacked");
    let mut command = Command::new("dpkg");
    command.arg("-x").arg(&archive).arg(&unpacked);
    run(command, "dpkg", &package, APT_ADVICE, APT_FAILED)?;
    settle(&unpacked, &folder)?;
    remove(&downloads)?;
    Ok(folder)
}

/// npm name and version of an icon set, read from the table of sources.
pub(super) fn icon_package(source: &str) -> Option<(&'static str, &'static str)> {
    let package = SOURCES.iter().find(|known| known.name == source)?.package;
    package.strip_prefix("npm ")?.split_once(' ')
}

fn run(
    mut command: Command,
    tool: &'static str,
    package: &str,
    missing: &'static str,
    failed: &'static str,
) -> Result<(), FetchError> {
    let output = command.output().map_err(|error| match error.kind() {
        ErrorKind::NotFound => FetchError::ToolMissing {
            tool,
            package: package.to_owned(),
            advice: missing,
        },
        _ => FetchError::ToolFailed {
            tool,
            package: package.to_owned(),
            message: error.to_string(),
            advice: failed,
        },
    })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let message = lines[lines.len().saturating_sub(3)..].join(" / ");
    let message = if message.is_empty() {
        output.status.to_string()
    } else {
        message
    };
    Err(FetchError::ToolFailed {
        tool,
        package: package.to_owned(),
        message,
        advice: failed,
    })
}

/// An empty folder; what an interrupted run left there is removed.
fn fresh_folder(path: &Path) -> Result<PathBuf, FetchError> {
    let io = |source| FetchError::Io {
        path: path.to_owned(),
        source,
    };
    if path.exists() {
        std::fs::remove_dir_all(path).map_err(io)?;
    }
    std::fs::create_dir_all(path).map_err(io)?;
    // The child processes run in other folders.
    std::path::absolute(path).map_err(io)
}

fn only_child(folder: &Path) -> Result<PathBuf, FetchError> {
    let io = |source| FetchError::Io {
        path: folder.to_owned(),
        source,
    };
    let first = std::fs::read_dir(folder).map_err(io)?.next();
    let first = first.ok_or_else(|| {
        io(std::io::Error::new(
            ErrorKind::NotFound,
            "the package is empty",
        ))
    })?;
    Ok(first.map_err(io)?.path())
}

fn settle(from: &Path, to: &Path) -> Result<(), FetchError> {
    let io = |source| FetchError::Io {
        path: to.to_owned(),
        source,
    };
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent).map_err(io)?;
    }
    std::fs::rename(from, to).map_err(io)
}

fn remove(folder: &Path) -> Result<(), FetchError> {
    std::fs::remove_dir_all(folder).map_err(|source| FetchError::Io {
        path: folder.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_unpacked_package_is_reused_without_any_tool() {
        let work = tempfile::tempdir().unwrap();
        let folder = work.path().join("packages/iconify-json-noto-1.2.9");
        std::fs::create_dir_all(&folder).unwrap();
        assert_eq!(
            npm_package(work.path(), "@iconify-json/noto", "1.2.9").unwrap(),
            folder
        );
    }

    #[test]
    fn a_missing_tool_is_named_with_what_to_install() {
        let command = Command::new("fitup-no-such-program");
        let error = run(command, "npm", "noto@1", NPM_ADVICE, NPM_FAILED).unwrap_err();
        assert!(error.to_string().contains("install Node.js"), "{error}");
    }

    #[test]
    fn every_icon_set_has_a_pinned_package() {
        assert_eq!(
            icon_package("noto-v1"),
            Some(("@iconify-json/noto-v1", "1.2.5"))
        );
        assert_eq!(icon_package("openclipart"), None);
    }
}
