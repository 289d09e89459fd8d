//! `fitup index`: features of a collection.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use fitup_data::sources::Source;
use fitup_index::{Dtype, Store};
use fitup_training::loaded::{Collection, IndexOptions, TEXTS};
use serde_json::{Value, json};

use super::model_file::ModelArgs;
use super::output::{Output, grouped, megabytes};
use super::spec;
use crate::progress::Phases;

const BUILD_EXAMPLES: &str = "\
Examples:
  fitup index build --data photos/ --out runs/photos-index
  fitup index build --data data/pictograms/test-*.tar --out runs/index --texts --dtype f16

A run that was stopped goes on where it stood when called again; so does one on a collection
that has grown.";

const INFO_EXAMPLES: &str = "\
Examples:
  fitup index info runs/index";

/// Make a collection searchable
#[derive(Debug, Subcommand)]
pub enum Index {
    Build(Build),
    Info(Info),
}

/// Encode the pictures of a collection, once
#[derive(Debug, Args)]
#[command(after_help = BUILD_EXAMPLES, after_long_help = format!("{BUILD_EXAMPLES}\n\n{}", spec::HELP))]
pub struct Build {
    #[command(flatten)]
    model: ModelArgs,
    /// Data set: a folder, shards, or `file.json[:image_root]`
    #[arg(long, value_name = "SPEC", num_args = 1.., required = true)]
    data: Vec<String>,
    /// Folder of the index
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How features are kept; f16 takes half the space
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Number,
    /// Index the captions too, to find texts
    #[arg(long)]
    texts: bool,
}

/// Show what an index holds
#[derive(Debug, Args)]
#[command(after_help = INFO_EXAMPLES)]
pub struct Info {
    /// Folder of the index
    #[arg(value_name = "DIR")]
    index: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Number {
    F32,
    F16,
}

pub fn run(args: &Index, output: Output) -> Result<()> {
    match args {
        Index::Build(args) => build(args, output),
        Index::Info(args) => info(args, output),
    }
}

fn build(args: &Build, output: Output) -> Result<()> {
    let spec = spec::parse(&args.data)?;
    let model = args.model.open()?;
    let collection = Collection::open(&spec).context("could not open the data")?;
    let options = IndexOptions {
        dtype: match args.dtype {
            Number::F32 => Dtype::F32,
            Number::F16 => Dtype::F16,
        },
        texts: args.texts,
        workers: std::thread::available_parallelism().map_or(2, usize::from),
    };
    let mut phases = Phases::default();
    let report = model.build_index(&collection, &args.out, &options, &mut |done, all| {
        phases.show("pictures", done, all);
    });
    phases.clear();
    let report = report.with_context(|| format!("could not build {}", args.out.display()))?;
    if report.images + report.present == 0 {
        bail!(
            "{}: no picture could be used: {}",
            collection.describe(),
            report.skipped
        );
    }
    let document = json!({
        "index": args.out,
        "model": model.name,
        "fingerprint": model.fingerprint,
        "data": collection.describe(),
        "report": report,
    });
    let mut text = format!(
        "{}: {} pictures added, {} were there",
        args.out.display(),
        grouped(report.images),
        grouped(report.present)
    );
    if args.texts {
        text.push_str(&format!("; {} texts added", grouped(report.texts)));
    }
    if report.skipped.skipped > 0 {
        text.push_str(&format!("\n{}", report.skipped));
    }
    output.result(&document, &text)
}

fn info(args: &Info, output: Output) -> Result<()> {
    let store = Store::open(&args.index, None)?;
    let texts = args.index.join(TEXTS);
    let texts = match texts.is_dir() {
        true => Some(Store::open(&texts, None)?),
        false => None,
    };
    let mut text = format!("{}\n", args.index.display());
    text.push_str(&lines("pictures", &store));
    if let Some(texts) = &texts {
        text.push_str(&lines("texts", texts));
    }
    let document = json!({
        "index": args.index,
        "images": description(&store),
        "texts": texts.as_ref().map(description),
    });
    output.result(&document, &text)
}

fn bytes(store: &Store) -> u64 {
    let spec = store.spec();
    (store.len() * spec.dim * spec.dtype.size()) as u64
}

fn description(store: &Store) -> Value {
    let spec = store.spec();
    json!({
        "items": store.len(),
        "dim": spec.dim,
        "dtype": spec.dtype,
        "bytes": bytes(store),
        "complete": store.is_complete(),
        "created": store.created(),
        "model": spec.model,
    })
}

fn lines(name: &str, store: &Store) -> String {
    let spec = store.spec();
    let state = match store.is_complete() {
        true => "complete",
        false => "not complete: build it again to go on",
    };
    format!(
        "{name:<10}{} of {} {} values, {}, {state}\n{:<10}model {} ({})\n",
        grouped(store.len()),
        spec.dim,
        spec.dtype,
        megabytes(bytes(store)),
        "",
        spec.model.name,
        spec.model.fingerprint,
    )
}
