//! `fitup evaluate grounding`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use fitup_data::annotations::refcoco::RefSplit;
use fitup_training::tasks::grounding::{self, Files, GroundingResult, ReferenceSet, Settings};
use serde_json::json;

use super::model_file::ModelArgs;
use super::output::Output;
use crate::progress::Phases;

const EXAMPLES: &str = "\
Examples:
  fitup evaluate grounding --references data/scenes/test/refs.json --instances data/scenes/test/instances.json \\
      --proposals data/scenes/test/dets.json --model runs/albef-scenes
  fitup evaluate grounding --references 'refcoco+/refs(unc).p' --instances refcoco+/instances.json \\
      --proposals dets.json --images coco/ --split testA --model albef.safetensors --json";

/// Boxes that phrases mean, found without training on boxes, as ALBEF does it
///
/// Grad-CAM of matching says where the model looks for a phrase. The box is the one of --proposals
/// that holds most of it for its size, or is found on the map alone; it is right from an overlap
/// (intersection over union) of 0.5.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Grounding {
    #[command(flatten)]
    model: ModelArgs,
    /// References: RefCOCO's refs(...).p, or the same as JSON
    #[arg(long, value_name = "FILE")]
    references: PathBuf,
    /// COCO's instances with the boxes and the pictures that the references name
    #[arg(long, value_name = "FILE")]
    instances: PathBuf,
    /// Boxes that a detector proposes for every picture (ALBEF's dets.json)
    #[arg(long, value_name = "FILE")]
    proposals: Option<PathBuf>,
    /// Folders in which pictures are looked for [default: the folder of the instances]
    #[arg(long, value_name = "DIR", num_args = 1..)]
    images: Vec<PathBuf>,
    /// Only references of this split: train, val, test, testA or testB [default: all]
    #[arg(long, value_parser = split)]
    split: Option<RefSplit>,
    /// Only the first so many references; 0: all
    #[arg(long, value_name = "N", default_value_t = 0)]
    limit: usize,
    /// Layer whose cross-attention is looked at, counted from the first text layer [default: the
    /// third fusion layer, or the last but one]
    #[arg(long, value_name = "N")]
    layer: Option<usize>,
    /// Phrases at a time
    #[arg(long, value_name = "N", default_value_t = 32)]
    batch: usize,
}

fn split(name: &str) -> Result<RefSplit, String> {
    let found = RefSplit::ALL.into_iter().find(|split| split.name() == name);
    found.ok_or_else(|| "expected train, val, test, testA or testB".to_owned())
}

pub fn run(args: &Grounding, output: Output) -> Result<()> {
    let images = match args.images.is_empty() {
        false => args.images.clone(),
        true => vec![folder(&args.instances)],
    };
    if let Some(missing) = images.iter().find(|root| !root.is_dir()) {
        bail!(
            "{}: no such folder; --images takes the folder that the pictures' paths start from",
            missing.display()
        );
    }
    let model = args.model.open()?;
    let files = Files {
        references: args.references.clone(),
        instances: args.instances.clone(),
        proposals: args.proposals.clone(),
        images,
    };
    let set = ReferenceSet::read(files, args.split, args.limit)
        .context("could not read the references")?;
    let settings = Settings {
        layer: args.layer,
        batch: args.batch,
    };
    let mut phases = Phases::default();
    let result = grounding::evaluate(&model, &set, settings, &mut |done, all| {
        phases.show("phrases", done, all);
    });
    phases.clear();
    let result = result.context("could not evaluate")?;
    let document = json!({
        "model": model.name,
        "fingerprint": model.fingerprint,
        "seed": model.recipe.seed,
        "references": args.references,
        "proposals": args.proposals,
        "result": result,
    });
    let title = format!(
        "{} (seed {}) on {}",
        model.name,
        model.recipe.seed,
        args.references.display()
    );
    output.result(&document, &table(&title, &result)?)
}

/// The folder of a file; of a bare name the working directory.
fn folder(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn table(title: &str, result: &GroundingResult) -> Result<String> {
    let mut text = format!("{title}\n{}\n\n{:<32}accuracy in %\n", result.protocol, "");
    let mut row = |name: &str, percent: f64| writeln!(text, "{name:<32}{percent:>6.1}");
    if let Some(percent) = result.with_proposals {
        row("best proposed box", percent)?;
    }
    if let Some(percent) = result.random_proposal {
        row("  any proposed box (chance)", percent)?;
    }
    row("box found on the map", result.without_proposals)?;
    row("  one box for all (no model)", result.constant_box)?;
    let [left, top, width, height] = result.constant.map(|share| 100.0 * share);
    write!(
        text,
        "\none box for all: {width:.0} by {height:.0} % of the picture from {left:.0}, {top:.0} %, the best for these references"
    )?;
    Ok(text)
}
