//! The notice that travels with the shards: who drew what, under which terms.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::record::Record;

/// Terms of one source.
pub(super) struct Source {
    /// Name in the records.
    pub(super) name: &'static str,
    /// How the set looks, in words: part of the captions.
    pub(super) style: &'static str,
    /// SPDX name, or `PD`.
    pub(super) license: &'static str,
    /// Sister sets share outlines, so they leave training together.
    pub(super) maker: &'static str,
    /// The package the drawings come from.
    pub(super) package: &'static str,
    /// The line that the licence asks for.
    pub(super) credit: &'static str,
}

/// Every source, in the order in which duplicates are kept.
pub(super) const SOURCES: [Source; 8] = [
    Source {
        name: "noto",
        style: "emoji",
        license: "Apache-2.0",
        maker: "google",
        package: "npm @iconify-json/noto 1.2.9",
        credit: "Noto Emoji, copyright Google Inc., https://github.com/googlefonts/noto-emoji",
    },
    Source {
        name: "noto-v1",
        style: "blob-style emoji",
        license: "Apache-2.0",
        maker: "google",
        package: "npm @iconify-json/noto-v1 1.2.5",
        credit: "Noto Emoji (v1), copyright Google Inc., https://github.com/googlefonts/noto-emoji",
    },
    Source {
        name: "twemoji",
        style: "flat emoji",
        license: "CC-BY-4.0",
        maker: "twitter",
        package: "npm @iconify-json/twemoji 1.2.5",
        credit: "Twitter Emoji (Twemoji), copyright Twitter, Inc. and other contributors, https://github.com/jdecked/twemoji",
    },
    Source {
        name: "fluent-flat",
        style: "flat icon",
        license: "MIT",
        maker: "microsoft",
        package: "npm @iconify-json/fluent-emoji-flat 1.2.6",
        credit: "Fluent Emoji, copyright Microsoft Corporation, https://github.com/microsoft/fluentui-emoji",
    },
    Source {
        name: "fluent",
        style: "glossy icon",
        license: "MIT",
        maker: "microsoft",
        package: "npm @iconify-json/fluent-emoji 1.2.7",
        credit: "Fluent Emoji, copyright Microsoft Corporation, https://github.com/microsoft/fluentui-emoji",
    },
    Source {
        name: "emojione",
        style: "cartoon emoji",
        license: "CC-BY-4.0",
        maker: "emojione",
        package: "npm @iconify-json/emojione 1.2.3",
        credit: "Emoji One (colored), copyright Emoji One, https://github.com/EmojiTwo/emojitwo",
    },
    Source {
        name: "fxemoji",
        style: "simple icon",
        license: "Apache-2.0",
        maker: "mozilla",
        package: "npm @iconify-json/fxemoji 1.2.2",
        credit: "Firefox OS Emoji, copyright Mozilla, https://github.com/mozilla/fxemoji",
    },
    Source {
        name: "openclipart",
        style: "clip art picture",
        license: "PD",
        maker: "openclipart",
        package: "Debian openclipart-svg and openclipart-png",
        credit: "Open Clip Art Library, released by its authors into the public domain, https://openclipart.org",
    },
];

/// The source of that name.
pub(super) fn source(name: &str) -> Option<&'static Source> {
    SOURCES.iter().find(|source| source.name == name)
}

/// The maker of a set; a set that is not known counts as its own maker.
pub(crate) fn maker(name: &str) -> &str {
    source(name).map_or(name, |source| source.maker)
}

/// The notice for a set of records, as Markdown.
pub(crate) fn attribution<'a>(records: impl Iterator<Item = &'a Record>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut authors: BTreeSet<&str> = BTreeSet::new();
    for record in records {
        *counts.entry(record.source.as_str()).or_default() += 1;
        authors.extend(
            record
                .author
                .as_deref()
                .map(str::trim)
                .filter(|author| !author.is_empty()),
        );
    }
    let mut text = String::from(
        "# Where these pictures come from\n\n\
         The drawings were rasterised, trimmed and reduced to 256 colours; nothing else was changed. Every\n\
         record names its source, its licence and, where its file does, its author. Names, keywords and\n\
         categories of emoji come from `emojibase-data` 17.0.0 (MIT, copyright Miles Johnson), which takes them\n\
         from the Unicode CLDR (Unicode License v3).\n\n\
         | source | pictures | licence | package | credit |\n|---|---|---|---|---|\n",
    );
    for known in &SOURCES {
        if let Some(count) = counts.get(known.name) {
            let license = match known.license {
                "CC-BY-4.0" => "[CC-BY-4.0](https://creativecommons.org/licenses/by/4.0/)",
                "Apache-2.0" => "[Apache-2.0](https://www.apache.org/licenses/LICENSE-2.0)",
                "MIT" => "[MIT](https://opensource.org/license/mit)",
                _ => "public domain",
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "| {} | {count} | {license} | {} | {} |",
                known.name, known.package, known.credit
            );
        }
    }
    if !authors.is_empty() {
        let authors: Vec<&str> = authors.into_iter().collect();
        let _ = write!(
            text,
            "\n## Authors named in the clip art\n\n{}\n",
            authors.join("; ")
        );
    }
    text
}
