//! Two-step search in a feature store: the contrastive similarity finds candidates, the matching
//! head orders the best of them.

use std::path::Path;

use fitup_index::{Hit, Item, ItemKind, Store, search};
use image::RgbImage;
use serde::Serialize;

use super::{LoadedError, LoadedModel, MatchScore};

/// One item that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// Its row in the store.
    pub row: usize,
    /// Its description.
    pub item: Item,
    /// Cosine with the query, `[-1, 1]`.
    pub similarity: f32,
    /// Probability that picture and text belong together, `[0, 1]`; absent where it was not
    /// computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matching: Option<f32>,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SearchResult {
    /// The re-ranked items, best match first; then the others by similarity.
    pub found: Vec<Found>,
    /// Candidates whose picture could not be read again: locator and reason. They rank by
    /// similarity, behind those that were re-ranked.
    pub unreadable: Vec<(String, String)>,
}

impl LoadedModel {
    /// Opens a store of this model's features.
    ///
    /// # Errors
    /// As [`Store::open`]; another model's store is refused.
    pub fn open_store(&self, folder: &Path) -> Result<Store, LoadedError> {
        Ok(Store::open(folder, Some(&self.fingerprint))?)
    }

    /// The `k` items nearest to a text. With `rerank`, so many candidates are ordered by the
    /// matching head, if the system has one, where they are pictures; `picture` reads them again.
    ///
    /// # Errors
    /// [`LoadedError::EmptyText`], [`LoadedError::Cannot`].
    ///
    /// # Panics
    /// If the store's rows are not as long as the model's embeddings: open it with
    /// [`LoadedModel::open_store`].
    pub fn search_text(
        &self,
        store: &Store,
        query: &str,
        k: usize,
        rerank: Option<usize>,
        picture: &mut dyn FnMut(&Item) -> Result<RgbImage, LoadedError>,
    ) -> Result<SearchResult, LoadedError> {
        let text = self.encode_texts(&[self.clean(query)?]);
        let matching = self.model.matching().filter(|_| rerank.is_some());
        let candidates = matching.and(rerank).unwrap_or(0);
        let embed = self.rows(text.embed.clone(), "search")?;
        let hits = nearest(store, &embed, k.max(candidates));

        let (mut matched, mut pixels, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
        for (place, hit) in hits.iter().enumerate().take(candidates) {
            let item = &store.items()[hit.row];
            if item.kind != ItemKind::Image {
                continue;
            }
            match picture(item) {
                Ok(image) => {
                    matched.push(place);
                    pixels.push(self.prepare(&image));
                }
                Err(error) => unreadable.push((item.locator.clone(), error.to_string())),
            }
        }
        let scores = match matching.filter(|_| !pixels.is_empty()) {
            None => Vec::new(),
            Some(matching) => self.match_images(matching, &self.encode_images(&pixels), &text, 0),
        };
        Ok(SearchResult {
            found: order(store, &hits, &matched, &scores, k),
            unreadable,
        })
    }

    /// The `k` items nearest to a picture. With `rerank`, so many candidates are ordered by the
    /// matching head, if the system has one, where they are texts.
    ///
    /// # Errors
    /// [`LoadedError::Cannot`].
    ///
    /// # Panics
    /// As [`LoadedModel::search_text`].
    pub fn search_image(
        &self,
        store: &Store,
        query: &RgbImage,
        k: usize,
        rerank: Option<usize>,
    ) -> Result<SearchResult, LoadedError> {
        let image = self.encode_images(&[self.prepare(query)]);
        let matching = self.model.matching().filter(|_| rerank.is_some());
        let candidates = matching.and(rerank).unwrap_or(0);
        let embed = self.rows(image.embed.clone(), "search")?;
        let hits = nearest(store, &embed, k.max(candidates));

        let (mut matched, mut texts) = (Vec::new(), Vec::new());
        for (place, hit) in hits.iter().enumerate().take(candidates) {
            let item = &store.items()[hit.row];
            if let (ItemKind::Text, Ok(text)) = (item.kind, self.clean(&item.text)) {
                matched.push(place);
                texts.push(text);
            }
        }
        let scores = match matching.filter(|_| !texts.is_empty()) {
            None => Vec::new(),
            Some(matching) => self.match_texts(matching, &image, &self.encode_texts(&texts)),
        };
        Ok(SearchResult {
            found: order(store, &hits, &matched, &scores, k),
            unreadable: Vec::new(),
        })
    }
}

fn nearest(store: &Store, query: &[f32], k: usize) -> Vec<Hit> {
    search(store.features(), query, k).pop().unwrap_or_default()
}

/// Hits at the places `matched` first, by their scores; then the others as they were.
fn order(
    store: &Store,
    hits: &[Hit],
    matched: &[usize],
    scores: &[MatchScore],
    k: usize,
) -> Vec<Found> {
    let mut margins: Vec<Option<f32>> = vec![None; hits.len()];
    let mut found: Vec<Found> = hits
        .iter()
        .map(|hit| Found {
            row: hit.row,
            item: store.items()[hit.row].clone(),
            similarity: hit.score,
            matching: None,
        })
        .collect();
    for (place, score) in matched.iter().zip(scores) {
        margins[*place] = Some(score.margin());
        found[*place].matching = Some(score.probability());
    }
    let mut ranked: Vec<(Option<f32>, Found)> = margins.into_iter().zip(found).collect();
    ranked.sort_by(|(a, _), (b, _)| match (a, b) {
        (Some(a), Some(b)) => b.total_cmp(a),
        (a, b) => b.is_some().cmp(&a.is_some()),
    });
    ranked.into_iter().map(|(_, found)| found).take(k).collect()
}
