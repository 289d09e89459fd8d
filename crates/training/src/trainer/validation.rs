//! The validation source of a run, and what a system measures on it.

use burn::module::Module;
use burn::tensor::Device;
use fitup_data::sources::Source;
use fitup_data::text::Tokenizer;
use fitup_models::system::System;

use super::TrainError;
use crate::recipe::Recipe;
use crate::tasks::classes::ClassScores;
use crate::tasks::masked::{MaskedScores, TokenizerScores};
use crate::tasks::retrieval::{self, RetrievalResult};
use crate::tasks::vqa::AnswerScores;

/// Scores of one evaluation during a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Scores {
    /// Of pairs.
    Retrieval(Box<RetrievalResult>),
    /// Of masked patches or masked words.
    Masked(MaskedScores),
    /// Of an image tokenizer.
    Tokenizer(TokenizerScores),
    /// Of answers to questions.
    Answers(AnswerScores),
    /// Of a classification.
    Classes(ClassScores),
}

/// What an evaluation during a run reads.
#[derive(Clone, Copy)]
pub struct Validation<'a> {
    /// The run's.
    pub recipe: &'a Recipe,
    /// Records that training does not see.
    pub source: &'a dyn Source,
    /// The run's.
    pub tokenizer: &'a Tokenizer,
    /// Compute device, not autodiff.
    pub device: &'a Device,
}

impl Validation<'_> {
    /// Records that are read.
    pub fn count(&self) -> usize {
        match self.recipe.run.evaluate_images {
            0 => self.source.len(),
            most => most.min(self.source.len()),
        }
    }

    /// Retrieval both ways. `model`: on the autodiff device.
    ///
    /// # Errors
    /// When a record cannot be used.
    pub fn retrieval<M: Module + System>(&self, model: &M) -> Result<Scores, TrainError> {
        let (data, run) = (&self.recipe.data, &self.recipe.run);
        let settings = retrieval::Settings {
            ranking: retrieval::Ranking::Matching,
            images: run.evaluate_images,
            texts: retrieval::Texts::First,
            k: run.evaluate_k,
            workers: data.workers,
            max_words: data.max_words,
            max_tokens: data.max_tokens,
        };
        let scorer = retrieval::Scorer {
            model: &model.valid(),
            tokenizer: self.tokenizer,
            transform: self.recipe.eval_transform(),
            device: self.device,
        };
        let result = retrieval::evaluate(&scorer, self.source, &settings, &mut |_, _, _| {})?;
        Ok(Scores::Retrieval(Box::new(result)))
    }
}
