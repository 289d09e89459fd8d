//! What one text query costs, by the size of the collection: comparing embeddings that are stored, re-ranking the best
//! by matching, or matching every picture, which is all that a system without embeddings can do.

use std::time::Instant;

use burn::tensor::Tensor;
use fitup_data::images::DecodeLimits;
use fitup_data::loader::load_images;
use fitup_data::sources::{Source, SourceError};
use fitup_data::text::pre_caption;
use fitup_index::{FeatureView, search};
use fitup_models::layers::packing::Pairs;
use fitup_models::weights::host_values;
use serde::{Deserialize, Serialize};

use super::retrieval::{Scorer, match_pairs};

/// Pictures that are matched at a time.
const CHUNK: usize = 64;

/// Why the cost cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum CostError {
    /// A picture or text that cannot be used.
    #[error("{key}: {reason}")]
    Record {
        /// The record.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// The texts cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Nothing to measure with.
    #[error("{0}: no pictures with texts")]
    Empty(String),
}

/// What is measured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Pictures in the collection, each.
    pub sizes: Vec<usize>,
    /// Queries; the median is taken.
    pub queries: usize,
    /// Candidates that are re-ranked.
    pub k: usize,
    /// Pictures that are really encoded and matched; a larger collection holds their embeddings again and again, and
    /// costs as many times more to match.
    pub pictures: usize,
    /// Threads that decode.
    pub workers: usize,
    /// Words kept of a text.
    pub max_words: usize,
    /// Tokens kept of a text.
    pub max_tokens: usize,
}

/// Milliseconds of one query, each the median; what a system cannot do is absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueryCost {
    /// Pictures in the collection.
    pub size: usize,
    /// Encoding the query.
    pub encode: f64,
    /// Comparing its embedding with all of the collection.
    pub compare: Option<f64>,
    /// Matching the best `k`, whose tokens are at hand.
    pub rerank: Option<f64>,
    /// Matching every picture: measured on those encoded, and multiplied.
    pub match_all: Option<f64>,
}

/// Measures the queries of a source's first texts on its pictures.
///
/// # Errors
/// When a record cannot be used.
pub fn measure(
    scorer: &Scorer<'_>,
    source: &dyn Source,
    settings: &Settings,
) -> Result<Vec<QueryCost>, CostError> {
    let count = settings.pictures.min(source.len());
    if count == 0 || settings.queries == 0 {
        return Err(CostError::Empty(source.describe()));
    }
    let bad = |key: String, reason: String| CostError::Record { key, reason };
    let limits = DecodeLimits::default();
    let loaded = load_images(
        source,
        0..count,
        &scorer.transform,
        &limits,
        settings.workers,
    );
    let mut pixels = Vec::with_capacity(count);
    let mut texts = Vec::new();
    for record in loaded {
        let record = record.map_err(|skipped| bad(skipped.key, skipped.detail))?;
        let caption = record.captions.first();
        let text = caption.and_then(|text| pre_caption(text, settings.max_words));
        texts.push(text.ok_or_else(|| bad(record.key, "no text".to_owned()))?);
        pixels.push(record.pixels);
    }
    texts.truncate(settings.queries);

    let chunks: Vec<_> = pixels
        .chunks(CHUNK)
        .map(|images| scorer.encode_images(images))
        .collect();
    let embed: Option<Vec<f32>> = chunks
        .iter()
        .map(|chunk| chunk.embed.clone().map(host_values))
        .collect::<Option<Vec<_>>>()
        .map(|rows| rows.concat());
    let matching = scorer.model.matching();
    // The first query pays for what is set up once.
    scorer.encode_texts(&texts[..1], settings.max_tokens);

    let milliseconds = |start: Instant| 1000.0 * start.elapsed().as_secs_f64();
    let mut encode = Vec::new();
    let mut rerank = Vec::new();
    let mut match_all = Vec::new();
    let mut queries = Vec::new();
    for text in &texts {
        let start = Instant::now();
        let encoded = scorer.encode_texts(std::slice::from_ref(text), settings.max_tokens);
        let row = encoded.embed.clone().map(host_values);
        encode.push(milliseconds(start));
        queries.push(row);
        let Some(matching) = matching else { continue };
        let matched = |images: &Tensor<3>, rows: usize| {
            let parts = matching.image_parts(images.clone().narrow(0, 0, rows));
            let pairs = Pairs {
                texts: vec![0; rows],
                images: (0..rows).collect(),
            };
            match_pairs(matching, &encoded, &parts, &pairs)
        };
        if embed.is_some() {
            let start = Instant::now();
            let mut left = settings.k.min(count);
            for chunk in &chunks {
                let rows = left.min(chunk.tokens.dims()[0]);
                if rows > 0 {
                    matched(&chunk.tokens, rows);
                }
                left -= rows;
            }
            rerank.push(milliseconds(start));
        }
        let start = Instant::now();
        for chunk in &chunks {
            matched(&chunk.tokens, chunk.tokens.dims()[0]);
        }
        match_all.push(milliseconds(start));
    }

    let mut costs = Vec::new();
    for &size in &settings.sizes {
        let compare = embed.as_ref().map(|rows| {
            let dim = rows.len() / count;
            let gallery: Vec<f32> = rows.iter().copied().cycle().take(size * dim).collect();
            let view = FeatureView::f32(&gallery, dim);
            let times = queries.iter().flatten().map(|query| {
                let start = Instant::now();
                let hits = search(view, query, settings.k.max(1));
                std::hint::black_box(hits);
                milliseconds(start)
            });
            median(times.collect())
        });
        costs.push(QueryCost {
            size,
            encode: median(encode.clone()),
            compare,
            rerank: (!rerank.is_empty()).then(|| median(rerank.clone())),
            match_all: (!match_all.is_empty())
                .then(|| median(match_all.clone()) * size as f64 / count as f64),
        });
    }
    Ok(costs)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
