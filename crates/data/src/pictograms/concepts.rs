//! The table of emoji concepts: code points, names, keywords, categories and translations.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;
use serde::Deserialize;

use super::build::BuildError;
use super::ordered::Ordered;
use super::words::slug;

/// Languages whose labels go into the records beside the English ones.
const LANGUAGES: [&str; 9] = ["zh", "fr", "de", "es", "ja", "hi", "ru", "pt", "ko"];

/// Skin tones by their number in the table; 0 is none.
pub(super) const TONES: [&str; 6] = ["", "light", "medium-light", "medium", "medium-dark", "dark"];

/// One emoji, with or without a skin tone.
#[derive(Clone, Debug)]
pub(super) struct Concept {
    /// Code points in hexadecimal, joined by `-`.
    pub(super) hex: String,
    /// The same without skin tone.
    pub(super) base: String,
    /// The same without gender either.
    pub(super) family: String,
    /// English name of the base.
    pub(super) name: String,
    /// English name with its tone, by which icons are joined.
    label: String,
    pub(super) keywords: Vec<String>,
    pub(super) group: String,
    pub(super) subgroup: String,
    /// 1 to 5.
    pub(super) tone: Option<u8>,
    /// Two people of two tones.
    pub(super) several_tones: bool,
}

/// All concepts in the order of the Unicode table, with the ways to find one.
pub(super) struct Concepts {
    list: Vec<Concept>,
    by_code: HashMap<String, usize>,
    by_label: HashMap<String, usize>,
    by_older_name: HashMap<String, usize>,
    labels: BTreeMap<&'static str, HashMap<String, String>>,
}

#[derive(Deserialize)]
struct Entry {
    label: String,
    hexcode: String,
    #[serde(default)]
    tags: Vec<String>,
    group: Option<u32>,
    subgroup: Option<u32>,
    tone: Option<Tone>,
    #[serde(default)]
    skins: Vec<Entry>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Tone {
    One(u8),
    Several(Vec<u8>),
}

#[derive(Deserialize)]
struct Groups {
    groups: HashMap<String, String>,
    subgroups: HashMap<String, String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Shortcodes {
    One(String),
    Several(Vec<String>),
}

impl Concepts {
    /// Reads the unpacked `emojibase-data` package.
    ///
    /// # Errors
    /// [`BuildError`] for a file that is missing or not what it should be.
    pub(super) fn read(package: &Path) -> Result<Self, BuildError> {
        let groups: Groups = read_json(&package.join("meta/groups.json"))?;
        let entries: Vec<Entry> = read_json(&package.join("en/data.json"))?;
        let mut list = Vec::new();
        for entry in &entries {
            // Regional indicators and other building blocks have no group and no picture of their own.
            let (Some(group), Some(subgroup)) = (entry.group, entry.subgroup) else {
                continue;
            };
            let name_of = |names: &HashMap<String, String>, number: u32| {
                names.get(&number.to_string()).cloned().unwrap_or_default()
            };
            let base = Concept {
                hex: entry.hexcode.clone(),
                base: entry.hexcode.clone(),
                family: family(&entry.hexcode),
                name: entry.label.clone(),
                label: entry.label.clone(),
                keywords: entry.tags.clone(),
                group: name_of(&groups.groups, group),
                subgroup: name_of(&groups.subgroups, subgroup),
                tone: None,
                several_tones: false,
            };
            for variant in std::iter::once(entry).chain(&entry.skins) {
                list.push(Concept {
                    hex: variant.hexcode.clone(),
                    label: variant.label.clone(),
                    tone: match variant.tone {
                        Some(Tone::One(tone)) if (1..=5).contains(&tone) => Some(tone),
                        _ => None,
                    },
                    several_tones: matches!(&variant.tone, Some(Tone::Several(tones)) if !tones.is_empty()),
                    ..base.clone()
                });
            }
        }
        let by_code: HashMap<String, usize> = list
            .iter()
            .enumerate()
            .map(|(at, concept)| (bare_code(&concept.hex), at))
            .collect();
        let mut by_label = HashMap::new();
        for (at, concept) in list.iter().enumerate() {
            by_label.entry(slug(&concept.label)).or_insert(at);
        }
        let by_older_name = older_names(package, &list, &by_code)?;
        let mut labels = BTreeMap::new();
        for language in LANGUAGES {
            let entries: Vec<Entry> = read_json(&package.join(language).join("data.json"))?;
            let pairs = entries.into_iter().flat_map(|mut entry| {
                let skins = std::mem::take(&mut entry.skins);
                std::iter::once(entry)
                    .chain(skins)
                    .map(|variant| (variant.hexcode, variant.label))
            });
            labels.insert(language, pairs.collect());
        }
        Ok(Self {
            list,
            by_code,
            by_label,
            by_older_name,
            labels,
        })
    }

    /// The concept at that place in the table.
    pub(super) fn get(&self, at: usize) -> &Concept {
        &self.list[at]
    }

    /// By code points, with or without the emoji variation selector.
    pub(super) fn by_code(&self, code: &str) -> Option<usize> {
        self.by_code.get(&bare_code(code)).copied()
    }

    /// By its present English name, spelling aside.
    pub(super) fn by_label(&self, slug: &str) -> Option<usize> {
        self.by_label.get(slug).copied()
    }

    /// By the name of its Unicode character, or by a shortcode that some platform used.
    pub(super) fn by_older_name(&self, slug: &str) -> Option<usize> {
        self.by_older_name.get(slug).copied()
    }

    /// The name in other languages.
    pub(super) fn translations(&self, hex: &str) -> BTreeMap<String, String> {
        let label = |(language, labels): (&&str, &HashMap<String, String>)| {
            Some(((*language).to_owned(), labels.get(hex)?.clone()))
        };
        self.labels.iter().filter_map(label).collect()
    }
}

/// Old character names come first: they are exact, while platforms reused shortcodes.
fn older_names(
    package: &Path,
    list: &[Concept],
    by_code: &HashMap<String, usize>,
) -> Result<HashMap<String, usize>, BuildError> {
    let mut names = HashMap::new();
    let characters: HashMap<String, String> = read_json(&package.join("meta/unicode-names.json"))?;
    let characters: HashMap<String, String> = characters
        .into_iter()
        .map(|(code, name)| (bare_code(&code), name))
        .collect();
    for (at, concept) in list.iter().enumerate() {
        let code = bare_code(&concept.hex);
        if let Some(name) = characters.get(&code).filter(|_| !code.contains('-')) {
            names.entry(slug(name)).or_insert(at);
        }
    }
    let folder = package.join("en/shortcodes");
    let io = |source| BuildError::Io {
        path: folder.clone(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            files.push(path);
        }
    }
    files.sort();
    for file in files {
        let codes: Ordered<Shortcodes> = read_json(&file)?;
        for (code, shortcodes) in codes.0 {
            let Some(&at) = by_code.get(&bare_code(&code)) else {
                continue;
            };
            let shortcodes = match shortcodes {
                Shortcodes::One(one) => vec![one],
                Shortcodes::Several(several) => several,
            };
            for shortcode in shortcodes {
                names.entry(slug(&shortcode)).or_insert(at);
            }
        }
    }
    Ok(names)
}

/// Code points without the variation selector, which makers write or leave out as they like.
fn bare_code(code: &str) -> String {
    code.to_uppercase().replace("-FE0F", "")
}

/// Man, woman and person of the same kind are one family.
fn family(hex: &str) -> String {
    static PERSON: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new("^(1F468|1F469|1F9D1)-").ok());
    static GENDER: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new("-200D-264[02](-FE0F)?").ok());
    let (Some(person), Some(gender)) = (PERSON.as_ref(), GENDER.as_ref()) else {
        return hex.to_owned();
    };
    gender
        .replace_all(&person.replace(hex, "P-"), "")
        .into_owned()
}

/// Reads a JSON file of a package.
///
/// # Errors
/// [`BuildError::Io`] or [`BuildError::Package`].
pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, BuildError> {
    let bytes = std::fs::read(path).map_err(|source| BuildError::Io {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&bytes).map_err(|error| BuildError::Package {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gender_is_left_out_of_the_family() {
        assert_eq!(family("1F468-200D-1F373"), "P-200D-1F373");
        assert_eq!(family("1F469-200D-1F373"), "P-200D-1F373");
        assert_eq!(family("1F3C3-200D-2640-FE0F"), "1F3C3");
        assert_eq!(family("1F468"), "1F468");
    }

    #[test]
    fn codes_without_variation_selector() {
        assert_eq!(bare_code("2764-fe0f-200d-1f525"), "2764-200D-1F525");
    }
}
