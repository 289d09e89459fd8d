//! The table of names that scenes are made of.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::graph::Category;

/// One thing that can be in a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// In the singular, lower case.
    pub(super) name: &'static str,
    pub(super) category: Category,
    plural: Option<&'static str>,
}

static TABLE: LazyLock<Vec<Name>> = LazyLock::new(|| {
    let lines = include_str!("names.tsv").lines();
    lines
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut fields = line.split('\t');
            let (category, name) = (fields.next()?, fields.next()?);
            let category = Category::ALL
                .into_iter()
                .find(|known| known.name() == category)?;
            Some(Name {
                name,
                category,
                plural: fields.next(),
            })
        })
        .collect()
});

static PLURALS: LazyLock<BTreeMap<&'static str, &'static str>> = LazyLock::new(|| {
    TABLE
        .iter()
        .filter_map(|name| Some((name.name, name.plural?)))
        .collect()
});

/// All names in the order of the table.
pub(super) fn names() -> &'static [Name] {
    &TABLE
}

/// The plural of a name of the table or of a category's noun.
pub(super) fn plural(noun: &str) -> String {
    if let Some(irregular) = PLURALS.get(noun) {
        return (*irregular).to_owned();
    }
    let hisses = ["s", "x", "ch", "sh"].iter().any(|end| noun.ends_with(end));
    match noun.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'i', 'o', 'u']) => format!("{stem}ies"),
        _ if hisses => format!("{noun}es"),
        _ => format!("{noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_is_whole_and_names_no_colour_or_size() {
        let lines = include_str!("names.tsv").lines();
        assert_eq!(
            names().len(),
            lines.filter(|line| !line.starts_with('#')).count()
        );
        let different: BTreeSet<&str> = names().iter().map(|name| name.name).collect();
        assert_eq!(different.len(), names().len());
        let colours = "red orange yellow green blue purple pink brown black white gray small large";
        for word in names().iter().flat_map(|name| name.name.split(' ')) {
            assert!(
                !colours.split(' ').any(|colour| colour == word),
                "{word} gives an attribute away"
            );
        }
    }

    #[test]
    fn plurals() {
        for (one, many) in [
            ("mouse", "mice"),
            ("butterfly", "butterflies"),
            ("donkey", "donkeys"),
            ("toothbrush", "toothbrushes"),
            ("fox", "foxes"),
            ("maple leaf", "maple leaves"),
            ("musical instrument", "musical instruments"),
        ] {
            assert_eq!(plural(one), many);
        }
    }
}
