//! Leaving out what would give an answer away.

use std::collections::BTreeMap;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// How the answers of one group are evened out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evenness {
    /// Every answer is as frequent as the rarest of the `answers` there must be; a group that lacks one is left out.
    Exact {
        /// How many different answers there must be.
        answers: usize,
    },
    /// No answer is more frequent than the one that comes at this place in order of frequency (counted from 1); a
    /// group of fewer answers is left out.
    Capped {
        /// The place.
        place: usize,
    },
}

/// The indices of the items to keep, ascending: within every group, answers are evened out by leaving out items of
/// the frequent ones at random. `describe` gives an item's group and its answer.
pub(super) fn balance<T, G: Ord + Clone, A: Ord + Clone>(
    items: &[T],
    describe: impl Fn(&T) -> (G, A),
    evenness: impl Fn(&G) -> Evenness,
    rng: &mut ChaCha8Rng,
) -> Vec<usize> {
    let mut groups: BTreeMap<G, BTreeMap<A, Vec<usize>>> = BTreeMap::new();
    for (at, item) in items.iter().enumerate() {
        let (group, answer) = describe(item);
        groups
            .entry(group)
            .or_default()
            .entry(answer)
            .or_default()
            .push(at);
    }
    let mut kept = Vec::new();
    for (group, answers) in groups {
        let mut frequencies: Vec<usize> = answers.values().map(Vec::len).collect();
        frequencies.sort_unstable_by(|a, b| b.cmp(a));
        let place = match evenness(&group) {
            Evenness::Exact { answers } => answers,
            Evenness::Capped { place } => place,
        };
        let Some(&most) = place.checked_sub(1).and_then(|at| frequencies.get(at)) else {
            continue;
        };
        for (_, mut items) in answers {
            items.shuffle(rng);
            items.truncate(most);
            kept.extend(items);
        }
    }
    kept.sort_unstable();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn kept(items: &[(&str, u32)], evenness: Evenness) -> BTreeMap<(String, u32), usize> {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut counts = BTreeMap::new();
        for at in balance(items, |&item| item, |_| evenness, &mut rng) {
            *counts
                .entry((items[at].0.to_owned(), items[at].1))
                .or_default() += 1;
        }
        counts
    }

    #[test]
    fn answers_become_equally_frequent_within_each_group() {
        let mut items = vec![("a", 1); 5];
        items.extend([("a", 2), ("a", 2), ("b", 1), ("b", 1), ("b", 2), ("c", 1)]);
        let counts = kept(&items, Evenness::Exact { answers: 2 });
        assert_eq!(counts[&("a".to_owned(), 1)], 2);
        assert_eq!(counts[&("a".to_owned(), 2)], 2);
        assert_eq!(counts[&("b".to_owned(), 1)], 1);
        assert!(!counts.contains_key(&("c".to_owned(), 1)));
    }

    #[test]
    fn a_cap_keeps_rare_answers() {
        let items = [vec![("a", 1); 9], vec![("a", 2); 4], vec![("a", 3); 2]].concat();
        let counts = kept(&items, Evenness::Capped { place: 2 });
        assert_eq!(counts.into_values().collect::<Vec<_>>(), [4, 4, 2]);
    }
}
