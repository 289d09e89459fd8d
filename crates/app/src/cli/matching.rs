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
/// separate embeddings. A model without one of them shows the other.
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
    let probability = match model.model.matching() {
        Some(_) => Some(model.match_score(&image, &args.text)?),
        None => None,
    };
    let similarity = match model.model.embed_dim() {
        Some(_) => Some(model.similarity(&image, &args.text)?),
        None => None,
    };
    let document = json!({
        "image": args.image,
        "text": args.text,
        "match_probability": probability,
        "similarity": similarity,
    });
    let probability =
        probability.map(|p| format!("match       {:>6.1} %   (matching head)", 100.0 * p));
    let similarity =
        similarity.map(|s| format!("similarity  {s:>+7.3}    (cosine of the embeddings)"));
    let lines: Vec<String> = probability.into_iter().chain(similarity).collect();
    output.result(&document, &lines.join("\n"))
}
