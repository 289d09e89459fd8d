//! `fitup classify`: one picture, classes of the user's own.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use fitup_models::zero_shot::DEFAULT_TEMPLATES;
use serde_json::json;

use super::model_file::{ModelArgs, read_picture};
use super::output::Output;

const EXAMPLES: &str = "\
Examples:
  fitup classify cat.jpg --labels cat,dog,\"red fox\"
  fitup classify cat.jpg --labels-file imagenet_classes.txt --top 5
  fitup classify icon.png --labels heart,star --template \"a {}\" --template \"an icon of a {}\"";

/// Say which of your classes a picture belongs to, without training on them
///
/// Every class is named in several sentences; the picture belongs to the class whose mean
/// sentence lies nearest to it. Works with every model that embeds pictures and texts.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Classify {
    /// Picture (JPEG, PNG, WebP, GIF)
    image: PathBuf,
    #[command(flatten)]
    classes: ClassArgs,
    /// Show only the most probable classes; 0: all
    #[arg(long, default_value_t = 10)]
    top: usize,
    #[command(flatten)]
    model: ModelArgs,
}

/// Classes and the sentences that name them.
#[derive(Debug, Args)]
pub struct ClassArgs {
    /// Classes, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    labels: Vec<String>,
    /// File with one class a line
    #[arg(long, value_name = "FILE", conflicts_with = "labels")]
    labels_file: Option<PathBuf>,
    /// Sentence with {} in place of the class; may be given several times [default: five of them,
    /// from "a photo of a {}." to "a scene with a {}."]
    #[arg(long = "template", value_name = "TEXT")]
    templates: Vec<String>,
}

impl ClassArgs {
    /// The classes; empty when none were given.
    pub fn names(&self) -> Result<Vec<String>> {
        let text = match &self.labels_file {
            Some(path) => std::fs::read_to_string(path)
                .with_context(|| format!("could not read {}", path.display()))?,
            None => self.labels.join("\n"),
        };
        let names = text.lines().map(str::trim).filter(|name| !name.is_empty());
        Ok(names.map(str::to_owned).collect())
    }

    /// The sentences.
    pub fn templates(&self) -> Result<Vec<String>> {
        if let Some(template) = self.templates.iter().find(|t| !t.contains("{}")) {
            bail!("--template {template:?} has no {{}} where the class goes");
        }
        Ok(match self.templates.is_empty() {
            true => DEFAULT_TEMPLATES.map(str::to_owned).to_vec(),
            false => self.templates.clone(),
        })
    }
}

pub fn run(args: &Classify, output: Output) -> Result<()> {
    let names = args.classes.names()?;
    if names.is_empty() {
        bail!("no classes: name them with --labels cat,dog or --labels-file FILE");
    }
    let templates = args.classes.templates()?;
    let image = read_picture(&args.image)?;
    let model = args.model.open()?;
    let classes = model.classes(&names, &templates)?;
    let probabilities = model.classify(&image, &classes)?;
    let mut ranked: Vec<(&String, f32)> = names.iter().zip(probabilities).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    let shown = match args.top {
        0 => ranked.len(),
        most => most.min(ranked.len()),
    };
    let document = json!({
        "image": args.image,
        "classes": ranked[..shown]
            .iter()
            .map(|(name, probability)| json!({ "name": name, "probability": probability }))
            .collect::<Vec<_>>(),
    });
    let mut text = String::new();
    for (name, probability) in &ranked[..shown] {
        writeln!(text, "{:>6.1} %  {name}", 100.0 * probability)?;
    }
    output.result(&document, text.trim_end())
}
