//! `fitup fill`: masked words.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use fitup_training::loaded::FilledMask;
use serde_json::{Value, json};

use super::model_file::{ModelArgs, read_picture};
use super::output::Output;

const EXAMPLES: &str = "\
Examples:
  fitup fill dog.jpg \"a [MASK] in the snow\"
  fitup fill dog.jpg \"a [MASK] dog on a [MASK]\" --top 3 --json";

/// Fill in the `[MASK]`ed words of a text about a picture
///
/// Words of the model stand beside those of its momentum copy, which gave the soft targets in
/// training.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Fill {
    /// Picture (JPEG, PNG, WebP, GIF)
    image: PathBuf,
    /// Text with one or more `[MASK]`
    text: String,
    /// Words shown for every gap
    #[arg(long, default_value_t = 5)]
    top: usize,
    #[command(flatten)]
    model: ModelArgs,
}

pub fn run(args: &Fill, output: Output) -> Result<()> {
    let image = read_picture(&args.image)?;
    let model = args.model.open()?;
    let filled = model.fill(&image, &args.text, args.top)?;
    let mut text = format!("{}\n", filled.best());
    for (number, mask) in (1..).zip(&filled.masks) {
        table(&mut text, number, mask)?;
    }
    let masks: Vec<Value> = filled
        .masks
        .iter()
        .map(|mask| json!({ "model": words(&mask.model), "momentum": mask.momentum.as_deref().map(words) }))
        .collect();
    let document = json!({ "text": filled.text, "best": filled.best(), "masks": masks });
    output.result(&document, &text)
}

fn words(words: &[(String, f32)]) -> Vec<Value> {
    words
        .iter()
        .map(|(word, probability)| json!({ "word": word, "probability": probability }))
        .collect()
}

fn table(text: &mut String, number: usize, mask: &FilledMask) -> std::fmt::Result {
    let momentum = mask.momentum.as_deref();
    let title = momentum.map_or("", |_| "momentum model");
    writeln!(text, "\n[MASK] {number}")?;
    writeln!(text, "  {:<28}{title}", "model")?;
    for (place, (word, probability)) in mask.model.iter().enumerate() {
        write!(text, "  {:<18}{:>5.1} %   ", word, 100.0 * probability)?;
        if let Some((word, probability)) = momentum.and_then(|words| words.get(place)) {
            write!(text, "{:<18}{:>5.1} %", word, 100.0 * probability)?;
        }
        writeln!(text)?;
    }
    Ok(())
}
