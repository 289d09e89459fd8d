//! Accuracy of answers to questions, as the evaluation of VQAv2 counts it (`vqaEval.py`), slips included: published
//! numbers come from it.
//!
//! An answer counts as right by a third for each person who gave it, at most once, averaged over leaving out one of
//! the ten. What is predicted is normalised in full. What people said keeps its articles and number words, and loses
//! its punctuation only where not all of them agree.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use unicode_general_category::{GeneralCategory, get_general_category};

use super::contractions::CONTRACTIONS;

/// Characters that are deleted or become a space.
const PUNCTUATION: [char; 21] = [
    ';', '/', '[', ']', '"', '{', '}', '(', ')', '=', '+', '\\', '_', '-', '>', '<', '@', '`', ',',
    '?', '!',
];
const ARTICLES: [&str; 3] = ["a", "an", "the"];
const NUMBERS: [(&str, &str); 12] = [
    ("none", "0"),
    ("zero", "0"),
    ("one", "1"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("ten", "10"),
];
/// Dots that are looked at: the original passes a flag (`re.UNICODE`, 32) where a count is expected.
const DOTS: usize = 32;
/// People who must have given an answer for it to be right.
const AGREEING: f64 = 3.0;

/// One question with what was predicted and what people said.
#[derive(Clone, Debug)]
pub struct Answered<'a> {
    /// The model's answer, as it gave it.
    pub predicted: &'a str,
    /// The people's answers, as written, ten in VQAv2.
    pub answers: Vec<&'a str>,
    /// The kind of question, by its first words; empty where unknown.
    pub question_type: &'a str,
    /// `yes/no`, `number` or `other`; empty where unknown.
    pub answer_type: &'a str,
}

/// Accuracy over many questions, each a share of 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AnswerAccuracy {
    /// Mean over all questions; 0 without any.
    pub overall: f64,
    /// Mean by kind of question.
    pub by_question_type: BTreeMap<String, f64>,
    /// Mean by kind of answer.
    pub by_answer_type: BTreeMap<String, f64>,
    /// Of every question, in order.
    pub questions: Vec<f64>,
}

/// Scores answers to many questions.
pub fn answer_accuracy<'a>(answered: impl IntoIterator<Item = Answered<'a>>) -> AnswerAccuracy {
    let mut accuracy = AnswerAccuracy::default();
    let (mut by_question, mut by_answer) = (BTreeMap::new(), BTreeMap::new());
    for question in answered {
        let score = score(question.predicted, &question.answers);
        accuracy.questions.push(score);
        for (means, name) in [
            (&mut by_question, question.question_type),
            (&mut by_answer, question.answer_type),
        ] {
            let (sum, count) = means.entry(name.to_owned()).or_insert((0.0, 0.0));
            *sum += score;
            *count += 1.0;
        }
    }
    let means = |sums: BTreeMap<String, (f64, f64)>| {
        let means = sums
            .into_iter()
            .map(|(name, (sum, count))| (name, sum / count));
        means.collect()
    };
    accuracy.overall =
        accuracy.questions.iter().sum::<f64>() / accuracy.questions.len().max(1) as f64;
    accuracy.by_question_type = means(by_question);
    accuracy.by_answer_type = means(by_answer);
    accuracy
}

/// Accuracy of one answer, 0 to 1; 0 where no one was asked.
pub fn score(predicted: &str, answers: &[&str]) -> f64 {
    let predicted = normalise(predicted);
    let agree = answers.windows(2).all(|pair| pair[0] == pair[1]);
    let matches: Vec<bool> = answers
        .iter()
        .map(|answer| match agree {
            true => *answer == predicted,
            false => without_punctuation(answer) == predicted,
        })
        .collect();
    let all = matches.iter().filter(|&&matches| matches).count();
    let shares = matches.iter().map(|&matches| {
        let others = all - usize::from(matches);
        (others as f64 / AGREEING).min(1.0)
    });
    shares.sum::<f64>() / answers.len().max(1) as f64
}

/// What is compared of a prediction.
pub fn normalise(answer: &str) -> String {
    let answer = answer.replace(['\n', '\t'], " ");
    let answer = answer.trim_matches(is_python_space);
    in_plain_words(&without_punctuation(answer))
}

/// An answer without its punctuation: `processPunctuation`. A character that touches a space somewhere is deleted,
/// as every one is where a comma groups digits; others become a space. Dots go unless a digit follows.
pub fn without_punctuation(answer: &str) -> String {
    let letters: Vec<char> = answer.chars().collect();
    let grouped = letters
        .windows(3)
        .any(|three| is_digit(three[0]) && three[1] == ',' && is_digit(three[2]));
    let touches_space = |mark: char| {
        letters
            .windows(2)
            .any(|two| *two == [mark, ' '] || *two == [' ', mark])
    };
    let deleted = PUNCTUATION.map(|mark| grouped || touches_space(mark));
    let mut plain = Vec::with_capacity(letters.len());
    for &letter in &letters {
        match PUNCTUATION.iter().position(|&mark| mark == letter) {
            Some(mark) if deleted[mark] => {}
            Some(_) => plain.push(' '),
            None => plain.push(letter),
        }
    }
    let mut dots = 0;
    let mut kept = String::with_capacity(answer.len());
    for (at, &letter) in plain.iter().enumerate() {
        let before_digit = plain.get(at + 1).is_some_and(|&next| is_digit(next));
        if letter == '.' && !before_digit && dots < DOTS {
            dots += 1;
        } else {
            kept.push(letter);
        }
    }
    kept
}

/// An answer in lower case, number words as digits, without articles, contractions with their apostrophes:
/// `processDigitArticle`.
pub fn in_plain_words(answer: &str) -> String {
    let lower = answer.to_lowercase();
    let words: Vec<&str> = lower
        .split(is_python_space)
        .filter(|word| !word.is_empty())
        .map(|word| of_table(&NUMBERS, word))
        .filter(|word| !ARTICLES.contains(word))
        .map(|word| of_table(&CONTRACTIONS, word))
        .collect();
    words.join(" ")
}

fn of_table<'a>(table: &[(&str, &'static str)], word: &'a str) -> &'a str {
    let found = table.iter().find(|(known, _)| *known == word);
    found.map_or(word, |&(_, to)| to)
}

/// Python's `\d`.
fn is_digit(letter: char) -> bool {
    get_general_category(letter) == GeneralCategory::DecimalNumber
}

/// What Python's `split` and `strip` take for white space: Rust's, and the four information separators.
fn is_python_space(letter: char) -> bool {
    letter.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_people_make_an_answer_right() {
        let mut answers = vec!["no"; 7];
        answers.extend(["yes"; 3]);
        // Left out by the three, two remain.
        assert!((score("yes", &answers) - (7.0 + 3.0 * 2.0 / 3.0) / 10.0).abs() < 1e-12);
        assert_eq!(score("no", &answers), 1.0);
        assert_eq!(score("maybe", &answers), 0.0);
        assert_eq!(score("yes", &[]), 0.0);
    }

    #[test]
    fn what_all_agree_on_keeps_its_punctuation() {
        assert_eq!(score("10:30!", &["10:30!"; 10]), 0.0);
        assert_eq!(score("red", &["red"; 10]), 1.0);
    }
}
