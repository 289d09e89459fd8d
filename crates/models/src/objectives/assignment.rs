//! Text assignment: which of two images a text belongs to, or neither (ALBEF's pre-training for
//! NLVR2; section 4.2 of the paper, `models/model_pretrain_nlvr.py`).

use super::itm::{HardNegatives, choose};

/// The two images that each text of a batch meets, and the right answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// For text `i`, the first image, as an index into the batch.
    pub first: Vec<usize>,
    /// For text `i`, the second image.
    pub second: Vec<usize>,
}

/// One step's draws for one text, each uniform in `[0, 1)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AssignmentDraw {
    /// Whether the text's own image is among the two: below 2/3.
    pub has_own: f64,
    /// Whether it is the first of them: below 1/2.
    pub own_first: f64,
    /// The draws of the wrong images; the second only where neither is the text's own.
    pub others: [f64; 2],
}

impl Assignment {
    /// 0 where the first image is the text's own, 1 where the second is, 2 where neither is.
    pub fn labels(&self) -> Vec<i64> {
        let pairs = self.first.iter().zip(&self.second).enumerate();
        pairs
            .map(|(text, (first, second))| match text {
                _ if *first == text => 0,
                _ if *second == text => 1,
                _ => 2,
            })
            .collect()
    }

    /// Wrong images are drawn in proportion to the softmax of their similarity to the text's own,
    /// two of them without replacement. `sim`: image similarities over temperature, row-major
    /// `[batch, batch]`.
    ///
    /// Where too few other images are left, the text meets its own (batch 2), or its own twice
    /// (batch 1); the original crashes there.
    pub fn draw(sim: &[f32], draws: &[AssignmentDraw]) -> Self {
        let batch = draws.len();
        let sample = HardNegatives::Sample;
        let uniform = |which: usize| draws.iter().map(|d| d.others[which]).collect::<Vec<_>>();
        let one = choose(sim, batch, sample, &uniform(0), |i, j| i == j);
        let taken = one.clone();
        let other = choose(sim, batch, sample, &uniform(1), |i, j| {
            i == j || j == taken[i]
        });
        let images = draws.iter().enumerate().map(|(text, draw)| {
            if batch > 2 && draw.has_own >= 2.0 / 3.0 {
                (one[text], other[text])
            } else if draw.own_first < 0.5 {
                (text, one[text])
            } else {
                (one[text], text)
            }
        });
        let (first, second) = images.unzip();
        Self { first, second }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(has_own: f64, own_first: f64, others: [f64; 2]) -> AssignmentDraw {
        AssignmentDraw {
            has_own,
            own_first,
            others,
        }
    }

    #[test]
    fn every_kind_of_pair() {
        let sim = [0.0; 9];
        let draws = [
            draw(0.1, 0.1, [0.9, 0.0]),
            draw(0.1, 0.9, [0.1, 0.0]),
            draw(0.7, 0.1, [0.9, 0.0]),
        ];
        let assignment = Assignment::draw(&sim, &draws);
        assert_eq!(assignment.first, [0, 0, 1]);
        assert_eq!(assignment.second, [2, 1, 0]);
        assert_eq!(assignment.labels(), [0, 1, 2]);
    }

    #[test]
    fn the_second_wrong_image_is_drawn_from_what_is_left() {
        // Row 0: image 1 takes e^9 of e^9 + 2, then 2 and 3 share evenly.
        let mut sim = vec![0.0; 16];
        sim[1] = 9.0;
        let at = |u| {
            let draws = vec![draw(0.9, 0.0, [0.5, u]); 4];
            let assignment = Assignment::draw(&sim, &draws);
            (assignment.first[0], assignment.second[0])
        };
        assert_eq!((at(0.4), at(0.6)), ((1, 2), (1, 3)));
    }

    #[test]
    fn too_few_images_for_two_wrong_ones() {
        let two = Assignment::draw(&[0.0; 4], &[draw(0.9, 0.1, [0.5; 2]); 2]);
        assert_eq!(two.labels(), [0, 0]);
        let one = Assignment::draw(&[0.0], &[draw(0.9, 0.9, [0.5; 2])]);
        assert_eq!((one.first, one.second), (vec![0], vec![0]));
    }
}
