//! `fitup pretrain`: a run from a recipe.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use clap::Args;
use fitup_training::recipe::{ModelRecipe, Recipe};
use fitup_training::trainer::{self, Outcome, RunOptions};
use fitup_training::{device, report};
use serde_json::json;

use super::Ended;
use super::output::Output;
use crate::hub;
use crate::progress::RunDisplay;

const EXAMPLES: &str = "\
Examples:
  fitup pretrain albef-tiny
  fitup pretrain recipes/pretrain/albef-tiny.toml --out runs/first --set schedule.lr=3e-4
  fitup pretrain albef-tiny --steps 200 --out runs/short
  fitup pretrain albef-tiny --resume

Ctrl-C finishes the step, saves a checkpoint and exits with 3; --resume goes on from there and
reaches what an unbroken run reaches. The run's folder holds recipe.toml, metrics.jsonl,
checkpoints/, model.safetensors and report.html.";

/// Where recipes lie in a checkout.
const FOLDER: &str = "recipes/pretrain";

/// Recipes in the binary, for use outside a checkout.
const BUILT_IN: [(&str, &str); 1] = [(
    "albef-tiny",
    include_str!("../../../../recipes/pretrain/albef-tiny.toml"),
)];

/// Pre-train a model as a recipe says
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Pretrain {
    /// Recipe file, or the name of a recipe in recipes/pretrain
    recipe: String,
    #[command(flatten)]
    run: RunArgs,
}

/// Where and how a run is carried out.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Folder of the run [default: runs/NAME]
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Go on from the newest checkpoint of the run
    #[arg(long)]
    pub(super) resume: bool,
    /// Change one field of the recipe, for example schedule.lr=3e-4; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Compute device: cpu, wgpu or cuda:N (as the binary was built)
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Steps to take in all, as --set run.steps=N
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
}

impl RunArgs {
    /// The fields of the recipe that are changed.
    pub(super) fn overrides(&self) -> Vec<String> {
        let steps = self.steps.map(|steps| format!("run.steps={steps}"));
        self.set.iter().cloned().chain(steps).collect()
    }
}

pub fn run(args: &Pretrain, output: Output) -> Result<Ended> {
    let recipe = load(&args.recipe, &args.run.overrides())?;
    if let Some(kind) = recipe.task_kind() {
        bail!(
            "{} fine-tunes for {kind}: use `fitup finetune`",
            args.recipe
        );
    }
    train(recipe, &args.run, output)
}

/// Carries out a run, shows it and says what came of it.
pub(super) fn train(mut recipe: Recipe, run: &RunArgs, output: Output) -> Result<Ended> {
    let folder = match &run.out {
        Some(folder) => folder.clone(),
        None => Path::new("runs").join(&recipe.name),
    };
    let options = RunOptions {
        folder: folder.clone(),
        resume: run.resume,
        device: device::open(&run.device)?,
        stop: Arc::new(AtomicBool::new(false)),
    };
    stop_on_signal(&options.stop)?;
    // A run that goes on has its weights.
    if !run.resume {
        locate_weights(&mut recipe.model)?;
    }

    let mut display = RunDisplay::new(output.json, recipe.run.log_every);
    let outcome = trainer::pretrain(&recipe, &options, &mut display);
    display.finish();
    let outcome = outcome.with_context(|| format!("run {}", folder.display()))?;
    // A run that is whole is not made a failure by its report.
    let page = match report::write(&folder) {
        Ok(page) => Some(page),
        Err(error) => {
            eprintln!("warning: no report: {error}");
            None
        }
    };
    let (state, ended) = match outcome {
        Outcome::Finished => ("finished", Ended::Done),
        Outcome::Stopped => ("stopped", Ended::Stopped),
    };
    let document = json!({
        "outcome": state,
        "run": folder,
        "seed": recipe.seed,
        "step": display.step(),
        "checkpoint": display.checkpoint,
        "model": folder.join("model.safetensors"),
        "report": page,
        "last_step": display.last_step,
        "last_evaluation": display.last_evaluation,
        "encoders": display.encoders,
    });
    let mut text = format!(
        "{state} at step {}: {}",
        display.step(),
        folder.join("model.safetensors").display()
    );
    if let Some(page) = &page {
        text.push_str(&format!("\nreport: {}", page.display()));
    }
    if ended == Ended::Stopped {
        text.push_str("\ngo on with the same command and --resume");
    }
    output.result(&document, &text)?;
    Ok(ended)
}

/// Fetches the initial weights that the recipe names on a hub, and puts their paths in its place.
fn locate_weights(model: &mut ModelRecipe) -> Result<()> {
    let files = [
        ("model.init_weights", &mut model.init_weights),
        ("model.init_image", &mut model.init_image),
        ("model.init_text", &mut model.init_text),
    ];
    for (field, file) in files {
        if let Some(file) = file {
            *file = hub::locate(file).with_context(|| format!("recipe field {field}"))?;
        }
    }
    Ok(())
}

/// The first signal asks the run to stop, the second ends the process.
fn stop_on_signal(stop: &Arc<AtomicBool>) -> Result<()> {
    let stop = stop.clone();
    ctrlc::set_handler(move || {
        if stop.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nfinishing this step and saving; Ctrl-C again quits at once");
    })
    .context("could not listen for Ctrl-C")
}

/// A recipe by path, else by name in the checkout, else by name in the binary.
fn load(name: &str, overrides: &[String]) -> Result<Recipe> {
    let path = Path::new(name);
    if path.is_file() || path.extension().is_some_and(|ending| ending == "toml") {
        return Ok(Recipe::load(path, overrides)?);
    }
    let in_checkout = Path::new(FOLDER).join(format!("{name}.toml"));
    if in_checkout.is_file() {
        return Ok(Recipe::load(&in_checkout, overrides)?);
    }
    match BUILT_IN.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => Ok(Recipe::parse(
            text,
            &format!("built-in recipe {name}"),
            overrides,
        )?),
        None => bail!(
            "no recipe {name}: neither a file, nor {}, nor built in ({})",
            in_checkout.display(),
            BUILT_IN.map(|(name, _)| name).join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn built_in_recipes_are_valid() {
        for (name, text) in BUILT_IN {
            let recipe = Recipe::parse(text, name, &[]).unwrap();
            assert_eq!(recipe.name, name);
        }
    }

    #[test]
    fn every_recipe_of_the_checkout_is_valid() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut read = 0;
        for entry in std::fs::read_dir(folder.join(FOLDER)).unwrap() {
            let path = entry.unwrap().path();
            let recipe = Recipe::load(&path, &[]).unwrap();
            let name = path.file_stem().unwrap().to_str().unwrap();
            assert_eq!(recipe.name, name, "{}", path.display());
            read += 1;
        }
        assert!(read >= 12, "{read}");
    }
}
