//! `fitup data scenes` and `fitup data scenes-check`: pictures whose truth is known, and whether it is well hidden.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use fitup_data::scenes::{HeldOut, MadeSplit, ScenesOptions, Storage, check, generate};
use serde_json::json;

use super::output::{Output, grouped, megabytes};
use crate::progress::Phases;

const EXAMPLES: &str = "\
Examples:
  fitup data scenes --pictograms data/pictograms --out data/scenes
  fitup data scenes --pictograms data/pictograms --out data/scenes-noisy --noise 0.3
  fitup data scenes --pictograms data/pictograms --out data/scenes-easy --names 40 --side 96 --held-out sets --variants 32 --lattice 8
  fitup data scenes --pictograms samples/pictograms --out /tmp/scenes --train 300 --val 50 --test 50
  fitup data scenes --pictograms data/pictograms --out data/scenes-web --store shards --train 100000
  fitup data preview data/scenes/train/captions.json:data/scenes/train --out sheet.png
  fitup data scenes-check data/scenes";

const CHECK_EXAMPLES: &str = "\
Examples:
  fitup data scenes-check data/scenes
  fitup data scenes-check data/scenes --json";

/// What a baseline may exceed the most frequent answer by before it is pointed out.
const TOLERANCE: f64 = 0.05;

/// Make scenes: pictures composed of pictograms, with captions, questions and labels that are known to be true
///
/// Writes a folder for each split, with pictures, scene graphs and the annotation files of five tasks in their
/// official formats (COCO, VQAv2, SNLI-VE, NLVR2, RefCOCO) and as ALBEF's lists. A split that is whole is kept, so
/// a run that was stopped goes on where it was. Splits share neither pictogram nor background.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Scenes {
    /// Folder of the pictogram shards
    #[arg(long, value_name = "DIR")]
    pictograms: PathBuf,
    /// Folder of the scenes
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Scenes to train on; 0 leaves the split out
    #[arg(long, value_name = "N", default_value_t = 8000)]
    train: usize,
    /// Scenes to choose by
    #[arg(long, value_name = "N", default_value_t = 1000)]
    val: usize,
    /// Scenes to report on
    #[arg(long, value_name = "N", default_value_t = 1000)]
    test: usize,
    /// Side of the pictures in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 256)]
    side: u32,
    /// Same seed, same files
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Share of noisy training captions, 0 to 1: of another picture, keywords only, partly wrong, a third each
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    noise: f64,
    /// Share of scenes with a curtain, 0 to 1: entailment is about these, questions and pairs about the others
    #[arg(long, value_name = "SHARE", default_value_t = 0.35)]
    curtains: f64,
    /// Only so many different names, those whose held-out drawings are told apart best as thumbnails;
    /// fewer make an easier world [default: all]
    #[arg(long, value_name = "N")]
    names: Option<usize>,
    /// Things stand on a lattice of so many cells a side, 8 to 32, not anywhere: easier for models that see patches
    /// of the cells' size
    #[arg(long, value_name = "CELLS")]
    lattice: Option<u32>,
    /// Variants in which every drawing to train on is shown besides itself, up to 64: turned, slanted, stretched,
    /// tinted a little; val and test show drawings as they are
    #[arg(long, value_name = "N", default_value_t = 0)]
    variants: u32,
    /// What val and test are made of
    #[arg(long, value_enum, default_value_t = Held::Makers)]
    held_out: Held,
    /// How pictures are stored
    #[arg(long, value_enum, default_value_t = Store::Files)]
    store: Store,
    /// Threads, 0 for one per core; the files do not depend on it
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Measure afterwards what text alone and pictures alone get right
    #[arg(long)]
    check: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Held {
    /// Drawings that the pictograms hold out, mostly by a maker who is not in training
    Makers,
    /// Of every name one maker's drawings: the style has been seen, the drawing not
    Drawings,
    /// Of every name one set's drawing: a sister set of the same maker may be in training
    Sets,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Store {
    /// JPEG files in `images/`
    Files,
    /// WebDataset shards
    Shards,
    /// Both
    Both,
}

/// Measure what text alone and pictures alone get right in scenes
///
/// Fits a logistic regression on the words and one on a thumbnail and a colour histogram to the split `train`, and
/// scores them on `test` beside always giving the most frequent answer.
#[derive(Debug, Args)]
#[command(after_help = CHECK_EXAMPLES)]
pub struct ScenesCheck {
    /// Folder that `fitup data scenes` wrote, pictures as files or in shards
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub fn run(args: &Scenes, output: Output) -> Result<()> {
    let options = ScenesOptions {
        scenes: [args.train, args.val, args.test],
        side: args.side,
        seed: args.seed,
        noise: args.noise,
        curtains: args.curtains,
        names: args.names,
        lattice: args.lattice,
        variants: args.variants,
        held_out: match args.held_out {
            Held::Makers => HeldOut::Makers,
            Held::Drawings => HeldOut::Drawings,
            Held::Sets => HeldOut::Sets,
        },
        storage: match args.store {
            Store::Files => Storage::Files,
            Store::Shards => Storage::Shards,
            Store::Both => Storage::Both,
        },
        threads: args.threads,
        ..ScenesOptions::new(&args.pictograms, &args.out)
    };
    let begun = Instant::now();
    let mut phases = Phases::default();
    let made = generate(&options, &mut |phase, done, all| {
        phases.show(phase, done, all)
    });
    phases.clear();
    let made = made.context("could not make the scenes")?;
    let seconds = begun.elapsed().as_secs_f64();

    let mut text: String = made.iter().map(describe).collect();
    let drawn: usize = made
        .iter()
        .filter(|split| !split.kept)
        .map(|split| split.report.scenes)
        .sum();
    let a_minute = 60.0 * drawn as f64 / seconds.max(1e-9);
    if drawn > 0 {
        text.push_str(&format!(
            "{} scenes in {seconds:.1} s, {} a minute\n",
            grouped(drawn),
            grouped(a_minute as usize)
        ));
    }
    let mut document = json!({
        "out": args.out,
        "splits": made,
        "seconds": seconds,
        "scenes_per_minute": a_minute,
    });
    if args.check {
        let (report, lines) = measure(&args.out)?;
        document["check"] = json!(report);
        text.push_str(&lines);
    }
    output.result(&document, &text)
}

pub fn run_check(args: &ScenesCheck, output: Output) -> Result<()> {
    let (report, text) = measure(&args.folder)?;
    output.result(&report, &text)
}

fn measure(folder: &std::path::Path) -> Result<(fitup_data::scenes::CheckReport, String)> {
    let mut phases = Phases::default();
    let report = check(folder, &mut |phase, done, all| {
        phases.show(phase, done, all)
    });
    phases.clear();
    let report = report.context("could not check the scenes")?;
    let mut text = report.to_string();
    for task in &report.tasks {
        if task.excess() > TOLERANCE {
            text.push_str(&format!(
                "{}: a baseline exceeds the most frequent answer by {:.1} points; report it beside every score\n",
                task.task,
                100.0 * task.excess()
            ));
        }
    }
    Ok((report, text))
}

fn describe(made: &MadeSplit) -> String {
    let report = &made.report;
    let sum = |counts: &std::collections::BTreeMap<String, usize>| counts.values().sum::<usize>();
    let questions: usize = report.questions.values().map(sum).sum();
    let noisy = match sum(&report.noise) {
        0 => String::new(),
        noisy => format!(" ({} noisy)", grouped(noisy)),
    };
    format!(
        "{}{}\n  {} scenes ({} with a curtain) of {} drawings of {} names, {}\n  {} captions{noisy}, {} questions, {} hypotheses, {} statements on pairs, {} referring expressions\n",
        made.folder.display(),
        if made.kept { ": there already" } else { "" },
        grouped(report.scenes),
        grouped(report.curtained),
        grouped(report.pictograms),
        grouped(report.names),
        megabytes(report.bytes),
        grouped(report.captions),
        grouped(questions),
        grouped(sum(&report.hypotheses)),
        grouped(sum(&report.pairs)),
        grouped(report.referring),
    )
}
