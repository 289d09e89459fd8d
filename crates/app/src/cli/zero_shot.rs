//! `fitup evaluate zero-shot`.

use anyhow::{Context, Result};
use clap::Args;
use fitup_data::sources;
use fitup_training::tasks::zero_shot::{self, Settings};
use serde_json::json;

use super::classify::ClassArgs;
use super::model_file::ModelArgs;
use super::output::Output;
use super::spec;
use crate::progress::Phases;

const EXAMPLES: &str = "\
Examples:
  fitup evaluate zero-shot --data imagenet/val --template \"a photo of a {}.\"
  fitup evaluate zero-shot --data \"data/pictograms/test-*.tar\" --label-field group --template \"{}\"";

/// Zero-shot classification: every picture against the names of all classes
///
/// A picture's class is the field `--label-field` of its metadata in shards, else the first folder
/// of its path (`cat/0001.jpg`). Without --labels the classes are those that the data name.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{}", spec::HELP))]
pub struct ZeroShot {
    #[command(flatten)]
    model: ModelArgs,
    /// Data set: a folder, shards, or `file.json[:image_root]`
    #[arg(long, value_name = "SPEC", num_args = 1.., required = true)]
    data: Vec<String>,
    #[command(flatten)]
    classes: ClassArgs,
    /// Metadata field that names a picture's class
    #[arg(long, default_value = "label", value_name = "FIELD")]
    label_field: String,
    /// Only the first so many pictures; 0: all
    #[arg(long, default_value_t = 0)]
    images: usize,
}

pub fn run(args: &ZeroShot, output: Output) -> Result<()> {
    let spec = spec::parse(&args.data)?;
    let settings = Settings {
        classes: args.classes.names()?,
        templates: args.classes.templates()?,
        label_field: args.label_field.clone(),
        images: args.images,
        workers: std::thread::available_parallelism().map_or(2, usize::from),
    };
    let model = args.model.open()?;
    let source = sources::open(&spec).context("could not open the data")?;
    let mut phases = Phases::default();
    let result = zero_shot::evaluate(&model, source.as_ref(), &settings, &mut |done, all| {
        phases.show("images", done, all);
    });
    phases.clear();
    let result = result.context("could not evaluate")?;
    let document = json!({
        "model": model.name,
        "fingerprint": model.fingerprint,
        "data": source.describe(),
        "templates": settings.templates,
        "result": result,
    });
    let text = format!(
        "{} on {}\n{} images, {} classes, {} templates\n\n\
         top 1            {:>6.1} %\ntop 5            {:>6.1} %\nmean per class   {:>6.1} %\n\
         most frequent    {:>6.1} %   (what naming one class always would score)",
        model.name,
        source.describe(),
        result.images,
        result.classes,
        settings.templates.len(),
        result.top1,
        result.top5,
        result.mean_per_class,
        result.majority,
    );
    output.result(&document, &text)
}
