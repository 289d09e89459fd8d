//! Zero-shot classification with a model that embeds images and texts in one space (CLIP, section
//! 3.1): each class is named in several sentences, and an image belongs to the class whose mean
//! sentence is nearest. For CLIP the factor is [`crate::clip::Clip::scale`], for ALBEF one over its
//! temperature.

use burn::tensor::{Tensor, activation};

use crate::layers::l2_normalize;

/// Sentences that name a class in place of `{}`, where the caller has none of its own.
pub const DEFAULT_TEMPLATES: [&str; 5] = [
    "a photo of a {}.",
    "a picture of a {}.",
    "a drawing of a {}.",
    "a close-up of a {}.",
    "a scene with a {}.",
];

/// Every class in every template, the templates of one class together: the texts to encode for
/// [`class_embeddings`].
pub fn prompts<C: AsRef<str>, T: AsRef<str>>(classes: &[C], templates: &[T]) -> Vec<String> {
    let in_templates = |class: &C| {
        let class = class.as_ref().to_owned();
        templates
            .iter()
            .map(move |template| template.as_ref().replace("{}", &class))
    };
    classes.iter().flat_map(in_templates).collect()
}

/// One unit row per class: the mean of its prompts' unit rows, normalised again.
///
/// `prompt_embed`: `[classes * templates, embed_dim]` in the order of [`prompts`]; returns
/// `[classes, embed_dim]`.
///
/// # Panics
/// When the rows are no multiple of `templates`, or `templates` is 0.
pub fn class_embeddings(prompt_embed: Tensor<2>, templates: usize) -> Tensor<2> {
    let [rows, width] = prompt_embed.dims();
    assert!(
        templates > 0 && rows.is_multiple_of(templates),
        "{rows} prompts are not a multiple of {templates} templates"
    );
    let mean = l2_normalize(prompt_embed)
        .reshape([rows / templates, templates, width])
        .mean_dim(1)
        .squeeze_dim(1);
    l2_normalize(mean)
}

/// `softmax(scale * cosine)` over the classes.
///
/// `image_embed`: `[images, embed_dim]`, unit rows; `class_embed`: `[classes, embed_dim]`, unit
/// rows; `scale`: `[1]`; returns `[images, classes]`, rows summing to 1.
pub fn probabilities(
    image_embed: Tensor<2>,
    class_embed: Tensor<2>,
    scale: Tensor<1>,
) -> Tensor<2> {
    let cosine = image_embed.matmul(class_embed.transpose());
    activation::softmax(cosine * scale.unsqueeze::<2>(), 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::host_values;
    use burn::tensor::Device;

    #[test]
    fn prompts_of_a_class_stand_together() {
        let texts = prompts(&["cat", "dog"], &["a {}.", "{} and {}"]);
        assert_eq!(texts, ["a cat.", "cat and cat", "a dog.", "dog and dog"]);
        assert!(DEFAULT_TEMPLATES.iter().all(|t| t.contains("{}")));
    }

    #[test]
    fn two_classes_by_hand() {
        let device = Device::flex();
        // Class 0: (1, 0) and (0, 1) after normalising, whatever their lengths; mean at 45 degrees.
        // Class 1: (-1, 0) twice.
        let prompts = [[2.0, 0.0], [0.0, 0.5], [-1.0, 0.0], [-3.0, 0.0]];
        let classes = class_embeddings(Tensor::from_data(prompts, &device), 2);
        let half = 0.5f32.sqrt();
        for (got, want) in host_values(classes.clone())
            .iter()
            .zip([half, half, -1.0, 0.0])
        {
            assert!((got - want).abs() < 1e-6, "{got}, by hand {want}");
        }
        // Image (0, 1): cosines (sqrt 1/2, 0); times 2 ln 3 / sqrt 2 = ln 3 for class 0.
        let image = Tensor::from_data([[0.0, 1.0]], &device);
        let scale = Tensor::from_data([3.0f32.ln() / half], &device);
        let got = host_values(probabilities(image, classes, scale));
        assert!(
            (got[0] - 0.75).abs() < 1e-6 && (got[1] - 0.25).abs() < 1e-6,
            "{got:?}"
        );
    }
}
