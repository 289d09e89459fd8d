//! `fitup evaluate query-cost`: what one query costs, by the size of the collection.

use std::fmt::Write;

use anyhow::{Context, Result};
use clap::Args;
use fitup_data::sources;
use fitup_training::tasks::query_cost::{Settings, measure};
use serde_json::json;

use super::model_file::ModelArgs;
use super::output::Output;
use super::spec;

const EXAMPLES: &str = "\
Examples:
  fitup evaluate query-cost --data data/pictograms/test-*.tar
  fitup evaluate query-cost --model runs/vilt-scenes --data data/scenes/test/captions.json:data/scenes/test --sizes 1000,10000";

/// Measure what one text query costs, by the size of the collection
///
/// Three ways: comparing embeddings that are stored; that, and matching the best k; matching every picture, which is
/// all that a model without embeddings can do. Run it while nothing else runs.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{}", spec::HELP))]
pub struct QueryCostArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Data set: a folder, shards, or `file.json[:image_root]`
    #[arg(long, value_name = "SPEC", num_args = 1.., required = true)]
    data: Vec<String>,
    /// Pictures in the collection
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "1000,10000,100000"
    )]
    sizes: Vec<usize>,
    /// Candidates that are re-ranked
    #[arg(long, value_name = "N", default_value_t = 32)]
    k: usize,
    /// Queries, of which the median is taken
    #[arg(long, value_name = "N", default_value_t = 9)]
    queries: usize,
    /// Pictures really encoded and matched; larger collections repeat their embeddings, and their matching is computed
    #[arg(long, value_name = "N", default_value_t = 256)]
    pictures: usize,
}

pub fn run(args: &QueryCostArgs, output: Output) -> Result<()> {
    let spec = spec::parse(&args.data)?;
    let model = args.model.open()?;
    let source = sources::open(&spec).context("could not open the data")?;
    let settings = Settings {
        sizes: args.sizes.clone(),
        queries: args.queries,
        k: args.k,
        pictures: args.pictures,
        workers: std::thread::available_parallelism().map_or(2, usize::from),
        max_words: model.recipe.data.max_words,
        max_tokens: model.recipe.data.max_tokens,
    };
    let costs =
        measure(&model.scorer(), source.as_ref(), &settings).context("could not measure")?;
    let mut text = format!(
        "{}: milliseconds of one query, median of {}; {} pictures of {} encoded\n\n",
        model.name,
        args.queries,
        args.pictures.min(source.len()),
        source.describe()
    );
    writeln!(
        text,
        "{:>10} {:>10} {:>10} {:>14} {:>14}",
        "pictures",
        "encode",
        "compare",
        format!("match best {}", args.k),
        "match all"
    )?;
    let shown = |time: Option<f64>| time.map_or("-".to_owned(), |time| format!("{time:.2}"));
    for cost in &costs {
        writeln!(
            text,
            "{:>10} {:>10.2} {:>10} {:>14} {:>14}",
            cost.size,
            cost.encode,
            shown(cost.compare),
            shown(cost.rerank),
            shown(cost.match_all)
        )?;
    }
    let document = json!({
        "model": model.name,
        "system": model.recipe.model.system,
        "data": source.describe(),
        "k": args.k,
        "queries": args.queries,
        "pictures": args.pictures,
        "milliseconds": costs,
    });
    output.result(&document, &text)
}
