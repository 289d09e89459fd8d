//! `fitup demo`: everything once, on the pictures and the weights in the repository.

mod album;
mod answers;
mod console;
mod lesson;
mod page;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use fitup_index::Dtype;
use fitup_training::device;
use fitup_training::loaded::{IndexOptions, LoadedModel};
use fitup_training::report::page::write_page;
use serde_json::json;

use super::output::Output;
use album::Album;
use answers::TEXTS;
use console::Console;
use page::Shows;

/// Search, fill and train on the pictures in the repository, and write a page about it
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fitup demo                             run from the root of the repository; takes about 65 seconds
  fitup demo --seconds 10 --no-open      a shorter look
  fitup demo --weights runs/mine/model.safetensors --out mine.html")]
pub struct Demo {
    /// Page to write
    #[arg(long, value_name = "FILE", default_value = "demo.html")]
    pub out: PathBuf,
    /// Seconds of training
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    pub seconds: f64,
    /// Model that answers
    #[arg(
        long,
        value_name = "FILE",
        default_value = "weights/albef-tiny.safetensors"
    )]
    pub weights: PathBuf,
    /// Folder of the sample pictures, train-*.tar and test-*.tar
    #[arg(long, value_name = "DIR", default_value = "samples/pictograms")]
    pub samples: PathBuf,
    /// Do not show the page in the browser
    #[arg(long)]
    pub no_open: bool,
}

pub fn run(demo: &Demo, output: Output) -> Result<()> {
    let console = Console { json: output.json };
    ensure!(
        demo.seconds.is_finite() && demo.seconds > 0.0,
        "--seconds {}: give a number above 0",
        demo.seconds
    );
    // Found out now rather than after the training.
    let folder = demo.out.parent().filter(|f| !f.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        bail!(
            "--out {}: there is no folder {}",
            demo.out.display(),
            folder.display()
        );
    }
    let model = open_model(&demo.weights)?;
    let album = Album::open(&demo.samples)?;

    console.tell(format!("\n1. Indexing {} pictures", album.pictures.len()))?;
    let temporary = tempfile::tempdir().context("no temporary folder for the index")?;
    let options = IndexOptions {
        dtype: Dtype::F32,
        texts: false,
        workers: std::thread::available_parallelism().map_or(2, usize::from),
    };
    let started = Instant::now();
    let report = model.build_index(
        &album.collection,
        temporary.path(),
        &options,
        &mut |_, _| {},
    )?;
    let indexing = started.elapsed();
    console.tell(format!(
        "   {} pictures in {:.2} s, {:.0} a second",
        report.images,
        indexing.as_secs_f64(),
        report.images as f64 / indexing.as_secs_f64()
    ))?;
    let store = model.open_store(temporary.path())?;

    console.tell("\n2. Six texts look for pictures")?;
    console
        .tell("   contrastive: nearest embedding; re-ranked: the matching head looked at both")?;
    let mut texts = Vec::new();
    for query in TEXTS {
        let answer = answers::find_text(&model, &store, &album, query)?;
        console.text(&answer, &album)?;
        texts.push(answer);
    }

    console.tell("\n3. Two pictures look for pictures and captions")?;
    let pictures = answers::find_pictures(&model, &store, &album)?;
    for answer in &pictures {
        console.picture(answer, &album)?;
    }

    console.tell("\n4. A missing word")?;
    let gaps = answers::fill_gaps(&model, &album)?;
    for answer in &gaps {
        console.gap(answer, &album)?;
    }

    console.tell(format!("\n5. Training a new model for {} s", demo.seconds))?;
    let lesson = lesson::train(&model.recipe, &demo.samples, demo.seconds)
        .context("training on the sample")?;
    let pairs_per_second = lesson.pairs as f64 / lesson.seconds.max(1e-9);
    console.tell(format!(
        "   {} steps, {pairs_per_second:.0} pairs a second: the loss went from {:.2} to {:.2}",
        lesson.steps(),
        lesson.loss[0],
        lesson.loss[1]
    ))?;

    let shows = Shows {
        album: &album,
        model: (&model.name, &model.fingerprint),
        indexed: report.images,
        indexing,
        texts: &texts,
        pictures: &pictures,
        gaps: &gaps,
        lesson: &lesson,
    };
    write_page(&demo.out, &shows.render())
        .with_context(|| format!("--out {}: cannot be written", demo.out.display()))?;
    console.tell(format!(
        "\nAll of it, with the pictures: {}",
        demo.out.display()
    ))?;
    if !demo.no_open && !output.json && std::io::stdout().is_terminal() {
        open_in_browser(&demo.out);
    }
    if output.json {
        let document = json!({
            "page": demo.out,
            "images": report.images,
            "index_seconds": indexing.as_secs_f64(),
            "steps": lesson.steps(),
            "pairs_per_second": pairs_per_second,
            "first_loss": lesson.loss[0],
            "last_loss": lesson.loss[1],
        });
        output.result(&document, "")?;
    }
    Ok(())
}

fn open_model(weights: &Path) -> Result<LoadedModel> {
    ensure!(
        weights.is_file(),
        "{}: no such file; run from the root of the repository, or name a model with --weights",
        weights.display()
    );
    Ok(LoadedModel::open(weights, &device::open("cpu")?)?)
}

/// Shows the page where there is a desktop to show it on; the path is printed in any case.
fn open_in_browser(page: &Path) {
    let program = if cfg!(target_os = "macos") {
        "open"
    } else if cfg!(windows) {
        "explorer"
    } else if ["DISPLAY", "WAYLAND_DISPLAY"]
        .iter()
        .any(|name| std::env::var_os(name).is_some())
    {
        "xdg-open"
    } else {
        return;
    };
    let _ = Command::new(program)
        .arg(page)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
}
