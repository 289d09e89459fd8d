//! `fitup finetune`: a task for a pre-trained model.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use fitup_models::weights;
use fitup_training::checkpoint::{self, Checkpoint};
use fitup_training::recipe::{ModelRecipe, Recipe};

use super::Ended;
use super::model_file::resolve;
use super::output::Output;
use super::pretrain::{RunArgs, train};
use crate::hub;

const EXAMPLES: &str = "\
Examples:
  fitup finetune vqa --from runs/albef-scenes
  fitup finetune nlvr2 --from runs/text-assignment --set seed=2 --out runs/nlvr2-2
  fitup finetune retrieval --from runs/albef-scenes --steps 500
  fitup finetune recipes/finetune/albef-vqa.toml --from hub:OWNER/NAME/albef.pth
  fitup finetune vqa --resume

Ctrl-C finishes the step, saves a checkpoint and exits with 3; --resume goes on from there.
Afterwards: fitup evaluate TASK, fitup ask, compare, entail.";

/// Where recipes lie in a checkout.
const FOLDER: &str = "recipes/finetune";

/// Recipes in the binary, for use outside a checkout.
const BUILT_IN: [(&str, &str); 6] = [
    (
        "retrieval",
        include_str!("../../../../recipes/finetune/retrieval.toml"),
    ),
    ("vqa", include_str!("../../../../recipes/finetune/vqa.toml")),
    (
        "nlvr2",
        include_str!("../../../../recipes/finetune/nlvr2.toml"),
    ),
    (
        "entailment",
        include_str!("../../../../recipes/finetune/entailment.toml"),
    ),
    (
        "grounding",
        include_str!("../../../../recipes/finetune/grounding.toml"),
    ),
    (
        "text-assignment",
        include_str!("../../../../recipes/finetune/text-assignment.toml"),
    ),
];

/// Fine-tune a pre-trained model for a task
///
/// A recipe says which task, on which data. It may leave out the sizes of the model: they are those of the
/// model it starts from.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Finetune {
    /// Task (retrieval, vqa, nlvr2, entailment, grounding, text-assignment), another recipe of
    /// recipes/finetune, or a recipe file
    #[arg(value_name = "TASK")]
    recipe: String,
    /// The pre-trained model: a checkpoint, an exported model, or the folder of a run; where the
    /// recipe has the sizes, any file with official names
    #[arg(long, value_name = "MODEL", required_unless_present = "resume")]
    from: Option<PathBuf>,
    #[command(flatten)]
    run: RunArgs,
}

pub fn run(args: &Finetune, output: Output) -> Result<Ended> {
    let overrides = args.run.overrides();
    let (origin, text) = text(&args.recipe)?;
    let table: toml::Table = toml::from_str(&text).with_context(|| origin.clone())?;
    let name = table.get("name").and_then(toml::Value::as_str);
    let folder = match (&args.run.out, name) {
        (Some(folder), _) => folder.clone(),
        (None, name) => Path::new("runs").join(name.unwrap_or(&args.recipe)),
    };
    let from = match &args.from {
        Some(from) => Some(resolve(&hub::locate(from)?)?),
        None => None,
    };
    // A run that goes on has its sizes beside it.
    let before = folder.join("recipe.toml");
    let base = match &from {
        _ if args.run.resume && before.is_file() => Some(Recipe::load(&before, &[])?.model),
        Some(from) => sizes(from)?,
        None => bail!(
            "{}: no run to go on from; name the model to start from with --from",
            folder.display()
        ),
    };
    let mut recipe = match base {
        Some(model) => Recipe::parse_on(&model, &text, &origin, &overrides)?,
        None if table.contains_key("model") => Recipe::parse(&text, &origin, &overrides)?,
        None => bail!(
            "{origin} has no table [model], and {} is no checkpoint of fitup's that tells its sizes; add the table",
            from.unwrap_or_default().display()
        ),
    };
    if recipe.task.is_none() {
        bail!("{origin} has no table [task]: it pre-trains; use `fitup pretrain`");
    }
    if from.is_some() {
        recipe.model.init_weights = from;
    }
    train(recipe.with_answers()?, &args.run, output)
}

/// The sizes that a checkpoint of fitup's tells; `None` for other files.
fn sizes(path: &Path) -> Result<Option<ModelRecipe>> {
    let (_, metadata) = weights::list(path).context("could not read the model to start from")?;
    if !checkpoint::is_checkpoint(&metadata) {
        return Ok(None);
    }
    let model = Checkpoint::read(path)?.recipe.model;
    Ok(Some(ModelRecipe {
        init_weights: None,
        init_image: None,
        init_text: None,
        image_tokenizer_weights: None,
        ..model
    }))
}

/// A recipe by path, else by name in the checkout, else by name in the binary: where it is from, and its text.
fn text(name: &str) -> Result<(String, String)> {
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string());
        text.map(|text| (path.display().to_string(), text))
    };
    let path = Path::new(name);
    if path.is_file() || path.extension().is_some_and(|ending| ending == "toml") {
        return read(path);
    }
    let in_checkout = Path::new(FOLDER).join(format!("{name}.toml"));
    if in_checkout.is_file() {
        return read(&in_checkout);
    }
    match BUILT_IN.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => Ok((format!("built-in recipe {name}"), (*text).to_owned())),
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

    /// The model that the recipes on scenes start from.
    fn base() -> ModelRecipe {
        let text = include_str!("../../../../recipes/pretrain/albef-scenes.toml");
        Recipe::parse(text, "albef-scenes", &[]).unwrap().model
    }

    #[test]
    fn built_in_recipes_are_valid_and_of_their_task() {
        for (name, text) in BUILT_IN {
            let recipe = Recipe::parse_on(&base(), text, name, &[]).unwrap();
            assert_eq!(recipe.name, name);
            // Phrases are trained as captions are.
            let kind = if name == "grounding" {
                "retrieval"
            } else {
                name
            };
            assert_eq!(recipe.task_kind().unwrap().to_string(), kind);
            assert_eq!(recipe.model, base());
        }
    }

    #[test]
    fn every_recipe_of_the_checkout_is_valid() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut read = 0;
        for entry in std::fs::read_dir(folder.join(FOLDER)).unwrap() {
            let path = entry.unwrap().path();
            let recipe = Recipe::load_on(&base(), &path, &[]).unwrap();
            let name = path.file_stem().unwrap().to_str().unwrap();
            assert_eq!(recipe.name, name, "{}", path.display());
            assert!(recipe.task.is_some(), "{}", path.display());
            read += 1;
        }
        assert!(read >= 10, "{read}");
    }
}
