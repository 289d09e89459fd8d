//! `fitup model pull` against a hub that the test serves on the loopback.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use fitup_models::weights::{self, HostTensor, Precision, TensorMap};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What the hub serves, and what it was asked.
#[derive(Default)]
struct State {
    content: Vec<u8>,
    /// SHA-256 that it claims.
    sha256: String,
    /// Length that it claims; 0: the right one.
    claims: usize,
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
        Self::serve_as(content, sha256, 0)
    }

    fn serve_as(content: &[u8], sha256: &str, claims: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            content: content.to_vec(),
            sha256: sha256.to_owned(),
            claims,
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
            let size = match state.claims {
                0 => size,
                claims => claims,
            };
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
    // Whoever asked may have hung up.
    let _ = stream.write_all(&body[..sent]);
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
fn no_more_is_fetched_than_the_hub_tells() {
    let folder = folder("more");
    let content = vec![1; 3 << 20];
    let sum = Sha256::digest(&content);
    let sum: String = sum.iter().map(|b| format!("{b:02x}")).collect();
    let hub = Hub::serve_as(&content, &sum, 2 << 20);
    refused(&folder, &hub.endpoint, &["acme/tiny"], &["file size"]);
    assert!(!folder.join(FILE).exists());
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

/// An ALBEF of two layers on the samples.
const RECIPE: &str = r#"
name = "tiny"
[model]
system = "albef"
init_text = "hub:acme/tiny"
[model.albef]
embed_dim = 8
[model.albef.vision]
image_size = 32
patch_size = 16
width = 16
depth = 1
heads = 2
[model.albef.text]
vocab_size = 200
hidden_size = 16
num_hidden_layers = 2
fusion_layer = 1
num_attention_heads = 2
intermediate_size = 32
max_position_embeddings = 12
encoder_width = 16
[data]
train = { kind = "shards", paths = ["SAMPLES/train-00000.tar"], limit = 16 }
vocabulary = "vocab.txt"
batch_size = 8
max_tokens = 12
fit = "pad_white"
[objectives]
queue_size = 0
[schedule]
kind = "constant"
lr = 1e-9
epochs = 1
[run]
steps = 1
evaluate_every = 0
"#;

fn filled(shape: &[usize], value: f32) -> HostTensor {
    HostTensor {
        shape: shape.to_vec(),
        values: vec![value; shape.iter().product()],
    }
}

/// A bare BERT of one layer, longer texts than the recipe's, and its pooler.
fn bert(folder: &Path) -> Vec<u8> {
    let mut tensors = TensorMap::new();
    let mut add = |name: &str, shape: &[usize]| {
        tensors.insert(name.to_owned(), filled(shape, 0.25));
    };
    add("embeddings.word_embeddings.weight", &[200, 16]);
    add("embeddings.position_embeddings.weight", &[40, 16]);
    add("embeddings.token_type_embeddings.weight", &[2, 16]);
    add("pooler.dense.bias", &[16]);
    for norm in [
        "embeddings",
        "encoder.layer.0.output",
        "encoder.layer.0.attention.output",
    ] {
        add(&format!("{norm}.LayerNorm.weight"), &[16]);
        add(&format!("{norm}.LayerNorm.bias"), &[16]);
    }
    for (linear, output, input) in [
        ("attention.self.query", 16, 16),
        ("attention.self.key", 16, 16),
        ("attention.self.value", 16, 16),
        ("attention.output.dense", 16, 16),
        ("intermediate.dense", 32, 16),
        ("output.dense", 16, 32),
    ] {
        add(
            &format!("encoder.layer.0.{linear}.weight"),
            &[output, input],
        );
        add(&format!("encoder.layer.0.{linear}.bias"), &[output]);
    }
    let file = folder.join("bert.safetensors");
    weights::write(&file, &tensors, HashMap::new(), Precision::F32).unwrap();
    std::fs::read(&file).unwrap()
}

fn pretrain(folder: &Path, endpoint: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fitup"));
    command
        .current_dir(folder)
        .env("NO_PROXY", "127.0.0.1")
        .env("HF_ENDPOINT", endpoint)
        .args(["pretrain", "tiny.toml", "--json"])
        .args(args);
    command.output().unwrap()
}

#[test]
fn a_run_starts_from_an_encoder_on_the_hub() {
    let folder = folder("initial");
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/../../samples/pictograms");
    let recipe = RECIPE.replace("SAMPLES", &samples.replace('\\', "/"));
    std::fs::write(folder.join("tiny.toml"), recipe).unwrap();
    let mut words: Vec<String> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        .map(str::to_owned)
        .to_vec();
    words.extend(('a'..='z').flat_map(|c| [c.to_string(), format!("##{c}")]));
    std::fs::write(folder.join("vocab.txt"), words.join("\n")).unwrap();
    let content = bert(&folder);
    let sum = Sha256::digest(&content);
    let sum: String = sum.iter().map(|b| format!("{b:02x}")).collect();
    let hub = Hub::serve(&content, &sum);

    let started = |endpoint: &str, out: &str| -> Value {
        let output = pretrain(&folder, endpoint, &["--out", out]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let run = started(&hub.endpoint, "first");
    let encoder = &run["encoders"][0];
    assert_eq!(encoder["taken"], 5 + 4 + 12);
    assert_eq!(encoder["dropped"], json!(["pooler.dense.bias"]));
    let fitted = encoder["fitted"].to_string();
    assert!(fitted.contains("the first 12 of 40 positions"), "{fitted}");
    let fresh = encoder["fresh"].as_array().unwrap();
    let layer_0 = |name: &&Value| name.as_str().unwrap().contains("layer.0.");
    assert_eq!(fresh.iter().filter(layer_0).count(), 0, "{fresh:?}");
    let (tensors, _) = weights::read(&folder.join("first/model.safetensors")).unwrap();
    let query = "text_encoder.bert.encoder.layer.0.attention.self.query.weight";
    assert!(
        tensors[query]
            .values
            .iter()
            .all(|v| (v - 0.25).abs() < 1e-6)
    );

    // The copy serves without a network, a run that goes on needs none, and none is no file.
    let again = started(NOWHERE, "second");
    assert_eq!(again["encoders"][0]["taken"], encoder["taken"]);
    let resume = ["--out", "second", "--resume"];
    assert_eq!(pretrain(&folder, NOWHERE, &resume).status.code(), Some(0));
    let refused = |set: &str, part: &str| {
        let output = pretrain(&folder, &hub.endpoint, &["--out", "third", "--set", set]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(part), "no {part:?} in {stderr:?}");
    };
    refused("model.init_text=hub:tiny", "model.init_text");
    refused(
        "model.init_text=hub:acme/tiny/none.bin",
        "none.bin does not exist",
    );
    refused(
        "model.init_image=hub:acme/tiny",
        "no published image encoder",
    );
    refused(
        "model.albef.text.hidden_size=32",
        "expected [200, 32], got [200, 16]",
    );
}
