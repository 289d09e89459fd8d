//! Where a run starts from when it is neither drawn from the seed nor resumed: the weights of
//! another run, or others' weights.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use fitup_data::loader::Part;
use fitup_data::sources::{self, Source};
use fitup_data::text::{Tokenizer, build_vocabulary, pre_caption};
use fitup_models::weights::initial::InitialReport;
use fitup_models::weights::{self, TensorMap, WeightsError};

use super::{Observer, Pretrain, TrainError, encoders};
use crate::checkpoint::{self, Checkpoint};
use crate::frozen;
use crate::metrics::Event;
use crate::recipe::Recipe;

/// The file of `model.init_weights`.
#[derive(Clone, Debug)]
pub(super) struct InitialWeights {
    path: PathBuf,
    /// Under official names.
    tensors: TensorMap,
    /// The words that its text embeddings belong to, where it is a run of ours that read texts.
    pub(super) vocabulary: Option<Vec<String>>,
}

impl InitialWeights {
    /// Reads a checkpoint, an exported model, or any file of weights.
    ///
    /// # Errors
    /// When it cannot be read, naming the file.
    pub(super) fn read(path: &Path) -> Result<Self, TrainError> {
        let (_, metadata) = weights::list(path)?;
        if !checkpoint::is_checkpoint(&metadata) {
            return Ok(Self {
                path: path.to_owned(),
                tensors: weights::read(path)?.0,
                vocabulary: None,
            });
        }
        let mut checkpoint = Checkpoint::read(path)?;
        // The optimizer's state belongs to the other run.
        checkpoint
            .tensors
            .retain(|name, _| !name.starts_with("optimizer."));
        let reads_texts = checkpoint.recipe.part() != Part::Images;
        Ok(Self {
            path: path.to_owned(),
            vocabulary: reads_texts.then_some(checkpoint.vocabulary),
            tensors: checkpoint.tensors,
        })
    }
}

/// The system where a checkpoint left it, else as initial weights or the seed give it, with what the
/// recipe freezes frozen; and what a run that starts from more than the seed has to say of that.
///
/// # Errors
/// When the tensors do not fit, or what is to be frozen is not there.
pub(super) fn system<S: Pretrain>(
    recipe: &Recipe,
    tokenizer: &Tokenizer,
    checkpoint: Option<&Checkpoint>,
    initial: Option<InitialWeights>,
    device: &Device,
    observer: &mut dyn Observer,
) -> Result<(S, Option<Event>), TrainError> {
    let (mut system, report) = match (checkpoint, initial) {
        (None, Some(InitialWeights { path, tensors, .. })) => {
            let started = S::initial(recipe, tensors, device).and_then(|(tensors, report)| {
                let system = S::new(recipe, tokenizer, Some(&tensors), device)?;
                Ok((system, report))
            });
            started.map_err(|error| error.in_file(&path))?
        }
        (checkpoint, _) => {
            let tensors = checkpoint.map(|checkpoint| &checkpoint.tensors);
            (S::new(recipe, tokenizer, tensors, device)?, None)
        }
    };
    if checkpoint.is_none() {
        system = encoders::start(system, recipe, tokenizer, device, observer)?;
    }
    let patterns = &recipe.optimizer.frozen;
    let frozen = frozen::names(system.model(), patterns, S::parameter_name)?;
    system.map_model(|model| frozen::freeze(model, patterns, S::parameter_name));
    let tell = checkpoint.is_none() && (report.is_some() || !frozen.is_empty());
    let event = tell.then(|| Event::Start {
        step: 0,
        init_weights: recipe.model.init_weights.clone(),
        report,
        frozen,
    });
    Ok((system, event))
}

/// Initial weights with their position embeddings `names` (those that are there) resized to a grid of
/// `grid x grid` patches, and what became of them; no report where all were of that size.
///
/// # Errors
/// When one is no square grid of patches.
pub fn fitted_positions(
    mut tensors: TensorMap,
    names: &[&str],
    grid: usize,
) -> Result<(TensorMap, Option<InitialReport>), WeightsError> {
    let mut report = InitialReport::default();
    for name in names {
        if tensors.contains_key(*name) {
            let line = weights::fit_positions(&mut tensors, name, grid)?;
            report.fitted.extend(line);
        }
    }
    if report.fitted.is_empty() {
        return Ok((tensors, None));
    }
    let taken = tensors.keys().map(|name| (name.clone(), name.clone()));
    report.taken = taken.collect();
    Ok((tensors, Some(report)))
}

/// The vocabulary of a run that starts: the recipe's file; else that of the initial weights, whose
/// text embeddings belong to it; else one built from the training captions.
///
/// # Errors
/// When the file cannot be read, or is not the vocabulary of the initial weights.
pub(super) fn vocabulary(
    recipe: &Recipe,
    source: &dyn Source,
    initial: Option<&[String]>,
) -> Result<Vec<String>, TrainError> {
    let size = recipe.model.sizes().vocab_size();
    if recipe.part() == Part::Images {
        return Ok(build_vocabulary([].into_iter(), size));
    }
    match (&recipe.data.vocabulary, initial) {
        (Some(path), initial) => {
            let vocabulary = Tokenizer::from_file(path)?.vocabulary().to_vec();
            match initial.is_some_and(|initial| initial != vocabulary) {
                true => Err(TrainError::OtherVocabulary { path: path.clone() }),
                false => Ok(vocabulary),
            }
        }
        (None, Some(initial)) => Ok(initial.to_vec()),
        (None, None) => match &recipe.data.vocabulary_from {
            Some(spec) => Ok(built(recipe, sources::open(spec)?.as_ref(), size)),
            None => Ok(built(recipe, source, size)),
        },
    }
}

fn built(recipe: &Recipe, source: &dyn Source, size: usize) -> Vec<String> {
    let mut captions = Vec::new();
    for index in 0..source.len() {
        // A record that cannot be read is counted and named when the loader meets it.
        let Ok(texts) = source.texts(index) else {
            continue;
        };
        let cleaned = texts.captions.iter();
        captions.extend(cleaned.filter_map(|c| pre_caption(c, recipe.data.max_words)));
    }
    build_vocabulary(captions.iter().map(String::as_str), size)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use fitup_models::weights::HostTensor;

    use super::*;

    /// A position embedding of `rows` rows, and a tensor of no image size.
    fn tensors(rows: usize) -> TensorMap {
        let of = |shape: Vec<usize>| HostTensor {
            values: vec![0.5; shape.iter().product()],
            shape,
        };
        [
            ("pos_embed".to_owned(), of(vec![1, rows, 4])),
            ("proj.weight".to_owned(), of(vec![2, 4])),
        ]
        .into()
    }

    #[test]
    fn positions_of_another_image_size_are_resized_and_reported() {
        let names = ["pos_embed", "momentum.pos_embed"];
        let (fitted, report) = fitted_positions(tensors(1 + 2 * 2), &names, 3).unwrap();
        assert_eq!(fitted["pos_embed"].shape, [1, 10, 4]);
        assert_eq!(fitted["proj.weight"].shape, [2, 4]);
        let report = report.unwrap();
        assert_eq!(report.taken.len(), 2);
        let lines = report.fitted;
        assert!(lines.len() == 1 && lines[0].contains("2 x 2"), "{lines:?}");

        let (same, report) = fitted_positions(tensors(1 + 3 * 3), &names, 3).unwrap();
        assert_eq!(same["pos_embed"].values, tensors(10)["pos_embed"].values);
        assert_eq!(report, None);

        let uneven = fitted_positions(tensors(7), &names, 3).unwrap_err();
        assert!(uneven.to_string().contains("pos_embed"), "{uneven}");
    }
}
