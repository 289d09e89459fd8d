//! VLMo's second stage, text alone: masked language modelling trains the text experts and the
//! embeddings inside a transformer that learned attention from images, and keeps it.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::encoder::{TextBatch, VlmoEncoder};
use super::{MlmScore, VlmoConfig};
use crate::layers::dropout::DropoutSeed;
use crate::objectives::mlm::MaskedPositions;

impl VlmoConfig {
    /// The model of the text stage with all weights zero; usually of
    /// [`Self::without_vl_experts`].
    pub fn init_text_stage(&self, device: &Device) -> VlmoTextStage {
        VlmoTextStage {
            encoder: self.init_encoder(device),
            mlm_score: MlmScore::new(self, device),
        }
    }
}

/// The model of the text stage.
#[derive(Module, Debug)]
pub struct VlmoTextStage {
    /// Of which the text runs alone.
    pub encoder: VlmoEncoder,
    /// Hidden vectors to vocabulary logits.
    pub mlm_score: MlmScore,
}

impl VlmoTextStage {
    /// The masked-word loss, `[1]`; `None` when nothing is masked. `text`: with some tokens
    /// replaced; `masked`: which, and by what.
    pub fn mlm_loss(
        &self,
        text: &TextBatch,
        masked: &MaskedPositions,
        dropout: Option<DropoutSeed>,
    ) -> Option<Tensor<1>> {
        let tokens = self.encoder.text(text, dropout).tokens;
        self.mlm_score.loss(tokens, masked)
    }

    /// Vocabulary logits at masked places, `[masked, vocab_size]`; arguments as for
    /// [`Self::mlm_loss`], with at least one masked.
    pub fn masked_logits(
        &self,
        text: &TextBatch,
        masked: &MaskedPositions,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<2> {
        let tokens = self.encoder.text(text, dropout).tokens;
        self.mlm_score.masked_logits(tokens, masked)
    }

    /// Vocabulary logits everywhere, `[batch, seq, vocab_size]`.
    pub fn mlm_logits(&self, text: &TextBatch) -> Tensor<3> {
        let tokens = self.encoder.text(text, None).tokens;
        self.mlm_score.logits(tokens)
    }
}

/// Whether the text stage leaves the parameter of this official name as it is: attention with its
/// norms, image parts, LayerScale and pooler stay, everything else is trained (`run.py`).
pub fn frozen_in_text_stage(name: &str) -> bool {
    const TRAINED: [&str; 7] = [
        "text_embeddings",
        "token_type_embeddings",
        "mlp_text",
        "norm2_text",
        "mlm_score",
        "relative_position_bias_table",
        "transformer.norm",
    ];
    !TRAINED.iter().any(|part| name.contains(part))
}
