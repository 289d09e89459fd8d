//! Emoji icon sets in the Iconify format, joined to the table of concepts.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::attribution::Source;
use super::build::BuildError;
use super::candidate::{Candidate, Picture};
use super::concepts::{Concepts, read_json};
use super::hash::hash48;
use super::ordered::Ordered;
use super::words::slug;

/// The icon sets in the order in which their names are learned: sets with code points come first, since
/// their names then help to place the sets without.
pub(super) const ICON_SETS: [&str; 7] = [
    "noto",
    "twemoji",
    "fluent-flat",
    "noto-v1",
    "fluent",
    "emojione",
    "fxemoji",
];

#[derive(Deserialize)]
struct IconSet {
    icons: Ordered<Icon>,
    width: Option<f64>,
    height: Option<f64>,
}

#[derive(Deserialize)]
struct Icon {
    body: String,
    #[serde(default)]
    hidden: bool,
    width: Option<f64>,
    height: Option<f64>,
    #[serde(default)]
    left: f64,
    #[serde(default)]
    top: f64,
}

/// Joins icons to concepts: by code point, then by name, then by older names and shortcodes.
#[derive(Default)]
pub(super) struct IconJoiner {
    /// Names that a set with code points gave to a concept.
    learned: HashMap<String, usize>,
    /// Icons without a concept, by source.
    pub(super) unmapped: HashMap<&'static str, usize>,
    /// Skin-tone variants left out.
    pub(super) tones_left_out: usize,
}

impl IconJoiner {
    /// The usable icons of one unpacked set.
    ///
    /// Left out: hidden icons (old drawings), building blocks, people of two tones, and all but one skin tone,
    /// which is chosen by hash so that tones vary over makers and concepts.
    ///
    /// # Errors
    /// [`BuildError`] for a file that is missing or not what it should be.
    pub(super) fn read_set(
        &mut self,
        source: &'static Source,
        package: &Path,
        concepts: &Concepts,
    ) -> Result<Vec<Candidate>, BuildError> {
        let set: IconSet = read_json(&package.join("icons.json"))?;
        let characters = package.join("chars.json");
        let characters: Ordered<String> = if characters.is_file() {
            read_json(&characters)?
        } else {
            Ordered::default()
        };
        let mut by_code = HashMap::new();
        for (code, name) in characters.0 {
            if let Some(at) = concepts.by_code(&code) {
                self.learned.entry(slug(&name)).or_insert(at);
                by_code.entry(name).or_insert(at);
            }
        }
        let mut candidates = Vec::new();
        for (name, icon) in set.icons.0.into_iter().filter(|(_, icon)| !icon.hidden) {
            let key = slug(&name);
            let found = by_code
                .get(&name)
                .copied()
                .or_else(|| self.learned.get(&key).copied())
                .or_else(|| concepts.by_label(&key))
                .or_else(|| concepts.by_older_name(&key));
            let Some(at) = found else {
                *self.unmapped.entry(source.name).or_default() += 1;
                continue;
            };
            let concept = concepts.get(at);
            if concept.several_tones || concept.group == "component" {
                continue;
            }
            if concept
                .tone
                .is_some_and(|tone| tone != chosen_tone(source, &concept.base))
            {
                self.tones_left_out += 1;
                continue;
            }
            let width = icon.width.or(set.width).unwrap_or(16.0);
            let height = icon.height.or(set.height).unwrap_or(16.0);
            candidates.push(Candidate {
                source,
                picture: Picture::Svg(document(&icon, width, height)),
                concept: concept.base.clone(),
                family: concept.family.clone(),
                name: concept.name.clone(),
                keywords: concept.keywords.clone(),
                group: concept.group.clone(),
                subgroup: concept.subgroup.clone(),
                tone: concept.tone,
                emoji: Some(concept.hex.clone()),
                caption: None,
                author: None,
            });
        }
        Ok(candidates)
    }
}

fn chosen_tone(source: &Source, base: &str) -> u8 {
    1 + (hash48(&format!("{}{base}", source.name)) % 5) as u8
}

fn document(icon: &Icon, width: f64, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" xmlns:xlink=\"http://www.w3.org/1999/xlink\" width=\"{width}\" \
         height=\"{height}\" viewBox=\"{} {} {width} {height}\">{}</svg>",
        icon.left, icon.top, icon.body
    )
}
