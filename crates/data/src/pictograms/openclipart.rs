//! Open Clip Art: twenty years of drawings by many hands, with titles that need a careful reader.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use regex::Regex;

use super::attribution::Source;
use super::build::BuildError;
use super::candidate::{Candidate, Picture};
use super::entities::unescape;
use super::words::slug;

/// A name that many drawings share says what series they belong to and not what they show.
const SAME_NAME: usize = 12;

/// Reads the metadata of every SVG; the pictures are the PNG files of the sister package.
///
/// Returns the candidates and the number of drawings dropped, by reason.
///
/// # Errors
/// [`BuildError`] when the folders cannot be read.
pub(super) fn read_openclipart(
    source: &'static Source,
    svg_package: &Path,
    png_package: &Path,
) -> Result<(Vec<Candidate>, BTreeMap<String, usize>), BuildError> {
    let svg_root = svg_package.join("usr/share/openclipart/svg");
    let png_root = png_package.join("usr/share/openclipart/png");
    let rules = Rules::new()?;
    let mut dropped: BTreeMap<String, usize> = BTreeMap::new();
    let mut files = Vec::new();
    walk(&svg_root, &mut files)?;
    files.sort();
    let mut candidates = Vec::new();
    for path in files {
        let relative = path
            .strip_prefix(&svg_root)
            .unwrap_or(&path)
            .with_extension("");
        let relative = relative.to_string_lossy().replace('\\', "/");
        let read = if path.is_symlink() {
            Err("symlink")
        } else {
            let bytes = std::fs::read(&path).map_err(|source| BuildError::Io {
                path: path.clone(),
                source,
            })?;
            rules.read(&relative, &String::from_utf8_lossy(&bytes))
        };
        match read {
            Ok(entry) => candidates.push(entry.candidate(source, &relative, &png_root)),
            Err(reason) => *dropped.entry(reason.to_owned()).or_default() += 1,
        }
    }
    let mut uses: HashMap<String, usize> = HashMap::new();
    for candidate in &candidates {
        *uses.entry(candidate.concept.clone()).or_default() += 1;
    }
    let before = candidates.len();
    candidates.retain(|candidate| {
        uses.get(&candidate.concept)
            .is_some_and(|&count| count <= SAME_NAME)
    });
    dropped.insert(
        format!("name used more than {SAME_NAME} times"),
        before - candidates.len(),
    );
    Ok((candidates, dropped))
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), BuildError> {
    let io = |source| BuildError::Io {
        path: folder.to_owned(),
        source,
    };
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let path = entry.path();
        if entry.file_type().map_err(io)?.is_dir() {
            walk(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "svg") {
            files.push(path);
        }
    }
    Ok(())
}

/// What one file says about itself.
struct Entry {
    name: String,
    keywords: Vec<String>,
    description: Option<String>,
    author: Option<String>,
}

impl Entry {
    fn candidate(self, source: &'static Source, relative: &str, png_root: &Path) -> Candidate {
        let mut folders = relative.rsplit('/').skip(1);
        let subgroup = folders.next().unwrap_or_default().to_owned();
        let concept = format!("oc:{}", slug(&self.name));
        Candidate {
            source,
            picture: Picture::File(png_root.join(format!("{relative}.png"))),
            family: concept.clone(),
            concept,
            name: self.name,
            keywords: self.keywords,
            group: relative.split('/').next().unwrap_or_default().to_owned(),
            subgroup,
            tone: None,
            emoji: None,
            caption: self.description,
            author: self.author,
        }
    }
}

/// The patterns, compiled once.
struct Rules {
    metadata: Regex,
    title: Regex,
    description: Regex,
    subject: Regex,
    item: Regex,
    license: Regex,
    creator: Regex,
    tag: Regex,
    space: Regex,
    abstract_art: Regex,
    icon_theme: Regex,
    series_title: Regex,
    number_token: Regex,
    playing_card: Regex,
    variant: Regex,
    trailing_number: Regex,
    italian: Regex,
    proper_names: Regex,
    three_letters: Regex,
    bad_keyword: Regex,
    bad_description: Regex,
}

impl Rules {
    fn new() -> Result<Self, BuildError> {
        let pattern = |text: &str| {
            Regex::new(text).map_err(|error| BuildError::Package {
                path: PathBuf::new(),
                reason: error.to_string(),
            })
        };
        Ok(Self {
            metadata: pattern(r"(?s)<rdf:RDF.*?</rdf:RDF>")?,
            title: pattern(r"(?s)<dc:title[^>]*>(.*?)</dc:title>")?,
            description: pattern(r"(?s)<dc:description[^>]*>(.*?)</dc:description>")?,
            subject: pattern(r"(?s)<dc:subject[^>]*>(.*?)</dc:subject>")?,
            item: pattern(r"(?s)<rdf:li[^>]*>(.*?)</rdf:li>")?,
            license: pattern(r#"<cc:license rdf:resource="([^"]*)""#)?,
            creator: pattern(r"(?s)<dc:creator>.*?<dc:title>(.*?)</dc:title>")?,
            tag: pattern(r"<[^>]+>")?,
            space: pattern(r"\s+")?,
            abstract_art: pattern(
                "^special/|^shapes/stars/star_|^shapes/jigsaw|^logos/|/duplicates|/led|pantyhose|coat_of_arms",
            )?,
            icon_theme: pattern("(?i)theme|flat|lemon|gold|etiquette|r16|blueberry|appicon")?,
            series_title: pattern(
                r"(?i)clipart by|part of the|various|aiga|theme|road signs|gradient|^people$|iconset|sibmission|^advertising|^map symbols|hash|unnamed|untitled|stick man|^card$|^simple|^bordered|australian maps|^\d+$|@|http|clipart|illustration|rpg|icon",
            )?,
            number_token: pattern(r"^(?:\d+|[a-zA-Z]|\d+[a-z]?)$")?,
            playing_card: pattern(r"cards/(\w+)/\w+_([hdcs])_(\w+)$")?,
            variant: pattern(r"(?i)\(?\b(b and w|bw|outline|by .*)\b\)?")?,
            trailing_number: pattern(r"[\s\d#\-.]+$")?,
            italian: pattern("(?i)rollandin|architetto")?,
            proper_names: pattern("flag|geography|religion|astronom")?,
            three_letters: pattern("[a-zA-Z]{3}")?,
            bad_keyword: pattern(
                "theme|@|http|0x|hash|^icons?$|signs_and|unsorted|special|clip_?art|mapsym|image|united_nations|roadsign|architetto|0",
            )?,
            bad_description: pattern(
                r"(?i)@|http|HASH|part of|submit|inkscape|made with|convert|^clip ?art|vector|collection",
            )?,
        })
    }

    /// What the file says about itself, or why it is dropped.
    fn read(&self, relative: &str, document: &str) -> Result<Entry, &'static str> {
        let metadata = self
            .metadata
            .find(document)
            .map_or("", |found| found.as_str());
        let license = first(&self.license, metadata)
            .unwrap_or_default()
            .to_lowercase();
        if !license.contains("publicdomain") {
            return Err("licence is not public domain");
        }
        let title = self.plain(first(&self.title, metadata).unwrap_or_default());
        let author = self.plain(first(&self.creator, metadata).unwrap_or_default());
        if title == "gramastar" || self.abstract_art.is_match(relative) {
            return Err("generated, abstract or a logo");
        }
        if relative.starts_with("computer/icons/")
            && self.icon_theme.is_match(&format!("{relative}{title}"))
        {
            return Err("icon theme without names");
        }
        if self.italian.is_match(&format!("{relative}{title}{author}")) {
            return Err("titles in Italian");
        }
        let name = self.name(relative, &title, &author);
        if !self.three_letters.is_match(&name) {
            return Err("no name");
        }
        let subject = first(&self.subject, metadata).unwrap_or_default();
        let keywords = self
            .item
            .captures_iter(subject)
            .filter_map(|item| item.get(1))
            .map(|item| self.plain(item.as_str()).to_lowercase())
            .filter(|keyword| !keyword.is_empty() && !self.bad_keyword.is_match(keyword))
            .map(|keyword| keyword.replace('_', " "))
            .collect();
        let description = self.plain(first(&self.description, metadata).unwrap_or_default());
        let words = description.split_whitespace().count();
        let usable = (3..=40).contains(&words) && !self.bad_description.is_match(&description);
        Ok(Entry {
            name,
            keywords,
            description: usable.then_some(description),
            // Some gave only an address, which is not for spreading.
            author: (!author.is_empty() && !author.contains('@')).then_some(author),
        })
    }

    /// The title where it names this drawing and not its series, else the words of the file name.
    fn name(&self, relative: &str, title: &str, author: &str) -> String {
        if let Some(card) = self.playing_card.captures(relative)
            && let (Some(suit), Some(rank)) = (suit(&card[2]), rank(&card[3].to_lowercase()))
        {
            return format!("{rank} of {suit} playing card");
        }
        let usable =
            !title.is_empty() && title.chars().count() < 60 && !self.series_title.is_match(title);
        let name = if usable {
            title.to_owned()
        } else {
            self.file_words(relative, author)
        };
        let name = name.replace('_', " ");
        let name = self.variant.replace_all(&name, "");
        let mut name = self.trailing_number.replace(&name, "").trim().to_owned();
        if relative.starts_with("signs_and_symbols/flags") && !name.to_lowercase().contains("flag")
        {
            name = format!("flag of {}", name.rsplit(" - ").next().unwrap_or_default());
        }
        if self.proper_names.is_match(relative) {
            return name;
        }
        let lower = |word: &str| {
            let acronym = word.chars().count() < 4
                && word.chars().any(char::is_uppercase)
                && !word.chars().any(char::is_lowercase);
            if acronym {
                word.to_owned()
            } else {
                word.to_lowercase()
            }
        };
        name.split_whitespace()
            .map(lower)
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// File names end in the author's name, cut short, and a number.
    fn file_words(&self, relative: &str, author: &str) -> String {
        let author = author.to_lowercase();
        let author: HashSet<&str> = author
            .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
            .collect();
        let is_author = |word: &str| {
            author.contains(word)
                || word.chars().count() > 3 && author.iter().any(|name| name.starts_with(word))
        };
        let stem = relative.rsplit('/').next().unwrap_or_default();
        stem.split(|letter: char| !letter.is_alphanumeric())
            .filter(|word| {
                !word.is_empty()
                    && !self.number_token.is_match(word)
                    && !is_author(&word.to_lowercase())
            })
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn plain(&self, markup: &str) -> String {
        let text = unescape(&self.tag.replace_all(markup, " "));
        self.space.replace_all(&text, " ").trim().to_owned()
    }
}

fn first<'a>(pattern: &Regex, text: &'a str) -> Option<&'a str> {
    Some(pattern.captures(text)?.get(1)?.as_str())
}

fn suit(letter: &str) -> Option<&'static str> {
    Some(match letter {
        "h" => "hearts",
        "d" => "diamonds",
        "c" => "clubs",
        "s" => "spades",
        _ => return None,
    })
}

fn rank(text: &str) -> Option<&'static str> {
    Some(match text {
        "a" | "1" => "ace",
        "2" => "two",
        "3" => "three",
        "4" => "four",
        "5" => "five",
        "6" => "six",
        "7" => "seven",
        "8" => "eight",
        "9" => "nine",
        "10" => "ten",
        "j" => "jack",
        "q" => "queen",
        "k" => "king",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn document(title: &str, author: &str, license: &str) -> String {
        format!(
            "<svg><metadata><rdf:RDF><cc:Work><dc:title>{title}</dc:title>\
             <dc:creator><cc:Agent><dc:title>{author}</dc:title></cc:Agent></dc:creator>\
             <dc:subject><rdf:Bag><rdf:li>Farm_Animal</rdf:li><rdf:li>hash</rdf:li></rdf:Bag></dc:subject>\
             <dc:description>A cow that\n looks at you &amp; chews</dc:description>\
             <cc:license rdf:resource=\"{license}\"/></cc:Work></rdf:RDF></metadata></svg>"
        )
    }

    const PUBLIC: &str = "http://web.resource.org/cc/PublicDomain";

    #[test]
    fn a_good_entry() {
        let rules = Rules::new().unwrap();
        let entry = rules
            .read(
                "animals/mammals/cow_bob_01",
                &document("Cow 2", "Bob Smith", PUBLIC),
            )
            .unwrap();
        assert_eq!(entry.name, "cow");
        assert_eq!(entry.keywords, ["farm animal"]);
        assert_eq!(
            entry.description.as_deref(),
            Some("A cow that looks at you & chews")
        );
        assert_eq!(entry.author.as_deref(), Some("Bob Smith"));
    }

    #[test]
    fn names_from_file_names_lose_author_and_number() {
        let rules = Rules::new().unwrap();
        let entry = rules
            .read(
                "food/apple_pie_smit_01",
                &document("untitled", "Bob Smith", PUBLIC),
            )
            .unwrap();
        assert_eq!(entry.name, "apple pie");
        let card = rules
            .read(
                "recreation/cards/white/foo_h_q",
                &document("card", "x", PUBLIC),
            )
            .unwrap();
        assert_eq!(card.name, "queen of hearts playing card");
        let flag = rules
            .read(
                "signs_and_symbols/flags/africa/kenya",
                &document("Africa - Kenya", "", PUBLIC),
            )
            .unwrap();
        assert_eq!(flag.name, "flag of Kenya");
    }

    #[test]
    fn what_is_dropped() {
        let rules = Rules::new().unwrap();
        let reason = |relative: &str, document: &str| rules.read(relative, document).err();
        assert_eq!(
            reason("a/b", &document("Cow", "", "by-nc")),
            Some("licence is not public domain")
        );
        assert_eq!(
            reason("logos/b", &document("Cow", "", PUBLIC)),
            Some("generated, abstract or a logo")
        );
        assert_eq!(reason("a/01", &document("12", "", PUBLIC)), Some("no name"));
        assert_eq!(
            reason("a/b", "no metadata"),
            Some("licence is not public domain")
        );
    }
}
