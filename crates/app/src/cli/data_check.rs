//! `fitup data check`: what of a published data set is here, what is missing and where it is to be had.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use fitup_data::annotations::check::{Check, Kind, check};
use serde_json::json;

use super::output::{Output, grouped};

const EXAMPLES: &str = "\
Examples:
  fitup data check coco --annotations dataset_coco.json --images coco/
  fitup data check flickr30k --annotations flickr30k_train.json flickr30k_test.json --images flickr30k/
  fitup data check vqa --annotations vqa_train.json vg_qa.json --images coco/ visual_genome/
  fitup data check vqa --annotations v2_OpenEnded_mscoco_val2014_questions.json \\
      v2_mscoco_val2014_annotations.json --images coco/
  fitup data check refcoco --annotations 'refs(unc).p' instances.json dets.json --images coco/
  fitup data check nlvr2 --annotations data/scenes/test/nlvr2.jsonl --images data/scenes/test --strict";

/// Say what of a published data set is here, what is missing, and where to get it
///
/// Reads annotation files as their authors publish them, or ALBEF's lists of the same data, and looks for every
/// picture they name. Files tell by themselves what they hold, so their order does not matter. Fails if no record or
/// no picture can be used.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DataCheck {
    /// Data set
    #[arg(value_enum, value_name = "KIND")]
    kind: KindName,
    /// Annotation files of the data set
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    annotations: Vec<PathBuf>,
    /// Folders in which pictures are looked for, as the annotations name them and in the folders that the authors'
    /// archives unpack into
    #[arg(long, value_name = "DIR", required = true, num_args = 1..)]
    images: Vec<PathBuf>,
    /// Fail too if one record had to be skipped or one picture is missing
    #[arg(long)]
    strict: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KindName {
    /// COCO captions: Karpathy's splits, COCO's own files, ALBEF's lists
    Coco,
    /// Flickr30K captions: Karpathy's splits, ALBEF's lists
    Flickr30k,
    /// VQAv2: questions and annotations, ALBEF's lists
    Vqa,
    /// Visual Genome: question_answers.json, image_data.json
    VisualGenome,
    /// NLVR2: lines, ALBEF's lists
    Nlvr2,
    /// SNLI-VE: lines, ALBEF's lists
    SnliVe,
    /// RefCOCO, RefCOCO+, RefCOCOg: references with instances, ALBEF's lists, box proposals
    Refcoco,
}

impl KindName {
    fn kind(self) -> Kind {
        match self {
            Self::Coco => Kind::Coco,
            Self::Flickr30k => Kind::Flickr30k,
            Self::Vqa => Kind::Vqa,
            Self::VisualGenome => Kind::VisualGenome,
            Self::Nlvr2 => Kind::Nlvr2,
            Self::SnliVe => Kind::SnliVe,
            Self::Refcoco => Kind::Refcoco,
        }
    }
}

pub fn run(args: &DataCheck, output: Output) -> Result<()> {
    let kind = args.kind.kind();
    for root in &args.images {
        if !root.is_dir() {
            bail!(
                "{}: no such folder; --images takes the folder that the pictures' paths start from.{}",
                root.display(),
                places(kind)
            );
        }
    }
    let checked = check(kind, &args.annotations, &args.images)
        .with_context(|| format!("could not read the annotations.{}", places(kind)))?;
    let unusable = checked.unusable();
    let document = json!({
        "check": checked,
        "usable": unusable.is_none(),
        "whole": checked.is_whole(),
    });
    output.result(&document, &describe(&checked))?;
    if let Some(reason) = unusable {
        bail!("the data cannot be used: {reason}; see above where to get it");
    }
    if args.strict && !checked.is_whole() {
        bail!("the data is not whole, and --strict asks for that; see above what is missing");
    }
    Ok(())
}

fn describe(checked: &Check) -> String {
    let mut text = format!(
        "{} records, {} texts\n",
        grouped(checked.records),
        grouped(checked.texts)
    );
    for (part, count) in &checked.parts {
        text.push_str(&format!("  {part:<16}{:>10}\n", grouped(*count)));
    }
    let pictures = &checked.pictures;
    text.push_str(&format!(
        "{} of {} pictures are there\n",
        grouped(pictures.found),
        grouped(pictures.named)
    ));
    let missing = pictures.missing_count();
    if missing > 0 {
        text.push_str(&format!(
            "{} are missing: {}\n",
            grouped(missing),
            some(missing, &pictures.missing)
        ));
    }
    if pictures.empty > 0 {
        let files: Vec<String> = pictures
            .empty_files
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        text.push_str(&format!(
            "{} are empty files, copy them again: {}\n",
            grouped(pictures.empty),
            some(pictures.empty, &files)
        ));
    }
    if let Some(lacking) = checked.without_proposals.filter(|&lacking| lacking > 0) {
        text.push_str(&format!(
            "{} pictures of references have no proposed boxes, so their references cannot be scored\n",
            grouped(lacking)
        ));
    }
    let skipped = &checked.skipped;
    if skipped.count > 0 {
        let fields: Vec<String> = skipped
            .by_field
            .iter()
            .map(|(field, count)| format!("{} by `{field}`", grouped(*count)))
            .collect();
        text.push_str(&format!(
            "{} records are skipped: {}\n",
            grouped(skipped.count),
            fields.join(", ")
        ));
        for bad in &skipped.first {
            text.push_str(&format!("  {bad}\n"));
        }
    }
    if !checked.is_whole() {
        text.push_str(places(checked.kind).trim_start());
    }
    text
}

/// The first names of so many.
fn some(count: usize, names: &[String]) -> String {
    let more = if count > names.len() { ", ..." } else { "" };
    format!("{}{more}", names.join(", "))
}

fn places(kind: Kind) -> String {
    let places = kind.places();
    let lines = places
        .iter()
        .map(|place| format!("\n  {}: {}", place.what, place.url));
    format!("\nTo be had from:{}", lines.collect::<String>())
}
