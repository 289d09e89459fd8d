//! `fitup model pull` against a hub that the test serves on the loopback.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What the hub serves, and what it was asked.
#[derive(Default)]
struct State {
    content: Vec<u8>,
    /// SHA-256 that it claims.
    sha256: String,
    /// Break the next download off in the middle.
    breaks: AtomicBool,
    requests: Mutex<Vec<String>>,
}

struct Hub {
    state: Arc<State>,
    endpoint: String,
}

impl Hub {
    fn serve(content: &[u8], sha256: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            content: content.to_vec(),
            sha256: sha256.to_owned(),
            ..State::default()
        });
        let served = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answer(&served, stream.unwrap());
            }
        });
        Self { state, endpoint }
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.state.requests.lock().unwrap())
    }
}

/// One request a connection.
fn answer(state: &State, mut stream: TcpStream) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let Some(Ok(request)) = lines.next() else {
        return;
    };
    let mut start = 0;
    for line in lines.map_while(Result::ok) {
        if line.is_empty() {
            break;
        }
        let range = line.to_ascii_lowercase();
        if let Some(range) = range.strip_prefix("range: bytes=") {
            start = range.trim_end_matches('-').parse().unwrap();
        }
    }
    let request = request.trim_end_matches(" HTTP/1.1").to_owned();
    let logged = match start {
        0 => request.clone(),
        start => format!("{request} from {start}"),
    };
    state.requests.lock().unwrap().push(logged);
    let size = state.content.len();
    let (head, body) = match request.as_str() {
        "GET /api/models/acme/tiny/revision/main" => {
            let files = ["README.md", "model.safetensors", "vocab.txt"];
            let siblings = files.map(|file| json!({ "rfilename": file }));
            let body = json!({ "sha": "c0ffee", "siblings": siblings }).to_string();
            ("200 OK".to_owned(), body.into_bytes())
        }
        "HEAD /acme/old/resolve/main/model.safetensors" => {
            let head = "307 Moved\r\nLocation: /acme/tiny/resolve/main/model.safetensors";
            (head.to_owned(), vec![])
        }
        "HEAD /acme/tiny/resolve/main/model.safetensors"
        | "GET /acme/tiny/resolve/main/model.safetensors"
        | "GET /acme/old/resolve/main/model.safetensors" => {
            let head = format!(
                "302 Found\r\nX-Repo-Commit: c0ffee\r\nX-Linked-Size: {size}\r\nX-Linked-ETag: \"{}\"\r\nETag: \"pointer\"\r\nLocation: /far/away",
                state.sha256
            );
            (head, vec![])
        }
        "GET /far/away" => {
            let status = if start > 0 {
                "206 Partial Content"
            } else {
                "200 OK"
            };
            let range = format!("Content-Range: bytes {start}-{}/{size}", size - 1);
            (
                format!("{status}\r\n{range}"),
                state.content[start..].to_vec(),
            )
        }
        "HEAD /acme/tiny/resolve/main/vocab.txt" => (
            "200 OK\r\nETag: \"0123456789abcdef\"".to_owned(),
            b"[PAD]\n".to_vec(),
        ),
        "GET /acme/tiny/resolve/main/vocab.txt" => ("200 OK".to_owned(), b"[PAD]\n".to_vec()),
        _ => ("404 Not Found".to_owned(), vec![]),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    if request.starts_with("HEAD") {
        return;
    }
    let breaks = request.ends_with("/far/away") && state.breaks.swap(false, Ordering::SeqCst);
    let sent = if breaks { length / 2 } else { length };
    stream.write_all(&body[..sent]).unwrap();
}

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("hub")
        .join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn pull(folder: &Path, endpoint: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fitup"));
    command
        .current_dir(folder)
        .env("NO_PROXY", "127.0.0.1")
        .env("HF_ENDPOINT", endpoint)
        .args(["model", "pull"])
        .args(args)
        .args(["--out", "models", "--json"]);
    command.output().unwrap()
}

#[track_caller]
fn pulled(folder: &Path, endpoint: &str, args: &[&str]) -> Value {
    let output = pull(folder, endpoint, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn refused(folder: &Path, endpoint: &str, args: &[&str], parts: &[&str]) {
    let output = pull(folder, endpoint, args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "no {part:?} in {stderr:?}");
    }
}

fn content() -> (Vec<u8>, String) {
    let content: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
    let sum = Sha256::digest(&content);
    let sum = sum.iter().map(|b| format!("{b:02x}")).collect();
    (content, sum)
}

const FILE: &str = "models/acme--tiny/main/model.safetensors";
/// No server listens there.
const NOWHERE: &str = "http://127.0.0.1:9";

#[test]
fn a_file_is_fetched_once_and_used_again_without_a_network() {
    let folder = folder("once");
    let (content, sum) = content();
    let hub = Hub::serve(&content, &sum);
    let first = pulled(&folder, &hub.endpoint, &["acme/tiny"]);
    assert_eq!(first["source"], "downloaded");
    assert_eq!(first["commit"], "c0ffee");
    assert_eq!(first["sha256"], json!(sum));
    assert_eq!(std::fs::read(folder.join(FILE)).unwrap(), content);
    hub.requests();

    let again = pulled(&folder, &hub.endpoint, &["acme/tiny"]);
    assert_eq!(again["source"], "unchanged");
    let requests = hub.requests();
    assert!(
        requests.iter().all(|r| !r.contains("/far/away")),
        "{requests:?}"
    );

    let offline = pulled(&folder, NOWHERE, &["acme/tiny"]);
    assert_eq!(offline["source"], "offline");
    assert_eq!(offline["sha256"], json!(sum));
    refused(
        &folder,
        NOWHERE,
        &["acme/other"],
        &["could not reach the hub", "no copy here"],
    );
}

#[test]
fn a_broken_download_goes_on_where_it_broke_off() {
    let folder = folder("resume");
    let (content, sum) = content();
    let hub = Hub::serve(&content, &sum);
    hub.state.breaks.store(true, Ordering::SeqCst);
    refused(
        &folder,
        &hub.endpoint,
        &["acme/tiny"],
        &["broke off after 100000 bytes", "run again"],
    );
    assert!(!folder.join(FILE).exists());
    hub.requests();
    let rest = pulled(&folder, &hub.endpoint, &["acme/tiny"]);
    assert_eq!(rest["source"], "resumed");
    assert!(
        hub.requests()
            .contains(&"GET /far/away from 100000".to_owned())
    );
    assert_eq!(std::fs::read(folder.join(FILE)).unwrap(), content);
}

#[test]
fn a_file_that_does_not_match_its_checksum_is_removed() {
    let folder = folder("damaged");
    let (mut content, sum) = content();
    content[5] ^= 1;
    let hub = Hub::serve(&content, &sum);
    refused(
        &folder,
        &hub.endpoint,
        &["acme/tiny"],
        &["model.safetensors", "damaged on the way", &sum],
    );
    let left = std::fs::read_dir(folder.join("models/acme--tiny/main")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn moved_repositories_are_followed_and_small_files_have_no_checksum() {
    let folder = folder("moved");
    let (content, sum) = content();
    let hub = Hub::serve(&content, &sum);
    let moved = ["acme/old", "--file", "model.safetensors"];
    let moved = pulled(&folder, &hub.endpoint, &moved);
    assert_eq!(moved["sha256"], json!(sum));
    // `--endpoint` goes before the environment.
    let small = [
        "acme/tiny",
        "--file",
        "vocab.txt",
        "--endpoint",
        &hub.endpoint,
    ];
    let small = pulled(&folder, NOWHERE, &small);
    assert_eq!(
        (&small["bytes"], &small["sha256"]),
        (&json!(6), &Value::Null)
    );
}

#[test]
fn what_is_not_there_or_no_name_is_told() {
    let folder = folder("errors");
    let (content, sum) = content();
    let hub = Hub::serve(&content, &sum);
    refused(
        &folder,
        &hub.endpoint,
        &["acme/tiny", "--file", "none.bin"],
        &["none.bin does not exist", "acme/tiny", "404"],
    );
    refused(
        &folder,
        &hub.endpoint,
        &["acme/none"],
        &["acme/none does not exist"],
    );
    hub.requests();
    for name in ["../etc", "a/b/c", "a b", "acme/tiny?x"] {
        refused(
            &folder,
            &hub.endpoint,
            &[name],
            &["the name of a repository"],
        );
    }
    let escape = ["acme/tiny", "--file", "../../x"];
    refused(&folder, &hub.endpoint, &escape, &["not the name of a file"]);
    refused(
        &folder,
        "ftp://x",
        &["acme/tiny"],
        &["begins with https://"],
    );
    assert_eq!(hub.requests(), Vec::<String>::new());
    assert!(!folder.join("models").exists());
}
