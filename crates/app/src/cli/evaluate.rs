//! `fitup evaluate`: scores on a data set.

use std::fmt::Write;

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use fitup_data::sources;
use fitup_index::RetrievalMetrics;
use fitup_training::tasks::retrieval::{self, RetrievalResult, Settings};
use serde_json::json;

use super::evaluate_task::{self, Entailment, Nlvr2, Vqa};
use super::grounding::{self, Grounding};
use super::model_file::ModelArgs;
use super::output::Output;
use super::query_cost::{self, QueryCostArgs};
use super::spec;
use super::zero_shot::{self, ZeroShot};
use crate::progress::Phases;

const EXAMPLES: &str = "\
Examples:
  fitup evaluate retrieval --data data/pictograms/test-*.tar
  fitup evaluate retrieval --model runs/albef-tiny --data flickr30k_test.json:flickr30k-images --texts all --k 128";

/// Score a model on a data set
#[derive(Debug, Subcommand)]
pub enum Evaluate {
    Retrieval(Retrieval),
    ZeroShot(ZeroShot),
    Vqa(Vqa),
    Nlvr2(Nlvr2),
    Entailment(Entailment),
    QueryCost(QueryCostArgs),
    Grounding(Grounding),
}

/// Image-text retrieval both ways, as ALBEF measures it
///
/// The contrastive similarity ranks everything; then the matching head re-ranks the best k.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{}", spec::HELP))]
pub struct Retrieval {
    #[command(flatten)]
    model: ModelArgs,
    /// Data set: a folder, shards, or `file.json[:image_root]`
    #[arg(long, value_name = "SPEC", num_args = 1.., required = true)]
    data: Vec<String>,
    /// Which captions of a picture are queries
    #[arg(long, value_enum, default_value = "first")]
    texts: Texts,
    /// Candidates per query that the matching head re-ranks; 0: none
    #[arg(long, default_value_t = 32)]
    k: usize,
    /// What orders the candidates: the matching logit alone (as ALBEF), or with the contrastive one
    #[arg(long, value_enum, default_value = "matching")]
    ranking: Ranking,
    /// Only the first so many pictures; 0: all
    #[arg(long, default_value_t = 0)]
    images: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Ranking {
    Matching,
    Both,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Texts {
    First,
    All,
}

pub fn run(args: &Evaluate, output: Output) -> Result<()> {
    let args = match args {
        Evaluate::Retrieval(args) => args,
        Evaluate::ZeroShot(args) => return zero_shot::run(args, output),
        Evaluate::Vqa(args) => return evaluate_task::vqa(args, output),
        Evaluate::Nlvr2(args) => return evaluate_task::nlvr2(args, output),
        Evaluate::Entailment(args) => return evaluate_task::entailment(args, output),
        Evaluate::QueryCost(args) => return query_cost::run(args, output),
        Evaluate::Grounding(args) => return grounding::run(args, output),
    };
    let spec = spec::parse(&args.data)?;
    let model = args.model.open()?;
    let source = sources::open(&spec).context("could not open the data")?;
    let data = &model.recipe.data;
    let settings = Settings {
        ranking: match args.ranking {
            Ranking::Matching => retrieval::Ranking::Matching,
            Ranking::Both => retrieval::Ranking::Both,
        },
        images: args.images,
        texts: match args.texts {
            Texts::First => retrieval::Texts::First,
            Texts::All => retrieval::Texts::All,
        },
        k: args.k,
        workers: std::thread::available_parallelism().map_or(2, usize::from),
        max_words: data.max_words,
        max_tokens: data.max_tokens,
    };
    let mut phases = Phases::default();
    let result = retrieval::evaluate(
        &model.scorer(),
        source.as_ref(),
        &settings,
        &mut |phase, done, all| phases.show(phase, done, all),
    );
    phases.clear();
    let result = result.context("could not evaluate")?;
    let document = json!({
        "model": model.name,
        "fingerprint": model.fingerprint,
        "seed": model.recipe.seed,
        "data": source.describe(),
        "result": result,
    });
    let title = format!(
        "{} (seed {}) on {}",
        model.name,
        model.recipe.seed,
        source.describe()
    );
    output.result(&document, &table(&title, &result)?)
}

/// Name of the second measure in the table.
const EQUAL: &str = "  equal captions right";

fn table(title: &str, result: &RetrievalResult) -> Result<String> {
    let mut text = format!("{title}\n{}\n\n", result.protocol);
    writeln!(
        text,
        "{:<26}{:<24}{:<24}",
        "recall in %", "text retrieval (TR)", "image retrieval (IR)"
    )?;
    let head = "   R@1    R@5   R@10    ";
    writeln!(text, "{:<24}{head}{head}   mean", "")?;
    let mut row = |name: &str, m: &RetrievalMetrics| {
        writeln!(
            text,
            "{name:<24}{:>6.1} {:>6.1} {:>6.1}    {:>6.1} {:>6.1} {:>6.1}    {:>7.1}",
            m.txt_r1, m.txt_r5, m.txt_r10, m.img_r1, m.img_r5, m.img_r10, m.r_mean
        )
    };
    let second = match result.itc {
        Some(_) => "re-ranked by matching",
        None => "matching of every pair",
    };
    let rankings = [
        ("contrastive (ITC) alone", &result.itc),
        (second, &result.reranked),
    ];
    for (name, ranking) in rankings {
        if let Some(ranking) = ranking {
            row(name, &ranking.official)?;
            row(EQUAL, &ranking.equal_captions)?;
        }
    }
    writeln!(
        text,
        "\n{}: a text is right with every picture that carries that very caption",
        EQUAL.trim()
    )?;
    Ok(text)
}
