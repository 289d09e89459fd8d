//! What the shipped model says about the sample pictures.

use std::time::{Duration, Instant};

use anyhow::Result;
use fitup_index::{FeatureView, Store, search};
use fitup_training::loaded::{FilledMask, Found, LoadedModel};

use super::album::Album;

/// Answers shown of each ranking.
pub(super) const SHOWN: usize = 6;
/// Candidates that the matching head looks at.
pub(super) const CANDIDATES: usize = 16;
/// Words shown for a mask.
const WORDS: usize = 5;

/// Words of different kinds: things, a face, an animal, food.
pub(super) const TEXTS: [&str; 6] = [
    "a red heart",
    "an umbrella",
    "a racing car",
    "a crying face",
    "a black cat",
    "a glass of milk",
];
/// Captions of the pictures that are queries; both are kept out of training.
const PICTURES: [&str; 2] = ["a penguin", "a factory"];
/// Captions of pictures kept out of training, and what is asked about them.
const GAPS: [(&str, &str); 2] = [
    ("a crying face", "a [MASK] face"),
    ("a blue heart", "a [MASK] heart"),
];

/// A picture that was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    /// Its place in the album.
    pub(super) picture: usize,
    /// Cosine, `[-1, 1]`.
    pub(super) similarity: f32,
    /// Probability of a match, `[0, 1]`, where the matching head looked.
    pub(super) matching: Option<f32>,
    /// Place in the contrastive order, from 1.
    pub(super) before: usize,
}

/// A text looked for among the pictures.
#[derive(Debug)]
pub(super) struct TextAnswer {
    pub(super) query: &'static str,
    pub(super) contrastive: Vec<Shown>,
    pub(super) reranked: Vec<Shown>,
    /// Of both steps together.
    pub(super) took: Duration,
}

/// A caption that was found.
#[derive(Clone, Debug)]
pub(super) struct Caption {
    pub(super) text: String,
    /// Cosine, `[-1, 1]`.
    pub(super) similarity: f32,
    /// Probability of a match, `[0, 1]`.
    pub(super) matching: f32,
    /// Place in the contrastive order, from 1.
    pub(super) before: usize,
}

/// A picture looked for among pictures and captions.
#[derive(Debug)]
pub(super) struct PictureAnswer {
    pub(super) picture: usize,
    /// Other pictures; matching compares pictures with texts only, so these are not re-ranked.
    pub(super) similar: Vec<Shown>,
    pub(super) contrastive: Vec<Caption>,
    pub(super) reranked: Vec<Caption>,
}

/// A filled gap.
#[derive(Debug)]
pub(super) struct GapAnswer {
    pub(super) picture: usize,
    pub(super) text: &'static str,
    pub(super) words: FilledMask,
}

/// Both rankings of a text.
pub(super) fn find_text(
    model: &LoadedModel,
    store: &Store,
    album: &Album,
    query: &'static str,
) -> Result<TextAnswer> {
    let started = Instant::now();
    let mut read = |item: &fitup_index::Item| {
        let picture = album.find(item).and_then(|picture| album.pixels(picture));
        picture.map_err(|error| fitup_training::loaded::LoadedError::Picture {
            locator: item.locator.clone(),
            reason: error.to_string(),
        })
    };
    let first = model.search_text(store, query, CANDIDATES, None, &mut read)?;
    let second = model.search_text(store, query, CANDIDATES, Some(CANDIDATES), &mut read)?;
    let took = started.elapsed();
    let shown = |found: &Found| {
        let before = first.found.iter().position(|f| f.row == found.row);
        Ok(Shown {
            picture: album.find(&found.item)?,
            similarity: found.similarity,
            matching: found.matching,
            before: before.map_or(CANDIDATES, |place| place + 1),
        })
    };
    let top = |found: &[Found]| found.iter().take(SHOWN).map(shown).collect::<Result<_>>();
    Ok(TextAnswer {
        query,
        contrastive: top(&first.found)?,
        reranked: top(&second.found)?,
        took,
    })
}

/// Pictures like each of two pictures, and captions for it.
pub(super) fn find_pictures(
    model: &LoadedModel,
    store: &Store,
    album: &Album,
) -> Result<Vec<PictureAnswer>> {
    // Several pictures carry the same caption.
    let mut captions: Vec<String> = album
        .pictures
        .iter()
        .filter_map(|p| model.clean(&p.caption).ok())
        .collect();
    captions.sort();
    captions.dedup();
    let embed = model.embed_texts(&captions, "search")?;
    let dim = embed.len() / captions.len().max(1);
    let matching = model.matching("order captions by matching")?;

    let answer = |(place, caption): (usize, &&str)| {
        let picture = album.unseen(caption, place);
        let pixels = album.pixels(picture)?;
        let mut similar = Vec::new();
        for found in model.search_image(store, &pixels, SHOWN + 1, None)?.found {
            similar.push(Shown {
                picture: album.find(&found.item)?,
                similarity: found.similarity,
                matching: None,
                before: similar.len() + 1,
            });
        }
        // The query is among the pictures, and its own nearest.
        similar.retain(|shown| shown.picture != picture);
        similar.truncate(SHOWN);

        let image = model.encode_images(&[model.prepare(&pixels)]);
        let query = model.rows(image.embed.clone(), "search")?;
        let hits = search(FeatureView::f32(&embed, dim), &query, CANDIDATES);
        let hits = hits.into_iter().next().unwrap_or_default();
        let texts: Vec<String> = hits.iter().map(|hit| captions[hit.row].clone()).collect();
        let scores = model.match_texts(matching, &image, &model.encode_texts(&texts));
        let mut contrastive: Vec<Caption> = texts
            .into_iter()
            .zip(hits.iter().zip(scores))
            .zip(1..)
            .map(|((text, (hit, score)), before)| Caption {
                text,
                similarity: hit.score,
                matching: score.probability(),
                before,
            })
            .collect();
        let mut reranked = contrastive.clone();
        reranked.sort_by(|a, b| b.matching.total_cmp(&a.matching));
        contrastive.truncate(SHOWN);
        reranked.truncate(SHOWN);
        Ok(PictureAnswer {
            picture,
            similar,
            contrastive,
            reranked,
        })
    };
    PICTURES.iter().enumerate().map(answer).collect()
}

/// Words for the gaps.
pub(super) fn fill_gaps(model: &LoadedModel, album: &Album) -> Result<Vec<GapAnswer>> {
    let mut answers = Vec::new();
    for (place, (caption, text)) in GAPS.into_iter().enumerate() {
        let picture = album.unseen(caption, place);
        let filled = model.fill(&album.pixels(picture)?, text, WORDS)?;
        answers.extend(filled.masks.into_iter().map(|words| GapAnswer {
            picture,
            text,
            words,
        }));
    }
    Ok(answers)
}
