//! `fitup search`: two-step search in an index.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use fitup_training::loaded::{Pictures, SearchResult, TEXTS};
use serde_json::json;

use super::model_file::{ModelArgs, read_picture};
use super::output::Output;

const EXAMPLES: &str = "\
Examples:
  fitup search \"a red bird\" --index runs/index
  fitup search --image bird.png --index runs/index              pictures like this one
  fitup search --image bird.png --index runs/index --find texts captions for this one
  fitup search \"a red bird\" --index runs/index --top 3 --no-rerank --json

An index finds texts if it was built with `fitup index build --texts`.";

/// Find pictures (or texts) by a text or a picture
///
/// The contrastive similarity finds candidates; where one side is a picture and the other a text,
/// the matching head re-ranks the best of them.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Search {
    /// Text to search by
    #[arg(required_unless_present = "image", conflicts_with = "image")]
    text: Option<String>,
    /// Picture to search by
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Folder of the index
    #[arg(long, value_name = "DIR")]
    index: PathBuf,
    /// What to find
    #[arg(long, value_enum, default_value = "images")]
    find: Find,
    /// Results shown
    #[arg(long, default_value_t = 10)]
    top: usize,
    /// Candidates that the matching head re-ranks
    #[arg(
        long,
        value_name = "N",
        default_value_t = 32,
        conflicts_with = "no_rerank"
    )]
    rerank: usize,
    /// Rank by contrastive similarity alone
    #[arg(long)]
    no_rerank: bool,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Find {
    Images,
    Texts,
}

pub fn run(args: &Search, output: Output) -> Result<()> {
    let folder = match args.find {
        Find::Images => args.index.clone(),
        Find::Texts => args.index.join(TEXTS),
    };
    if args.find == Find::Texts && args.index.is_dir() && !folder.is_dir() {
        bail!(
            "{}: the index holds no texts; build it again with `fitup index build --texts`",
            args.index.display()
        );
    }
    let picture = args.image.as_deref().map(read_picture).transpose()?;
    let model = args.model.open()?;
    let store = model
        .open_store(&folder)
        .context("could not open the index")?;
    let rerank = (!args.no_rerank).then_some(args.rerank);
    let result = match (&args.text, &picture) {
        (_, Some(picture)) => model.search_image(&store, picture, args.top, rerank)?,
        (Some(text), None) => {
            let mut pictures = Pictures::default();
            let mut load = |item: &fitup_index::Item| pictures.load(&item.locator);
            model.search_text(&store, text, args.top, rerank, &mut load)?
        }
        (None, None) => bail!("give a text, or a picture with --image"),
    };
    let document = json!({
        "index": args.index,
        "query": { "text": args.text, "image": args.image },
        "items": store.len(),
        "found": result.found,
        "unreadable": result.unreadable,
    });
    output.result(&document, &lines(&result)?)
}

fn lines(result: &SearchResult) -> Result<String> {
    let mut text = String::new();
    if result.found.iter().any(|found| found.matching.is_some()) {
        writeln!(text, "      match  similarity")?;
    } else {
        writeln!(text, "             similarity")?;
    }
    for (rank, found) in (1..).zip(&result.found) {
        let matching = match found.matching {
            Some(probability) => format!("{:.1} %", 100.0 * probability),
            None => String::new(),
        };
        writeln!(
            text,
            "{rank:>3}  {matching:>7}     {:>+.3}  {}  [{}]",
            found.similarity, found.item.text, found.item.locator
        )?;
    }
    if let Some((locator, reason)) = result.unreadable.first() {
        writeln!(
            text,
            "{} pictures could not be read again and rank by similarity, the first: {}",
            result.unreadable.len(),
            if reason.contains(locator.as_str()) {
                reason.clone()
            } else {
                format!("{locator}: {reason}")
            }
        )?;
    }
    Ok(text)
}
