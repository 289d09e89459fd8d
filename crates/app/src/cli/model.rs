//! `fitup model`: look into checkpoints, make them small, turn formats into one
//! another, and fetch what others publish.

mod contents;
mod convert;
mod pull;

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use fitup_data::loader::Part;
use fitup_models::weights::{self, Precision, TensorMap};
use fitup_training::albef::is_model;
use fitup_training::checkpoint::{self, Checkpoint};
use serde_json::{Value, json};

use super::model_file;
use super::output::{Output, grouped, megabytes};

const INSPECT_EXAMPLES: &str = "\
Examples:
  fitup model inspect weights/albef-tiny.safetensors
  fitup model inspect runs/albef-tiny --tensors
  fitup model inspect ALBEF.pth --tensors";

const EXPORT_EXAMPLES: &str = "\
Examples:
  fitup model export runs/albef-tiny --out albef-tiny.safetensors --f16
  fitup model export runs/albef-tiny/checkpoints/step-00000500.safetensors --out early.safetensors";

/// Inspect, export, convert and fetch models
#[derive(Debug, Subcommand)]
pub enum Model {
    Inspect(Inspect),
    Export(Export),
    Convert(convert::Convert),
    Pull(pull::Pull),
}

/// Show what a model file holds
#[derive(Debug, Args)]
#[command(after_help = INSPECT_EXAMPLES)]
pub struct Inspect {
    /// Checkpoint, exported model, folder of a run, or any safetensors or PyTorch file
    file: PathBuf,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
}

/// Write a model for use alone: no optimizer state, no queue
#[derive(Debug, Args)]
#[command(after_help = EXPORT_EXAMPLES)]
pub struct Export {
    /// Folder of a run (its newest checkpoint), or a checkpoint
    run: PathBuf,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// 16-bit floats: half the size
    #[arg(long)]
    f16: bool,
}

pub fn run(args: &Model, output: Output) -> Result<()> {
    match args {
        Model::Inspect(args) => inspect(args, output),
        Model::Export(args) => export(args, output),
        Model::Convert(args) => convert::run(args, output),
        Model::Pull(args) => pull::run(args, output),
    }
}

fn count(tensors: &TensorMap, belongs: impl Fn(&str) -> bool) -> usize {
    let values = tensors.iter().filter(|(name, _)| belongs(name));
    values.map(|(_, tensor)| tensor.values.len()).sum()
}

fn inspect(args: &Inspect, output: Output) -> Result<()> {
    let path = model_file::resolve(&args.file)?;
    let (listed, metadata) = weights::list(&path)?;
    if !listed.is_empty() && !checkpoint::is_checkpoint(&metadata) {
        return contents::show(&path, &listed, args.tensors, output);
    }
    let Checkpoint {
        recipe,
        vocabulary,
        progress,
        tensors,
    } = Checkpoint::read(&path)?;
    let bytes = std::fs::metadata(&path)
        .with_context(|| path.display().to_string())?
        .len();
    let parameters = count(&tensors, is_model);
    let momentum = count(&tensors, weights::is_momentum);
    let optimizer = count(&tensors, |name| name.starts_with("optimizer."));
    let mut text = String::new();
    let mut line = |name: &str, value: String| writeln!(text, "{name:<14}{value}");
    let sizes = recipe.model.sizes();
    line("file", format!("{} ({})", path.display(), megabytes(bytes)))?;
    line("system", recipe.model.system.to_string())?;
    line("run", format!("{} (seed {})", recipe.name, recipe.seed))?;
    line("images", format!("{} px", sizes.image_size()))?;
    if recipe.part() != Part::Images {
        line("texts", format!("up to {} tokens", recipe.data.max_tokens))?;
    }
    line(
        "vocabulary",
        format!("{} tokens", grouped(vocabulary.len())),
    )?;
    line("parameters", grouped(parameters))?;
    line(
        "momentum copy",
        match momentum {
            0 => "none".to_owned(),
            _ => "yes".to_owned(),
        },
    )?;
    line(
        "training",
        match &progress {
            Some(progress) => format!("step {}; can be resumed", progress.step),
            None => "exported for use".to_owned(),
        },
    )?;
    if args.tensors {
        writeln!(text)?;
        for (name, tensor) in &tensors {
            writeln!(text, "{name}  {:?}", tensor.shape)?;
        }
    } else {
        writeln!(text, "\n{}", recipe.to_toml())?;
    }
    let shapes = args.tensors.then(|| {
        let shapes = tensors
            .iter()
            .map(|(name, tensor)| (name.clone(), json!(tensor.shape)));
        Value::Object(shapes.collect())
    });
    let document = json!({
        "file": path,
        "bytes": bytes,
        "system": recipe.model.system,
        "parameters": parameters,
        "momentum_parameters": momentum,
        "optimizer_values": optimizer,
        "vocabulary": vocabulary.len(),
        "step": progress.map(|progress| progress.step),
        "recipe": recipe,
        "tensors": shapes,
    });
    output.result(&document, &text)
}

fn export(args: &Export, output: Output) -> Result<()> {
    // The newest checkpoint, since `model.safetensors` of a run may have been taken away.
    let newest = checkpoint::list(&args.run.join("checkpoints"))?.pop();
    let path = match newest {
        Some((_, path)) => path,
        None => model_file::resolve(&args.run)?,
    };
    let checkpoint = Checkpoint::read(&path)?;
    let step = checkpoint.progress.as_ref().map(|progress| progress.step);
    let precision = match args.f16 {
        true => Precision::F16,
        false => Precision::F32,
    };
    checkpoint.for_use().write(&args.out, precision)?;
    let bytes = std::fs::metadata(&args.out)
        .with_context(|| args.out.display().to_string())?
        .len();
    let document = json!({ "from": path, "step": step, "file": args.out, "bytes": bytes });
    let text = format!(
        "{} ({}) from {}",
        args.out.display(),
        megabytes(bytes),
        path.display()
    );
    output.result(&document, &text)
}
