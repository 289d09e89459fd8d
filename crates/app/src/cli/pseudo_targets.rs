//! `fitup pseudo-targets`: a sheet of pairs with what the momentum model puts beside their targets.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use fitup_data::images::{DecodeLimits, decode};
use fitup_data::preview::{SheetItem, contact_sheet};
use fitup_data::sources::{self, stable_hash};
use serde_json::json;

use super::model_file::ModelArgs;
use super::output::{Output, write_whole};
use super::spec;

const EXAMPLES: &str = "\
Examples:
  fitup pseudo-targets --data data/pictograms/test-*.tar --out pseudo-targets.png
  fitup pseudo-targets --model runs/albef-noisy --data data/scenes-noisy/train/captions.json:data/scenes-noisy/train \\
      --out pseudo-targets.png --count 6 --seed 3";

/// Words of so many letters or fewer are not masked where there are longer ones.
const SHORT: usize = 3;

/// Side of a picture on the sheet.
const CELL: u32 = 240;

/// Show what the momentum model puts beside the targets of noisy pairs
///
/// For every picture: its text with one word masked, the words that the momentum model would put there, and the texts
/// it finds most like the picture. Distillation trains on these beside the pair itself (ALBEF, figure 2).
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{}", spec::HELP))]
pub struct PseudoTargets {
    #[command(flatten)]
    model: ModelArgs,
    /// Data set: a folder, shards, or `file.json[:image_root]`
    #[arg(long, value_name = "SPEC", num_args = 1.., required = true)]
    data: Vec<String>,
    /// PNG to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Pictures on the sheet
    #[arg(long, value_name = "N", default_value_t = 6)]
    count: usize,
    /// Words and texts shown for each
    #[arg(long, value_name = "N", default_value_t = 4)]
    top: usize,
    /// Texts of the data set that are looked among
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pool: usize,
    /// Which pictures and words
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn run(args: &PseudoTargets, output: Output) -> Result<()> {
    let spec = spec::parse(&args.data)?;
    let model = args.model.open()?;
    let source = sources::open(&spec).context("could not open the data")?;
    // An order that looks random and is the same everywhere.
    let mut order: Vec<usize> = (0..source.len()).collect();
    order.sort_by_key(|at| stable_hash(format!("{} {at}", args.seed).as_bytes()));
    let mut pool = Vec::new();
    for &at in order.iter().take(args.pool) {
        pool.extend(source.texts(at)?.captions.into_iter().take(1));
    }
    let pool = model.text_pool(&pool)?;

    let mut items = Vec::new();
    let mut shown = Vec::new();
    for &at in order.iter().take(args.count) {
        let record = source.get(at)?;
        let image = decode(&record.image, &DecodeLimits::default())
            .with_context(|| format!("picture {}", record.key))?;
        let text = record.captions.first().context("a record without text")?;
        let cleaned = model.clean(text)?;
        let words: Vec<&str> = cleaned.split(' ').collect();
        // Articles and the like say nothing of what the model sees.
        let mut places: Vec<usize> = (0..words.len())
            .filter(|place| words[*place].len() > SHORT)
            .collect();
        if places.is_empty() {
            places = (0..words.len()).collect();
        }
        let draw = stable_hash(format!("{} word {at}", args.seed).as_bytes()) as usize;
        let word = places[draw % places.len()];
        let targets = model.pseudo_targets(&image, text, word, &pool, args.top)?;
        let mut caption = format!("GIVEN: {text}\nMASKED: {}\n", targets.masked);
        for (word, probability) in &targets.words {
            writeln!(caption, "  {:>3.0} % {word}", 100.0 * probability)?;
        }
        writeln!(caption, "MOST LIKE THE PICTURE:")?;
        for (text, cosine) in &targets.texts {
            writeln!(caption, "  {cosine:.2} {text}")?;
        }
        items.push(SheetItem { image, caption });
        shown.push(json!({ "key": record.key, "text": text, "targets": targets }));
    }
    let lines = 4 + 2 + args.top * 4;
    let sheet = contact_sheet(&items, args.count.min(3), CELL, lines);
    let mut png = std::io::Cursor::new(Vec::new());
    sheet.write_to(&mut png, image::ImageFormat::Png)?;
    write_whole(&args.out, png.get_ref())?;
    let text = format!(
        "{}: {} of {}",
        args.out.display(),
        items.len(),
        source.describe()
    );
    output.result(&json!({ "out": args.out, "pairs": shown }), &text)
}
