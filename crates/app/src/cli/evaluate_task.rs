//! `fitup evaluate vqa`, `nlvr2`, `entailment`: scores of a fine-tuned model on a task's annotations.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use fitup_data::annotations::OnBad;
use fitup_data::sources::{self, AnnotationSpec, Source, SourceSpec};
use fitup_training::loaded::{LoadedTask, Said};
use fitup_training::recipe::{FirstTokenCount, TaskKind};
use fitup_training::tasks::vqa::Decoding;
use fitup_training::tasks::{classes, vqa as questions};
use serde_json::json;

use super::model_file::TaskModelArgs;
use super::output::{Output, write_whole};
use crate::progress::Phases;

const VQA_EXAMPLES: &str = "\
Examples:
  fitup evaluate vqa --data data/scenes/test/vqa.json --images data/scenes/test
  fitup evaluate vqa --data v2_OpenEnded_mscoco_val2014_questions.json v2_mscoco_val2014_annotations.json --images coco
  fitup evaluate vqa --data v2_OpenEnded_mscoco_test2015_questions.json --images coco --out results.json
  fitup evaluate vqa --data data/scenes/test/vqa.json --images data/scenes/test --open-ended --beams 3";

const NLVR2_EXAMPLES: &str = "\
Examples:
  fitup evaluate nlvr2 --data data/scenes/test/nlvr2.jsonl --images data/scenes/test
  fitup evaluate nlvr2 --model runs/nlvr2-2 --data test1.json --images nlvr2/images --out judgements.json";

const ENTAILMENT_EXAMPLES: &str = "\
Examples:
  fitup evaluate entailment --data data/scenes/test/snli_ve.jsonl --images data/scenes/test
  fitup evaluate entailment --data snli_ve_test.jsonl --images flickr30k-images --out judgements.json";

/// The annotations and pictures of a task.
#[derive(Debug, Args)]
struct DataArgs {
    /// Annotation files as published, or ALBEF's lists; * in a file name stands for anything
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    /// Folder of the pictures; may be repeated
    #[arg(long, value_name = "DIR", num_args = 1.., required = true)]
    images: Vec<PathBuf>,
    /// Only the first so many records; 0: all
    #[arg(long, value_name = "N", default_value_t = 0)]
    limit: usize,
    /// Also write what was said of every record, as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl DataArgs {
    fn open(&self, kind: fn(AnnotationSpec) -> SourceSpec) -> Result<Box<dyn Source>> {
        let spec = AnnotationSpec {
            files: self.data.clone(),
            image_roots: self.images.clone(),
            // A test set is scored whole or not at all.
            on_bad: OnBad::Fail,
            limit: (self.limit > 0).then_some(self.limit),
        };
        sources::open(&kind(spec)).context("could not open the data")
    }
}

/// Answer questions about pictures, and score that as VQAv2 does
#[derive(Debug, Args)]
#[command(after_help = VQA_EXAMPLES)]
pub struct Vqa {
    #[command(flatten)]
    model: TaskModelArgs,
    #[command(flatten)]
    data: DataArgs,
    /// Answers ranked as a whole, chosen by the likelihood of their first token [default: the recipe's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    k: Option<u32>,
    /// Count the first token of an answer twice, as the original does
    #[arg(long)]
    first_token_twice: bool,
    /// Write answers token by token instead of choosing among a list
    #[arg(long, conflicts_with_all = ["k", "first_token_twice"])]
    open_ended: bool,
    /// Answers kept at each step of writing; 1 takes the likeliest token each time
    #[arg(long, value_name = "N", default_value_t = 1, requires = "open_ended", value_parser = clap::value_parser!(u16).range(1..))]
    beams: u16,
}

/// Judge statements on two pictures (NLVR2)
#[derive(Debug, Args)]
#[command(after_help = NLVR2_EXAMPLES)]
pub struct Nlvr2 {
    #[command(flatten)]
    model: TaskModelArgs,
    #[command(flatten)]
    data: DataArgs,
}

/// Say what follows from pictures (SNLI-VE)
#[derive(Debug, Args)]
#[command(after_help = ENTAILMENT_EXAMPLES)]
pub struct Entailment {
    #[command(flatten)]
    model: TaskModelArgs,
    #[command(flatten)]
    data: DataArgs,
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// For models that choose among answers.
pub(super) const CANNOT_WRITE: &str = "this model has a head on a list of answers and writes none: leave --open-ended out; an albef writes";

pub fn vqa(args: &Vqa, output: Output) -> Result<()> {
    let model = args.model.open(TaskKind::Vqa)?;
    let source = args.data.open(SourceSpec::Vqa)?;
    let Said::Answers(answering) = &model.model else {
        bail!("{} gives no answers", model.name);
    };
    if args.open_ended && !answering.writes() {
        bail!(CANNOT_WRITE);
    }
    let task = model.recipe.task.as_ref().context("no task inside")?;
    let decoding = if args.open_ended {
        model.writing(usize::from(args.beams))
    } else {
        let first_token = match args.first_token_twice {
            true => FirstTokenCount::Twice,
            false => task.first_token,
        };
        Decoding::Ranked {
            k: args.k.map_or(task.k, |k| k as usize),
            first_token: first_token.into(),
        }
    };
    let count = source.len();
    let mut phases = Phases::default();
    let result = questions::evaluate(
        questions::Asked {
            model: answering.as_ref(),
            list: &model.answers,
            decoding: &decoding,
        },
        source.as_ref(),
        count,
        &model.preparation(),
        workers(),
        &mut |done| phases.show("questions", done, count),
    );
    phases.clear();
    let result = result.context("could not evaluate")?;
    if let Some(out) = &args.data.out {
        let text = serde_json::to_string(&result.predictions)?;
        write_whole(out, text.as_bytes())?;
    }
    let mut text = title(&model, source.as_ref());
    match &result.scores {
        Some(scores) => {
            writeln!(text, "{}\n", scores.protocol)?;
            writeln!(text, "accuracy              {:>6.2} %", scores.accuracy)?;
            let kinds = scores.by_answer_type.iter().chain(&scores.by_question_type);
            for (kind, accuracy) in kinds {
                writeln!(text, "  {kind:<20}{accuracy:>6.2} %")?;
            }
        }
        None => writeln!(
            text,
            "{count} questions answered; their answers are not public, so there is no score"
        )?,
    }
    if let Some(out) = &args.data.out {
        writeln!(text, "answers: {}", out.display())?;
    }
    let document = json!({
        "model": model.name,
        "seed": model.recipe.seed,
        "data": source.describe(),
        "result": result.scores,
        "answers": args.data.out,
    });
    output.result(&document, &text)
}

pub fn nlvr2(args: &Nlvr2, output: Output) -> Result<()> {
    let model = args.model.open(TaskKind::Nlvr2)?;
    let source = args.data.open(SourceSpec::Nlvr2)?;
    judge(&model, source.as_ref(), &args.data, output)
}

pub fn entailment(args: &Entailment, output: Output) -> Result<()> {
    let model = args.model.open(TaskKind::Entailment)?;
    let source = args.data.open(SourceSpec::Entailment)?;
    judge(&model, source.as_ref(), &args.data, output)
}

fn judge(model: &LoadedTask, source: &dyn Source, data: &DataArgs, output: Output) -> Result<()> {
    let Said::Classes(classifying) = &model.model else {
        bail!("{} has no classes", model.name);
    };
    let count = source.len();
    let mut phases = Phases::default();
    let result = classes::evaluate(
        classifying.as_ref(),
        model.kind,
        source,
        count,
        &model.preparation(),
        workers(),
        &mut |done| phases.show("records", done, count),
    );
    phases.clear();
    let result = result.context("could not evaluate")?;
    if let Some(out) = &data.out {
        let text = serde_json::to_string(&result.judgements)?;
        write_whole(out, text.as_bytes())?;
    }
    let scores = &result.scores;
    let mut text = title(model, source);
    writeln!(text, "{}\n", scores.protocol)?;
    writeln!(text, "accuracy         {:>6.2} %", scores.accuracy)?;
    for class in &scores.by_class {
        let share = 100.0 * class.right as f64 / class.records.max(1) as f64;
        writeln!(
            text,
            "  {:<15}{share:>6.2} % of {}",
            class.class, class.records
        )?;
    }
    if let Some(consistency) = scores.consistency {
        writeln!(
            text,
            "consistency      {consistency:>6.2} %  (sentences right about all their pairs)"
        )?;
    }
    if let Some(out) = &data.out {
        writeln!(text, "judgements: {}", out.display())?;
    }
    let document = json!({
        "model": model.name,
        "seed": model.recipe.seed,
        "data": source.describe(),
        "result": scores,
        "judgements": data.out,
    });
    output.result(&document, &text)
}

fn title(model: &LoadedTask, source: &dyn Source) -> String {
    format!(
        "{} (seed {}) on {}\n",
        model.name,
        model.recipe.seed,
        source.describe()
    )
}
