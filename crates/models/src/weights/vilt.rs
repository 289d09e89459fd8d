//! ViLT's names (`modules/vilt_module.py`): pre-training and the downstream heads.

/// Official ViLT name of a parameter path in [`crate::vilt::Vilt`] or one of
/// [`crate::vilt::downstream`].
pub fn vilt_name(path: &str) -> String {
    const TABLE: [(&str, &str); 12] = [
        ("text_embeddings.layer_norm.", "text_embeddings.LayerNorm."),
        ("pooler.", "pooler.dense."),
        ("itm_score.", "itm_score.fc."),
        ("mlm_score.transform.", "mlm_score.transform.dense."),
        ("mlm_score.layer_norm.", "mlm_score.transform.LayerNorm."),
        ("mlm_score.decoder.bias", "mlm_score.bias"),
        ("vqa_classifier.hidden.", "vqa_classifier.0."),
        ("vqa_classifier.layer_norm.", "vqa_classifier.1."),
        ("vqa_classifier.output.", "vqa_classifier.3."),
        ("nlvr2_classifier.hidden.", "nlvr2_classifier.0."),
        ("nlvr2_classifier.layer_norm.", "nlvr2_classifier.1."),
        ("nlvr2_classifier.output.", "nlvr2_classifier.3."),
    ];
    let path = path.strip_prefix("stream.").unwrap_or(path);
    TABLE
        .iter()
        .find_map(|(ours, official)| Some(format!("{official}{}", path.strip_prefix(ours)?)))
        .unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_hand() {
        for (path, want) in [
            ("stream.pooler.weight", "pooler.dense.weight"),
            (
                "stream.transformer.patch_embed.proj.bias",
                "transformer.patch_embed.proj.bias",
            ),
            (
                "stream.text_embeddings.layer_norm.bias",
                "text_embeddings.LayerNorm.bias",
            ),
            (
                "stream.text_embeddings.token_type_embeddings.weight",
                "text_embeddings.token_type_embeddings.weight",
            ),
            (
                "stream.token_type_embeddings.weight",
                "token_type_embeddings.weight",
            ),
            ("mlm_score.decoder.bias", "mlm_score.bias"),
            ("mlm_score.decoder.weight", "mlm_score.decoder.weight"),
            (
                "mlm_score.layer_norm.weight",
                "mlm_score.transform.LayerNorm.weight",
            ),
            ("itm_score.weight", "itm_score.fc.weight"),
            ("vqa_classifier.output.weight", "vqa_classifier.3.weight"),
            ("rank_output.bias", "rank_output.bias"),
        ] {
            assert_eq!(vilt_name(path), want);
        }
    }
}
