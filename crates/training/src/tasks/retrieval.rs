//! Image-text retrieval: encoding, ALBEF's two-step ranking, and the official scores.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::convert::Infallible;

use burn::tensor::{Device, Tensor, TensorData};
use fitup_data::images::{DecodeLimits, EvalTransform};
use fitup_data::loader::load_images;
use fitup_data::sources::Source;
use fitup_data::text::{Tokenizer, pre_caption};
use fitup_index::matrix::ScoreMatrix;
use fitup_index::metrics::{
    GroundTruth, MetricsError, RetrievalMetrics, itm_eval, recall_with_equal_texts,
};
use fitup_index::rerank::{FinalScore, candidates, rescore};
use fitup_models::layers::packing::{Packing, Pairs};
use fitup_models::system::{EncodedImages, EncodedTexts, Matching, System};
use fitup_models::weights::host_values;
use serde::{Deserialize, Serialize};

/// Images or texts encoded, or pairs matched, at a time.
const CHUNK: usize = 64;

/// Why an evaluation failed.
#[derive(Debug, thiserror::Error)]
pub enum RetrievalError {
    /// An image of the set cannot be used; leaving it out would change the score.
    #[error(
        "{key}: {reason}; an evaluation needs every image: repair it or take it out of the list"
    )]
    Image {
        /// The record.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// A record without a usable caption.
    #[error("{key}: no caption is left after cleaning; repair it or take it out of the list")]
    Caption {
        /// The record.
        key: String,
    },
    /// Nothing to evaluate.
    #[error("{0}: no images")]
    Empty(String),
    /// The scores cannot be computed.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// A score that is not a number.
    #[error("re-ranking: {0}")]
    Rescore(String),
}

/// Which captions of a record are queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Texts {
    /// The first.
    First,
    /// All, as COCO and Flickr30K are evaluated.
    All,
}

/// What orders the candidates of the second step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ranking {
    /// The matching logit alone, as ALBEF's evaluation.
    #[default]
    Matching,
    /// The log-odds of matching plus the contrastive logit (similarity / temperature): both
    /// steps have a say.
    Both,
}

/// Settings of an evaluation.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What orders the candidates of the second step.
    pub ranking: Ranking,
    /// Images read, from the first; 0: all.
    pub images: usize,
    /// Which captions are queries.
    pub texts: Texts,
    /// Candidates per query that the matching head re-ranks; 0: contrastive ranking alone.
    pub k: usize,
    /// Threads that decode.
    pub workers: usize,
    /// Words kept of a caption.
    pub max_words: usize,
    /// Tokens kept of a caption.
    pub max_tokens: usize,
}

/// Scores of one evaluation, with what they are scores of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetrievalResult {
    /// How many images and texts, which captions, how ranked.
    pub protocol: String,
    /// Images.
    pub images: usize,
    /// Texts.
    pub texts: usize,
    /// Candidates ranked by matching per query; 0 where matching had no say.
    pub k: usize,
    /// Contrastive ranking alone; absent where a system has no embeddings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub itc: Option<Recall>,
    /// The best candidates of it (without it: all) ranked by matching; absent with k = 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reranked: Option<Recall>,
}

impl RetrievalResult {
    /// The last ranking made: by matching where there is one.
    pub fn last_ranking(&self) -> Option<&Recall> {
        self.reranked.as_ref().or(self.itc.as_ref())
    }
}

/// One ranking by both measures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recall {
    /// The official measure: of each text, one picture is right.
    pub official: RetrievalMetrics,
    /// A text is right with every picture that carries that very caption.
    pub equal_captions: RetrievalMetrics,
}

/// A model with what it needs to read images and texts.
#[derive(Debug)]
pub struct Scorer<'a> {
    /// The model on the plain device.
    pub model: &'a dyn System,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Its image transform.
    pub transform: EvalTransform,
    /// Where it lives.
    pub device: &'a Device,
}

impl Scorer<'_> {
    /// Encodes prepared images, each `[3, size, size]` as the transform gives them.
    pub fn encode_images(&self, images: &[Vec<f32>]) -> EncodedImages {
        let chunks = self
            .image_chunks(images)
            .map(|image| self.model.encode_images(image));
        cat_images(chunks.collect())
    }

    /// The embeddings of [`Self::encode_images`] alone, `[images, embed_dim]`; at least one image.
    pub fn embed_images(&self, images: &[Vec<f32>]) -> Option<Tensor<2>> {
        let chunks = self.image_chunks(images);
        let embed: Option<Vec<_>> = chunks.map(|image| self.model.embed_images(image)).collect();
        embed.map(|embed| Tensor::cat(embed, 0))
    }

    fn image_chunks(&self, images: &[Vec<f32>]) -> impl Iterator<Item = Tensor<4>> {
        let side = self.transform.size as usize;
        images.chunks(CHUNK).map(move |chunk| {
            let data = TensorData::new(chunk.concat(), [chunk.len(), 3, side, side]);
            Tensor::from_data(data, self.device)
        })
    }

    /// Encodes cleaned texts; at least one. Texts of similar length are encoded together; the order
    /// given is kept.
    pub fn encode_texts(&self, texts: &[String], max_tokens: usize) -> EncodedTexts {
        let ids: Vec<Vec<i64>> = texts
            .iter()
            .map(|text| self.tokenizer.encode(text, max_tokens))
            .collect();
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|i| ids[*i].len());
        let chunks = order.chunks(CHUNK).map(|chunk| {
            let rows: Vec<i64> = chunk.iter().flat_map(|i| &ids[*i]).copied().collect();
            let packing = Packing::new(chunk.iter().map(|i| ids[*i].len()).collect());
            let count = rows.len();
            let rows = Tensor::from_data(TensorData::new(rows, [count]), self.device);
            self.model.encode_texts(rows, &packing)
        });
        let mut back = vec![0; texts.len()];
        for (row, text) in order.iter().enumerate() {
            back[*text] = row;
        }
        EncodedTexts::cat(chunks.collect()).chosen(&back)
    }
}

/// Matching logits of every pair: "they do not match", "they match". `image_parts`: as
/// [`Matching::image_parts`] gives them, one row for each image that `pairs` names.
pub fn match_pairs(
    matching: &dyn Matching,
    texts: &EncodedTexts,
    image_parts: &[Tensor<3>],
    pairs: &Pairs,
) -> Vec<[f32; 2]> {
    let mut scores = vec![[0.0; 2]; pairs.texts.len()];
    // Of like length, for the systems that pad.
    let mut order: Vec<usize> = (0..pairs.texts.len()).collect();
    order.sort_by_key(|i| (texts.packing.lengths()[pairs.texts[*i]], pairs.texts[*i]));
    for chunk in order.chunks(CHUNK) {
        let mut named: Vec<usize> = chunk.iter().map(|i| pairs.texts[*i]).collect();
        named.dedup();
        let place = |i: &usize| named.iter().position(|text| *text == pairs.texts[*i]);
        let here = Pairs {
            texts: chunk.iter().filter_map(place).collect(),
            images: chunk.iter().map(|i| pairs.images[*i]).collect(),
        };
        let logits = host_values(matching.pair_logits(&texts.chosen(&named), image_parts, &here));
        for (i, pair) in chunk.iter().zip(logits.as_chunks::<2>().0) {
            scores[*i] = *pair;
        }
    }
    scores
}

/// Batches of one system as one batch; at least one.
fn cat_images(batches: Vec<EncodedImages>) -> EncodedImages {
    let embed: Vec<Tensor<2>> = batches.iter().filter_map(|b| b.embed.clone()).collect();
    let tokens = batches.into_iter().map(|b| b.tokens).collect();
    EncodedImages {
        tokens: Tensor::cat(tokens, 0),
        embed: (!embed.is_empty()).then(|| Tensor::cat(embed, 0)),
    }
}

/// Evaluates retrieval both ways on a source. `progress` is told the phase, what is done and how
/// much there is.
///
/// # Errors
/// [`RetrievalError`]: every image and caption must be usable, since a skipped one would change
/// the score.
pub fn evaluate(
    scorer: &Scorer<'_>,
    source: &dyn Source,
    settings: &Settings,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<RetrievalResult, RetrievalError> {
    let count = match settings.images {
        0 => source.len(),
        most => most.min(source.len()),
    };
    if count == 0 {
        return Err(RetrievalError::Empty(source.describe()));
    }
    let (mut texts, mut txt2img) = (Vec::new(), Vec::new());
    let mut images = Vec::new();
    for start in (0..count).step_by(CHUNK) {
        progress("images", start, count);
        let range = start..(start + CHUNK).min(count);
        let loaded = load_images(
            source,
            range.clone(),
            &scorer.transform,
            &DecodeLimits::default(),
            settings.workers,
        );
        let mut pixels = Vec::with_capacity(loaded.len());
        for (index, image) in range.zip(loaded) {
            let image = image.map_err(|skipped| RetrievalError::Image {
                key: skipped.key,
                reason: skipped.detail,
            })?;
            let cleaned = image
                .captions
                .iter()
                .filter_map(|caption| pre_caption(caption, settings.max_words));
            let before = texts.len();
            match settings.texts {
                Texts::First => texts.extend(cleaned.take(1)),
                Texts::All => texts.extend(cleaned),
            }
            if texts.len() == before {
                return Err(RetrievalError::Caption { key: image.key });
            }
            txt2img.resize(texts.len(), index);
            pixels.push(image.pixels);
        }
        images.push(scorer.encode_images(&pixels));
    }
    let images = cat_images(images);
    progress("texts", 0, texts.len());
    let encoded = scorer.encode_texts(&texts, settings.max_tokens);
    let sim = images.embed.clone().zip(encoded.embed.clone());
    let sim = sim.map(|(images, texts)| images.matmul(texts.transpose()));
    let contrastive = sim.is_some();
    let scores = sim.map_or_else(|| vec![0.0; count * texts.len()], host_values);
    let i2t = ScoreMatrix::new(scores, texts.len());
    let t2i = i2t.transposed();
    let truth = GroundTruth::new(txt2img, count)?;
    let recall = |i2t: &ScoreMatrix, t2i: &ScoreMatrix| -> Result<Recall, MetricsError> {
        Ok(Recall {
            official: itm_eval(i2t, t2i, &truth)?,
            equal_captions: recall_with_equal_texts(i2t, t2i, &truth, &texts)?,
        })
    };
    let itc = match contrastive {
        true => Some(recall(&i2t, &t2i)?),
        false => None,
    };
    // Without embeddings nothing says which candidates are worth a look: all are.
    let k = match contrastive {
        true => settings.k,
        false => count.max(texts.len()),
    };
    let matching = scorer.model.matching().filter(|_| k > 0);
    let reranked = match matching {
        None => None,
        Some(matching) => {
            let rerank = Rerank {
                logit_scale: scorer.model.logit_scale(),
                matching,
                ranking: settings.ranking,
                k,
            };
            let (i2t, t2i) = rerank.run(&images, &encoded, (&i2t, &t2i), progress)?;
            Some(recall(&i2t, &t2i)?)
        }
    };
    let which = match settings.texts {
        Texts::First => "first caption of each",
        Texts::All => "all captions",
    };
    let ranking = match (contrastive, matching.is_some(), settings.ranking) {
        (false, ..) => "every pair ranked by matching".to_owned(),
        (_, false, _) => "contrastive ranking".to_owned(),
        (_, _, Ranking::Matching) => format!("contrastive top {k} re-ranked by matching"),
        (_, _, Ranking::Both) => {
            format!("contrastive top {k} re-ranked by matching + contrastive")
        }
    };
    Ok(RetrievalResult {
        protocol: format!("{count} images, {} texts ({which}), {ranking}", texts.len()),
        images: count,
        texts: texts.len(),
        k: if matching.is_some() { k } else { 0 },
        itc,
        reranked,
    })
}

/// Second step of ALBEF's ranking.
#[derive(Clone, Copy)]
pub struct Rerank<'a> {
    /// What cosines are multiplied by to become contrastive logits.
    pub logit_scale: f32,
    /// Scores a pair.
    pub matching: &'a dyn Matching,
    /// By what a candidate is ranked.
    pub ranking: Ranking,
    /// Candidates of an image, and of a text.
    pub k: usize,
}

impl Rerank<'_> {
    /// Both ways: the final scores `[images, texts]` and `[texts, images]`, from the cosines of the
    /// same shapes. The pairs that either direction asks for are scored image by image, each pair
    /// once.
    ///
    /// # Errors
    /// [`RetrievalError::Rescore`] when a score cannot rank.
    pub fn run(
        &self,
        images: &EncodedImages,
        texts: &EncodedTexts,
        (i2t, t2i): (&ScoreMatrix, &ScoreMatrix),
        progress: &mut dyn FnMut(&str, usize, usize),
    ) -> Result<(ScoreMatrix, ScoreMatrix), RetrievalError> {
        let k = self.k;
        let (of_images, of_texts) = (candidates(i2t, k), candidates(t2i, k));
        let mut wanted: Vec<BTreeSet<usize>> = of_images
            .iter()
            .map(|texts| texts.iter().copied().collect())
            .collect();
        for (text, images) in of_texts.iter().enumerate() {
            for image in images {
                wanted[*image].insert(text);
            }
        }
        let mut scores: HashMap<(usize, usize), f32> = HashMap::new();
        for (image, chosen) in wanted.iter().enumerate() {
            progress("re-ranking", image, wanted.len());
            let chosen: Vec<usize> = chosen.iter().copied().collect();
            let parts = self
                .matching
                .image_parts(images.tokens.clone().narrow(0, image, 1));
            let pairs = Pairs {
                images: vec![0; chosen.len()],
                texts: chosen.clone(),
            };
            let found = match_pairs(self.matching, texts, &parts, &pairs);
            let found = chosen.iter().zip(found).map(|(text, [no, yes])| {
                let score = match self.ranking {
                    Ranking::Matching => yes,
                    Ranking::Both => yes - no + i2t.row(image)[*text] * self.logit_scale,
                };
                ((image, *text), score)
            });
            scores.extend(found);
        }
        let look_up =
            |pair: (usize, usize)| scores.get(&pair).copied().unwrap_or(f32::NEG_INFINITY);
        let i2t = rescore(i2t, &of_images, FinalScore::Matching, |image, texts| {
            Ok::<_, Infallible>(texts.iter().map(|text| look_up((image, *text))).collect())
        })
        .map_err(|e| RetrievalError::Rescore(e.to_string()))?;
        let t2i = rescore(t2i, &of_texts, FinalScore::Matching, |text, images| {
            Ok::<_, Infallible>(images.iter().map(|image| look_up((*image, text))).collect())
        })
        .map_err(|e| RetrievalError::Rescore(e.to_string()))?;
        Ok((i2t, t2i))
    }
}
