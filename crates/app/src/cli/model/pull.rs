//! `fitup model pull`: a file of weights from the Hugging Face Hub.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::cli::output::{Output, megabytes};
use crate::hub::{self, Repository, Source};

const EXAMPLES: &str = "\
Examples:
  fitup model pull google-bert/bert-base-uncased
  fitup model pull facebook/deit-base-patch16-224 --file pytorch_model.bin
  HF_ENDPOINT=https://mirror.example fitup model pull openai/clip-vit-base-patch32 --revision main

Fetched with curl. An interrupted download goes on where it broke off; large files are compared with
the hub's SHA-256. Without a network the copy that is there is used.";

/// Fetch a file of weights from the Hugging Face Hub
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Pull {
    /// Repository, as owner/name
    #[arg(value_name = "NAME")]
    name: String,
    /// Address of the hub [default: HF_ENDPOINT, else the public hub]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Branch, tag or commit
    #[arg(long, value_name = "REVISION", default_value = "main")]
    revision: String,
    /// File in the repository [default: model.safetensors, pytorch_model.bin or the only one]
    #[arg(long, value_name = "FILE")]
    file: Option<String>,
    /// Folder of the copies
    #[arg(long, value_name = "DIR", default_value = hub::FOLDER)]
    out: PathBuf,
}

pub fn run(args: &Pull, output: Output) -> Result<()> {
    let endpoint = hub::endpoint(args.endpoint.as_deref());
    let repository = Repository::new(&endpoint, &args.name, &args.revision)?;
    let pulled = repository.pull(args.file.as_deref(), &args.out)?;
    let bytes = std::fs::metadata(&pulled.path)?.len();
    let how = match pulled.source {
        Source::Downloaded => "downloaded",
        Source::Resumed => "downloaded, the rest of an earlier try",
        Source::Unchanged => "was here already, unchanged at the hub",
        Source::Offline => "was here already; the hub could not be reached",
    };
    let checked = match pulled.record.sha256() {
        Some(_) => "SHA-256 as the hub says",
        None => "the hub gives no SHA-256 for it",
    };
    let text = format!(
        "{} ({}): {how}; {checked}",
        pulled.path.display(),
        megabytes(bytes)
    );
    let document = json!({
        "file": pulled.path,
        "bytes": bytes,
        "source": pulled.source,
        "commit": pulled.record.commit,
        "etag": pulled.record.etag,
        "sha256": pulled.record.sha256(),
    });
    output.result(&document, &text)
}
