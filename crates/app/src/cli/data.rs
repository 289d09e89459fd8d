//! `fitup data`: make, check, count and look at data.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use fitup_data::images::{DecodeLimits, decode};
use fitup_data::pictograms::{BuildOptions, SampleOptions, build, check_splits, write_sample};
use fitup_data::preview::{LINES, SheetItem, contact_sheet};
use fitup_data::sources::{self, Source, stable_hash};
use fitup_data::stats::{RecordView, StatsCounter};
use serde_json::json;

use super::data_check::{self, DataCheck};
use super::output::{Output, grouped, megabytes, write_whole};
use super::scenes::{self, Scenes, ScenesCheck};
use super::spec;
use crate::progress::Phases;

const PICTOGRAM_EXAMPLES: &str = "\
Examples:
  fitup data pictograms --out data/pictograms
  fitup data pictograms --out data/pictograms --work cache/pictograms --without openclipart
  fitup data pictograms --out samples/pictograms --sample data/pictograms   a small sample of a built set";

const STATS_EXAMPLES: &str = "\
Examples:
  fitup data stats data/pictograms/train-*.tar
  fitup data stats photos/ --json";

const PREVIEW_EXAMPLES: &str = "\
Examples:
  fitup data preview data/pictograms/train-*.tar --out sheet.png
  fitup data preview list.json:images --out sheet.png --count 100 --seed 7";

/// Unreadable records that are named.
const NAMED: usize = 5;

/// Make, check, count and look at data
#[derive(Debug, Subcommand)]
pub enum Data {
    Pictograms(Pictograms),
    Scenes(Scenes),
    ScenesCheck(ScenesCheck),
    Check(DataCheck),
    Stats(Stats),
    Preview(Preview),
}

/// Build the pictograms: real pictures with the names people gave them
///
/// Fetches emoji sets, icons and clip art under permissive licences, and writes WebDataset shards
/// with splits that hold out drawings, a style and concepts.
#[derive(Debug, Args)]
#[command(after_help = PICTOGRAM_EXAMPLES)]
pub struct Pictograms {
    /// Folder of the shards
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Folder of fetched packages, kept to make the next build fast [default: OUT/work]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Part to leave out; openclipart needs apt-get and dpkg
    #[arg(long, value_enum)]
    without: Vec<PictogramPart>,
    /// Write a small sample of the set built in this folder, and build nothing
    #[arg(long, value_name = "BUILT", conflicts_with_all = ["work", "without"])]
    sample: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PictogramPart {
    Openclipart,
}

/// Count pictures, sizes, captions and words of a data set
#[derive(Debug, Args)]
#[command(after_help = STATS_EXAMPLES, after_long_help = format!("{STATS_EXAMPLES}\n\n{}", spec::HELP))]
pub struct Stats {
    /// Data set: a folder, shards, or `file.json[:image_root]`
    #[arg(value_name = "SPEC", required = true)]
    data: Vec<String>,
}

/// Draw a sheet of pictures with their captions
#[derive(Debug, Args)]
#[command(after_help = PREVIEW_EXAMPLES, after_long_help = format!("{PREVIEW_EXAMPLES}\n\n{}", spec::HELP))]
pub struct Preview {
    /// Data set: a folder, shards, or `file.json[:image_root]`
    #[arg(value_name = "SPEC", required = true)]
    data: Vec<String>,
    /// PNG to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Pictures on the sheet
    #[arg(long, default_value_t = 48)]
    count: usize,
    /// Which pictures
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn run(args: &Data, output: Output) -> Result<()> {
    match args {
        Data::Pictograms(args) => match &args.sample {
            Some(built) => sample(&SampleOptions::new(built, &args.out), output),
            None => pictograms(args, output),
        },
        Data::Scenes(args) => scenes::run(args, output),
        Data::ScenesCheck(args) => scenes::run_check(args, output),
        Data::Check(args) => data_check::run(args, output),
        Data::Stats(args) => stats(args, output),
        Data::Preview(args) => preview(args, output),
    }
}

fn pictograms(args: &Pictograms, output: Output) -> Result<()> {
    let mut options = BuildOptions::new(&args.out);
    if let Some(work) = &args.work {
        options.work.clone_from(work);
    }
    options.openclipart = !args.without.contains(&PictogramPart::Openclipart);
    let mut phases = Phases::default();
    let report = build(&options, &mut |stage, done, all| {
        phases.show(stage, done, all);
    });
    phases.clear();
    let report = report.context("could not build the pictograms")?;
    let leaks = check_splits(&args.out).context("could not check the splits")?;
    let mut text = format!("{}\n", args.out.display());
    for (name, split) in &report.splits {
        text.push_str(&format!(
            "  {name:<15}{:>8} pictures {:>8} captions {:>6} concepts  {}\n",
            grouped(split.images),
            grouped(split.captions),
            grouped(split.concepts),
            megabytes(split.bytes)
        ));
    }
    for warning in &report.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text.push_str(&leaks.to_string());
    let document = json!({ "out": args.out, "report": report, "leaks": leaks });
    output.result(&document, &text)?;
    if !leaks.is_clean() {
        bail!(
            "{}: the splits leak into each other, so scores on them mean nothing; remove the folder and build again",
            args.out.display()
        );
    }
    Ok(())
}

fn sample(options: &SampleOptions, output: Output) -> Result<()> {
    let report = write_sample(options).context("could not write the sample")?;
    let text = format!(
        "{}: {} training and {} test pictures of {} concepts, {}",
        options.out.display(),
        report.train,
        report.test,
        report.concepts,
        megabytes(report.bytes)
    );
    output.result(&report, &text)
}

fn stats(args: &Stats, output: Output) -> Result<()> {
    let source = open(&args.data)?;
    let mut counter = StatsCounter::default();
    let mut unreadable = Vec::new();
    let mut phases = Phases::default();
    for index in 0..source.len() {
        phases.show("records", index, source.len());
        match source.get(index) {
            Ok(record) => counter.add(RecordView {
                key: &record.key,
                image: Some(&record.image),
                captions: &record.captions,
                metadata: record.metadata.as_ref(),
            }),
            Err(error) => unreadable.push(format!("record {index}: {error}")),
        }
    }
    phases.clear();
    let stats = counter.finish();
    let mut text = format!("{}\n{stats}", source.describe());
    if !unreadable.is_empty() {
        text.push_str(&format!("unreadable records {}\n", unreadable.len()));
        for line in unreadable.iter().take(NAMED) {
            text.push_str(&format!("  {line}\n"));
        }
    }
    let document = json!({
        "data": source.describe(),
        "warnings": source.warnings(),
        "stats": stats,
        "unreadable_records": unreadable,
    });
    output.result(&document, &text)
}

fn preview(args: &Preview, output: Output) -> Result<()> {
    let source = open(&args.data)?;
    let mut order: Vec<usize> = (0..source.len()).collect();
    order.sort_by_cached_key(|index| {
        let mut bytes = args.seed.to_le_bytes().to_vec();
        bytes.extend(index.to_le_bytes());
        stable_hash(&bytes)
    });
    let (mut items, mut keys, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
    for index in order {
        if items.len() == args.count {
            break;
        }
        let record = match source.get(index) {
            Ok(record) => record,
            Err(error) => {
                unreadable.push(format!("record {index}: {error}"));
                continue;
            }
        };
        match decode(&record.image, &DecodeLimits::default()) {
            Ok(image) => {
                items.push(SheetItem {
                    image,
                    caption: record.captions.join(" | "),
                });
                keys.push(record.key);
            }
            Err(error) => unreadable.push(format!("{}: {error}", record.key)),
        }
    }
    if items.is_empty() {
        bail!(
            "{}: no picture could be read{}",
            source.describe(),
            unreadable
                .first()
                .map_or_else(String::new, |first| format!(", the first because: {first}"))
        );
    }
    let columns = (1.4 * items.len() as f64).sqrt().ceil() as usize;
    let sheet = contact_sheet(&items, columns, 128, LINES);
    let mut png = std::io::Cursor::new(Vec::new());
    sheet
        .write_to(&mut png, image::ImageFormat::Png)
        .context("could not encode the sheet")?;
    write_whole(&args.out, png.get_ref())?;
    let document = json!({
        "file": args.out,
        "width": sheet.width(),
        "height": sheet.height(),
        "keys": keys,
        "unreadable": unreadable,
    });
    let mut text = format!(
        "{}: {} of {}",
        args.out.display(),
        items.len(),
        source.describe()
    );
    if !unreadable.is_empty() {
        text.push_str(&format!("; {} could not be read", unreadable.len()));
        for line in unreadable.iter().take(NAMED) {
            text.push_str(&format!("\n  {line}"));
        }
    }
    output.result(&document, &text)
}

fn open(data: &[String]) -> Result<Box<dyn Source>> {
    sources::open(&spec::parse(data)?).context("could not open the data")
}
