//! Files from the Hugging Face Hub, or a server that speaks its protocol: resumed after a broken
//! connection, compared with the hub's checksum, and used again without a network.
//!
//! Transfers are made by `curl`, which systems bring along with their certificates and proxies; an
//! HTTP client in Rust would change what Burn's own dependencies are built with.

use std::io::{ErrorKind, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Where models are when nobody says otherwise.
const ENDPOINT: &str = "https://huggingface.co";
/// Folder of the copies.
pub const FOLDER: &str = "weights/hub";
/// What a recipe's name of a file on the hub begins with.
const SCHEME: &str = "hub:";
/// Files that hold the weights of a model by convention, best first.
const USUAL: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
/// Bytes of a file of which the hub does not tell the length: such files are small.
const MAX_UNTOLD: u64 = 1 << 30;
/// Bytes of the page that may come with a redirect, which curl measures too.
const MAX_REDIRECT: u64 = 1 << 20;
/// Hops from a moved repository to its new name.
const MAX_HOPS: usize = 5;

/// A repository at a revision.
#[derive(Debug)]
pub struct Repository {
    endpoint: String,
    name: String,
    revision: String,
}

/// What the hub says of a file, kept beside the copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Name in the repository.
    pub file: String,
    /// The commit that the revision stood for.
    pub commit: Option<String>,
    /// Names the content; for large files it is their SHA-256.
    pub etag: String,
    /// Bytes, where the hub tells.
    pub size: Option<u64>,
}

impl Record {
    /// The checksum, where the hub gives one.
    pub fn sha256(&self) -> Option<&str> {
        let hex = self.etag.bytes().all(|b| b.is_ascii_hexdigit());
        (hex && self.etag.len() == 64).then_some(&self.etag)
    }
}

/// How a file came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// From the hub, whole.
    Downloaded,
    /// From the hub, the rest of an earlier try.
    Resumed,
    /// It was there, and the hub has nothing newer.
    Unchanged,
    /// It was there, and the hub could not be asked.
    Offline,
}

/// A file on this machine.
#[derive(Debug)]
pub struct Pulled {
    pub path: PathBuf,
    pub record: Record,
    pub source: Source,
}

/// Why `curl` did not bring what was asked.
enum Failure {
    /// No connection to the server.
    Unreachable(String),
    /// Anything else.
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl Failure {
    fn into_error(self) -> anyhow::Error {
        match self {
            Self::Unreachable(message) => {
                anyhow::anyhow!("could not reach the hub ({message}), and there is no copy here")
            }
            Self::Other(error) => error,
        }
    }
}

/// The address of the hub: as given, else from `HF_ENDPOINT`, else the public one.
pub fn endpoint(given: Option<&str>) -> String {
    let given = given.map(str::to_owned);
    let told = || std::env::var("HF_ENDPOINT").ok().filter(|e| !e.is_empty());
    given.or_else(told).unwrap_or_else(|| ENDPOINT.to_owned())
}

/// The file that a recipe names: a path as it is, and `hub:OWNER/NAME[@REVISION][/FILE]` as the path
/// of its copy, fetched where the hub has something newer.
pub fn locate(written: &Path) -> Result<PathBuf> {
    let Some(named) = written.to_str().and_then(|text| text.strip_prefix(SCHEME)) else {
        return Ok(written.to_owned());
    };
    let wrong = || {
        format!("{SCHEME}{named}: expected {SCHEME}OWNER/NAME, or {SCHEME}OWNER/NAME@REVISION/FILE")
    };
    let (owner, rest) = named.split_once('/').with_context(wrong)?;
    let (name, file) = match rest.split_once('/') {
        Some((name, file)) => (name, Some(file)),
        None => (rest, None),
    };
    let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
    let repository = Repository::new(&endpoint(None), &format!("{owner}/{name}"), revision);
    let pulled = repository
        .with_context(wrong)?
        .pull(file, Path::new(FOLDER));
    Ok(pulled.with_context(|| format!("{SCHEME}{named}"))?.path)
}

impl Repository {
    /// `name` is `owner/name`; nothing is asked of the hub yet.
    pub fn new(endpoint: &str, name: &str, revision: &str) -> Result<Self> {
        ensure!(
            endpoint.starts_with("https://") || endpoint.starts_with("http://"),
            "endpoint {endpoint}: expected an address that begins with https://"
        );
        ensure!(
            is_path(name) && name.split('/').count() <= 2,
            "{name}: expected the name of a repository, as in Salesforce/blip-itm-base-coco"
        );
        ensure!(
            is_path(revision),
            "revision {revision}: not a branch, tag or commit"
        );
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            name: name.to_owned(),
            revision: revision.to_owned(),
        })
    }

    /// Brings `file`, or the usual file of weights, into a folder under `out`.
    pub fn pull(&self, file: Option<&str>, out: &Path) -> Result<Pulled> {
        let folder = out.join(self.name.replace('/', "--"));
        let folder = folder.join(self.revision.replace('/', "--"));
        let file = match file {
            Some(file) => file.to_owned(),
            None => match self.files() {
                Ok(files) => self.usual(&files)?,
                Err(Failure::Unreachable(message)) => {
                    let kept = recorded(&folder);
                    ensure!(!kept.is_empty(), Failure::Unreachable(message).into_error());
                    self.usual(&kept)?
                }
                Err(failure) => return Err(failure.into_error()),
            },
        };
        ensure!(
            is_path(&file),
            "{file}: not the name of a file in a repository"
        );
        let path = folder.join(&file);
        let kept = read_record(&path);
        let record = match (self.head(&file), kept) {
            (Ok(record), Some(kept)) if record.etag == kept.etag => {
                return Ok(Pulled {
                    path,
                    record,
                    source: Source::Unchanged,
                });
            }
            (Ok(record), _) => record,
            (Err(Failure::Unreachable(_)), Some(record)) => {
                return Ok(Pulled {
                    path,
                    record,
                    source: Source::Offline,
                });
            }
            (Err(failure), _) => return Err(failure.into_error()),
        };
        let source = self.download(&record, &path)?;
        Ok(Pulled {
            path,
            record,
            source,
        })
    }

    fn files(&self) -> Result<Vec<String>, Failure> {
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        #[derive(Deserialize)]
        struct Info {
            siblings: Vec<Sibling>,
        }
        let revision = self.revision.replace('/', "%2F");
        let url = format!(
            "{}/api/models/{}/revision/{revision}",
            self.endpoint, self.name
        );
        let answer = curl(
            &[
                "--location",
                "--max-time",
                "60",
                "--write-out",
                "\n%{http_code}",
            ],
            &url,
        )?;
        let (body, status) = answer.rsplit_once('\n').unwrap_or(("", &answer));
        self.check_status(status, &self.name)?;
        let info: Info =
            serde_json::from_str(body).with_context(|| format!("{url}: not an answer of a hub"))?;
        Ok(info.siblings.into_iter().map(|s| s.rfilename).collect())
    }

    /// The file that holds the weights, where that is clear.
    fn usual(&self, files: &[String]) -> Result<String> {
        if let Some(usual) = USUAL.iter().find(|usual| files.iter().any(|f| f == *usual)) {
            return Ok((*usual).to_owned());
        }
        let endings = [".safetensors", ".bin", ".pth", ".pt", ".ckpt"];
        let weights = files
            .iter()
            .filter(|f| endings.iter().any(|e| f.ends_with(e)));
        let weights: Vec<&str> = weights.map(String::as_str).collect();
        match weights[..] {
            [only] => Ok(only.to_owned()),
            [] => bail!(
                "{}: has no file of weights; it has {}",
                self.name,
                files.join(", ")
            ),
            _ => bail!(
                "{}: name one with --file: {}",
                self.name,
                weights.join(", ")
            ),
        }
    }

    fn url(&self, file: &str) -> String {
        let revision = self.revision.replace('/', "%2F");
        format!("{}/{}/resolve/{revision}/{file}", self.endpoint, self.name)
    }

    fn head(&self, file: &str) -> Result<Record, Failure> {
        let mut url = self.url(file);
        for _ in 0..MAX_HOPS {
            let answer = curl(
                &["--head", "--suppress-connect-headers", "--max-time", "60"],
                &url,
            )?;
            let mut lines = answer.lines();
            let status = lines.next().unwrap_or_default();
            let status = status.split_whitespace().nth(1).unwrap_or_default();
            let header = |wanted: &str| {
                let mut lines = answer.lines().skip(1);
                lines.find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    let value = value.trim();
                    name.eq_ignore_ascii_case(wanted).then(|| value.to_owned())
                })
            };
            self.check_status(status, file)?;
            // Large files lie elsewhere; what is known of them stands in the first answer.
            let etag = header("x-linked-etag");
            if let (true, None, Some(location)) =
                (status.starts_with('3'), &etag, header("location"))
            {
                url = match location.strip_prefix('/') {
                    Some(path) => format!("{}/{path}", self.endpoint),
                    None => location,
                };
                continue;
            }
            let etag = etag.or_else(|| header("etag"));
            let etag = etag.with_context(|| format!("{url}: the answer names no content"))?;
            let size = header("x-linked-size").or_else(|| header("content-length"));
            return Ok(Record {
                file: file.to_owned(),
                commit: header("x-repo-commit"),
                etag: etag.trim_start_matches("W/").trim_matches('"').to_owned(),
                size: size.and_then(|size| size.parse().ok()),
            });
        }
        Err(anyhow::anyhow!("{}: moved more than {MAX_HOPS} times", self.url(file)).into())
    }

    fn check_status(&self, status: &str, what: &str) -> Result<(), Failure> {
        let (endpoint, name, revision) = (&self.endpoint, &self.name, &self.revision);
        let problem = match status {
            "401" | "403" => "is private, or must be asked for on its page, or does not exist",
            "404" => "does not exist",
            status if status.starts_with(['2', '3']) => return Ok(()),
            _ => "could not be had",
        };
        let error = anyhow::anyhow!(
            "{what} {problem} (revision {revision} of {name} at {endpoint}, status {status})"
        );
        Err(error.into())
    }

    fn download(&self, record: &Record, path: &Path) -> Result<Source> {
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        // Named after the content, so that only its own rest is appended.
        let content: String = record
            .etag
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .collect();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let partial = folder.join(format!(".{name}.{content}.partial"));
        let length = |file: &Path| std::fs::metadata(file).map_or(0, |about| about.len());
        let had = length(&partial);
        let remove =
            || std::fs::remove_file(&partial).with_context(|| partial.display().to_string());
        if record.size.is_some_and(|size| had > size) {
            remove()?;
        }
        if record.size != Some(had) || had == 0 {
            let told = partial.to_string_lossy();
            let limit = record.size.unwrap_or(MAX_UNTOLD).max(MAX_REDIRECT);
            let limit = limit.to_string();
            let arguments = [
                "--location",
                "--fail",
                "--continue-at",
                "-",
                "--max-filesize",
                &limit,
                "--output",
                &told,
            ];
            curl(&arguments, &self.url(&record.file)).map_err(|failure| match failure {
                Failure::Unreachable(message) => {
                    let come = length(&partial);
                    anyhow::anyhow!(
                        "{}: broke off after {come} bytes ({message}); run again to go on from there",
                        record.file
                    )
                }
                // A server that cannot go on in the middle is asked for the whole next time.
                Failure::Other(error) if had > 0 => match remove() {
                    Ok(()) => error.context("could not go on where it broke off; run again"),
                    Err(error) => error,
                },
                Failure::Other(error) => error,
            })?;
        }
        self.verify(record, &partial)?;
        std::fs::rename(&partial, path).with_context(|| path.display().to_string())?;
        let text = serde_json::to_vec_pretty(record)?;
        std::fs::write(record_path(path), text).with_context(|| path.display().to_string())?;
        Ok(match had {
            0 => Source::Downloaded,
            _ => Source::Resumed,
        })
    }

    /// Compares size and checksum; a damaged file is removed, since no rest can mend it.
    fn verify(&self, record: &Record, partial: &Path) -> Result<()> {
        let got = std::fs::metadata(partial)
            .with_context(|| partial.display().to_string())?
            .len();
        let size = record.size.unwrap_or(got);
        let sum = sha256(partial)?;
        let expected = record.sha256().unwrap_or(&sum);
        if got == size && sum == expected {
            return Ok(());
        }
        std::fs::remove_file(partial).with_context(|| partial.display().to_string())?;
        bail!(
            "{}: damaged on the way: {got} bytes with SHA-256 {sum}, expected {size} with {expected}; removed, run again",
            record.file
        );
    }
}

/// A relative path of plain names: no way out of a folder, nothing that an address or an option
/// could be made of.
fn is_path(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+=@".contains(c);
    text.split('/').all(|part| {
        let hidden = part.starts_with(['.', '-']);
        !part.is_empty() && !hidden && part.chars().all(plain)
    })
}

fn record_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".hub.json");
    path.with_file_name(name)
}

/// The record of a copy that is there, whole.
fn read_record(path: &Path) -> Option<Record> {
    let record: Record = serde_json::from_slice(&std::fs::read(record_path(path)).ok()?).ok()?;
    let length = std::fs::metadata(path).ok()?.len();
    (record.size.unwrap_or(length) == length).then_some(record)
}

/// Names of the copies directly in a folder.
fn recorded(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let file = name.strip_suffix(".hub.json")?;
        read_record(&folder.join(file)).map(|record| record.file)
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn sha256(path: &Path) -> Result<String> {
    let named = || path.display().to_string();
    let mut file = std::fs::File::open(path).with_context(named)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).with_context(named)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    let bytes = hasher.finalize();
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Runs `curl` and returns what it prints.
fn curl(arguments: &[&str], url: &str) -> Result<String, Failure> {
    /// No address, no connection, ended early, timeout, TLS broke off, nothing came.
    const UNREACHABLE: [i32; 8] = [5, 6, 7, 18, 28, 35, 52, 56];
    let long = arguments.contains(&"--output") && std::io::stderr().is_terminal();
    let silent: &[&str] = match long {
        true => &["--progress-bar"],
        false => &["--silent", "--show-error"],
    };
    let mut command = Command::new("curl");
    command
        .args(silent)
        .args(["--globoff", "--proto", "=http,https"])
        .args([
            "--connect-timeout",
            "20",
            "--speed-time",
            "60",
            "--speed-limit",
            "1",
        ])
        .args(arguments)
        .args(["--url", url])
        .stdin(Stdio::null())
        .stderr(if long {
            Stdio::inherit()
        } else {
            Stdio::piped()
        });
    let done = command.output().map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow::anyhow!(
            "curl is not installed, and files are fetched with it: install your system's `curl` package"
        ),
        _ => anyhow::Error::new(error).context("could not start curl"),
    })?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let said = said.trim().trim_start_matches("curl: ").to_owned();
    match done.status.code() {
        Some(code) if UNREACHABLE.contains(&code) => Err(Failure::Unreachable(said)),
        _ => Err(anyhow::anyhow!("{url}: {said}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        for good in [
            "openai/clip-vit-base-patch32",
            "a/model-00001.bin",
            "refs/pr/1",
        ] {
            assert!(is_path(good), "{good}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "../a",
            "a/../b",
            "-o",
            "a//b",
            "a?b",
            "a b",
            "a\\b",
            "a:b",
        ] {
            assert!(!is_path(bad), "{bad}");
        }
    }
}
