//! Open-ended answers: written token by token, the likeliest at each step (one beam) or by beam
//! search. The original only ranks a list; this is what its decoder can do beyond that.

use burn::tensor::{Tensor, activation};

use super::{AlbefVqa, QuestionStates};
use crate::albef::int_vector;
use crate::layers::bert::DecoderState;
use crate::weights::host_values;

/// How answers are written.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The token that an answer starts with, `[CLS]`.
    pub start: i64,
    /// The token that ends it, `[SEP]`.
    pub end: i64,
    /// Most tokens after the start, the end counted; with the start no more than the model's
    /// positions.
    pub max_tokens: usize,
    /// Answers that are kept at each step; 1 takes the likeliest token each time.
    pub beams: usize,
    /// Finished answers are compared by `log likelihood / tokens^length_penalty`: 0 compares
    /// likelihoods and so favours short answers, 1 compares the mean of a token.
    pub length_penalty: f32,
}

/// An answer that was written.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratedAnswer {
    /// Token ids between the start and the end.
    pub tokens: Vec<i64>,
    /// Logarithm of its likelihood, the end counted where there is one.
    pub log_likelihood: f32,
    /// Whether it came to its end within the tokens allowed.
    pub ended: bool,
}

impl GeneratedAnswer {
    fn score(&self, length_penalty: f32) -> f32 {
        let tokens = self.tokens.len() + usize::from(self.ended);
        self.log_likelihood / (tokens.max(1) as f32).powf(length_penalty)
    }
}

/// An answer being written, to one question.
#[derive(Clone, Debug)]
struct Beam {
    question: usize,
    tokens: Vec<i64>,
    log_likelihood: f32,
}

/// One more token for a beam: (beam, token, logarithm of the likelihood with it).
type Step = (usize, i64, f32);

impl AlbefVqa {
    /// `beams` answers to each question, the best first; fewer where the vocabulary is smaller than
    /// the beams. An answer that has ended leaves the beam, which goes on with one less.
    ///
    /// # Panics
    /// If `beams` or `max_tokens` is 0.
    pub fn generate_answers(
        &self,
        questions: &QuestionStates,
        how: &Generation,
    ) -> Vec<Vec<GeneratedAnswer>> {
        assert!(
            how.beams > 0 && how.max_tokens > 0,
            "nothing to write: {how:?}"
        );
        let device = questions.states.device();
        let source = self.source(questions);
        let count = questions.packing.texts();
        let mut answers = vec![Vec::new(); count];
        let mut live: Vec<Beam> = (0..count)
            .map(|question| Beam {
                question,
                tokens: vec![],
                log_likelihood: 0.0,
            })
            .collect();
        let mut state = DecoderState::new((0..count).collect());
        for _ in 0..how.max_tokens {
            if live.is_empty() {
                break;
            }
            let last = live
                .iter()
                .map(|beam| *beam.tokens.last().unwrap_or(&how.start));
            let last = int_vector(&last.collect::<Vec<_>>(), &device);
            let (hidden, grown) = self.text_decoder.decode_next(last, &state, &source);
            let logits = self.text_decoder.mlm_logits(hidden);
            let open = |question: usize| how.beams - answers[question].len();
            let steps = best_steps(logits, &live, open);
            let mut parents = Vec::new();
            let mut next = Vec::new();
            for (parent, token, log_likelihood) in steps {
                let mut beam = live[parent].clone();
                beam.log_likelihood = log_likelihood;
                if token == how.end {
                    answers[beam.question].push(beam.finished(true));
                } else {
                    beam.tokens.push(token);
                    parents.push(parent);
                    next.push(beam);
                }
            }
            state = grown.chosen(&parents);
            live = next;
        }
        for beam in live {
            answers[beam.question].push(beam.finished(false));
        }
        for answers in &mut answers {
            let score = |answer: &GeneratedAnswer| answer.score(how.length_penalty);
            answers.sort_by(|a, b| score(b).total_cmp(&score(a)));
        }
        answers
    }
}

impl Beam {
    fn finished(self, ended: bool) -> GeneratedAnswer {
        GeneratedAnswer {
            tokens: self.tokens,
            log_likelihood: self.log_likelihood,
            ended,
        }
    }
}

/// Of each question's beams the `open(question)` likeliest steps. `logits`: `[beams, vocab]`; the
/// beams of a question stand side by side.
fn best_steps(logits: Tensor<2>, live: &[Beam], open: impl Fn(usize) -> usize) -> Vec<Step> {
    let vocab = logits.dims()[1];
    let log_probs = host_values(activation::log_softmax(logits, 1));
    let mut steps = Vec::new();
    let mut at = 0;
    for beams in live.chunk_by(|a, b| a.question == b.question) {
        let mut candidates: Vec<Step> = Vec::with_capacity(beams.len() * vocab);
        for beam in beams {
            let row = log_probs[at * vocab..(at + 1) * vocab].iter();
            let so_far = beam.log_likelihood;
            candidates.extend(row.enumerate().map(|(t, p)| (at, t as i64, so_far + p)));
            at += 1;
        }
        let wanted = open(beams[0].question).min(candidates.len());
        let better = |a: &Step, b: &Step| b.2.total_cmp(&a.2).then((a.0, a.1).cmp(&(b.0, b.1)));
        if wanted < candidates.len() {
            candidates.select_nth_unstable_by(wanted, better);
            candidates.truncate(wanted);
        }
        candidates.sort_unstable_by(better);
        steps.extend(candidates);
    }
    steps
}
