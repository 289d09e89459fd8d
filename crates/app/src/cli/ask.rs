//! `fitup ask`, `compare`, `entail`: what a fine-tuned model says of a picture, or of two.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use fitup_training::loaded::{ClassProbability, Said};
use fitup_training::recipe::TaskKind;
use serde_json::json;

use super::evaluate_task::CANNOT_WRITE;
use super::model_file::{TaskModelArgs, read_picture};
use super::output::Output;

const ASK_EXAMPLES: &str = "\
Examples:
  fitup ask photo.jpg \"how many dogs are there?\"
  fitup ask photo.jpg \"what color is the car?\" --top 3 --model runs/vqa
  fitup ask photo.jpg \"what is on the table?\" --open-ended --beams 3";

const COMPARE_EXAMPLES: &str = "\
Examples:
  fitup compare left.jpg right.jpg \"both images contain a dog\"
  fitup compare left.jpg right.jpg \"the left image contains two cats\" --model runs/nlvr2 --json";

const ENTAIL_EXAMPLES: &str = "\
Examples:
  fitup entail photo.jpg \"two people are outdoors\"
  fitup entail photo.jpg \"nobody is awake\" --model runs/entailment --json";

/// Ask a question about a picture
///
/// The model is one of `fitup finetune vqa`. It chooses among the answers it was trained on, or writes one.
#[derive(Debug, Args)]
#[command(after_help = ASK_EXAMPLES)]
pub struct Ask {
    /// Picture (JPEG, PNG, WebP, GIF)
    image: PathBuf,
    /// Question
    question: String,
    /// Answers shown
    #[arg(long, value_name = "N", default_value_t = 5)]
    top: usize,
    /// Write the answer token by token instead of choosing among a list
    #[arg(long)]
    open_ended: bool,
    /// Answers kept at each step of writing; 1 takes the likeliest token each time
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    beams: u16,
    #[command(flatten)]
    model: TaskModelArgs,
}

/// Say whether a statement is true of two pictures
///
/// The model is one of `fitup finetune nlvr2`.
#[derive(Debug, Args)]
#[command(after_help = COMPARE_EXAMPLES)]
pub struct Compare {
    /// Left picture
    left: PathBuf,
    /// Right picture
    right: PathBuf,
    /// Statement
    statement: String,
    #[command(flatten)]
    model: TaskModelArgs,
}

/// Say whether a hypothesis follows from a picture
///
/// The model is one of `fitup finetune entailment`.
#[derive(Debug, Args)]
#[command(after_help = ENTAIL_EXAMPLES)]
pub struct Entail {
    /// Picture
    image: PathBuf,
    /// Hypothesis
    hypothesis: String,
    #[command(flatten)]
    model: TaskModelArgs,
}

pub fn run(args: &Ask, output: Output) -> Result<()> {
    let image = read_picture(&args.image)?;
    let model = args.model.open(TaskKind::Vqa)?;
    let Said::Answers(answering) = &model.model else {
        bail!("{} gives no answers", model.name);
    };
    if args.open_ended && !answering.writes() {
        bail!(CANNOT_WRITE);
    }
    let decoding = match args.open_ended {
        true => model.writing(usize::from(args.beams)),
        false => model.decoding(),
    };
    let mut answers = model.ask(&image, &args.question, &decoding)?;
    answers.truncate(args.top);
    let lines: Vec<String> = answers
        .iter()
        .map(|answer| format!("{:>6.1} %  {}", 100.0 * answer.probability, answer.text))
        .collect();
    let document = json!({
        "image": args.image,
        "question": args.question,
        "answers": answers,
        "decoding": answering.describe(&decoding, model.answers.texts.len()),
    });
    output.result(&document, &lines.join("\n"))
}

pub fn run_compare(args: &Compare, output: Output) -> Result<()> {
    let (left, right) = (read_picture(&args.left)?, read_picture(&args.right)?);
    let model = args.model.open(TaskKind::Nlvr2)?;
    let classes = model.judge(&[&left, &right], &args.statement)?;
    let document = json!({
        "left": args.left,
        "right": args.right,
        "statement": args.statement,
        "probabilities": named(&classes),
    });
    output.result(&document, &table(classes))
}

pub fn run_entail(args: &Entail, output: Output) -> Result<()> {
    let image = read_picture(&args.image)?;
    let model = args.model.open(TaskKind::Entailment)?;
    let classes = model.judge(&[&image], &args.hypothesis)?;
    let document = json!({
        "image": args.image,
        "hypothesis": args.hypothesis,
        "probabilities": named(&classes),
    });
    output.result(&document, &table(classes))
}

fn named(classes: &[ClassProbability]) -> serde_json::Value {
    classes
        .iter()
        .map(|(name, probability)| ((*name).to_owned(), json!(probability)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// A line a class, the likeliest first.
fn table(mut classes: Vec<ClassProbability>) -> String {
    classes.sort_by(|a, b| b.1.total_cmp(&a.1));
    let lines = classes
        .iter()
        .map(|(name, probability)| format!("{:>6.1} %  {name}", 100.0 * probability));
    lines.collect::<Vec<_>>().join("\n")
}
