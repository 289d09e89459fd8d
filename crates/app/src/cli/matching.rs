//! `fitup match`: one picture, one text.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::model_file::{ModelArgs, read_picture};
use super::output::Output;

const EXAMPLES: &str = "\
Examples:
  fitup match dog.jpg \"a dog in the snow\"
  fitup match dog.jpg \"a dog in the snow\" --json --model runs/albef-tiny";

/// Say how well a text describes a picture
///
/// The matching head reads picture and text together; the contrastive similarity compares their
/// separate embeddings.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Match {
    /// Picture (JPEG, PNG, WebP, GIF)
    image: PathBuf,
    /// Text
    text: String,
    #[command(flatten)]
    model: ModelArgs,
}

pub fn run(args: &Match, output: Output) -> Result<()> {
    let image = read_picture(&args.image)?;
    let model = args.model.open()?;
    let probability = model.match_score(&image, &args.text)?;
    let similarity = model.similarity(&image, &args.text)?;
    let document = json!({
        "image": args.image,
        "text": args.text,
        "match_probability": probability,
        "similarity": similarity,
    });
    let text = format!(
        "match       {:>6.1} %   (matching head)\nsimilarity  {similarity:>+7.3}    (cosine of the embeddings)",
        100.0 * probability
    );
    output.result(&document, &text)
}
