//! The model of a recipe: which system, its sizes, what it starts from.

use std::path::PathBuf;

use fitup_data::images::Normalize;
use fitup_models::albef::AlbefConfig;
use fitup_models::clip::ClipConfig;
use fitup_models::image_tokenizer::ImageTokenizerConfig;
use fitup_models::system::SystemConfig;
use fitup_models::vilt::ViltConfig;
use fitup_models::vlmo::VlmoConfig;
use serde::{Deserialize, Serialize};

use super::Stage;

/// The model of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecipe {
    /// Which system.
    pub system: SystemKind,
    /// Which stage of it.
    #[serde(default, skip_serializing_if = "Stage::is_pairs")]
    pub stage: Stage,
    /// Its sizes, where it is an ALBEF.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub albef: Option<AlbefConfig>,
    /// Its sizes, where it is a CLIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<ClipConfig>,
    /// Its sizes, where it is a ViLT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vilt: Option<ViltConfig>,
    /// Its sizes, where it is a VLMo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlmo: Option<VlmoConfig>,
    /// Its sizes, where it is an image tokenizer; those of the one that the image stage takes its
    /// targets from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_tokenizer: Option<ImageTokenizerConfig>,
    /// The trained image tokenizer of the image stage. Its checkpoints hold a copy: to resume, the
    /// file is not needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_tokenizer_weights: Option<PathBuf>,
    /// Weights of the whole model to start from (under official names; CLIP's in any published
    /// layout); absent: drawn from the seed. As the two that follow, a path, or a file on a hub that
    /// the program fetches first: `hub:OWNER/NAME`, `hub:OWNER/NAME@REVISION/FILE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_weights: Option<PathBuf>,
    /// Published image encoder that the part for images starts from: a DeiT (or another Vision
    /// Transformer of timm's), for a VLMo with relative positions a BEiT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_image: Option<PathBuf>,
    /// Published BERT that the part for texts starts from; `data.vocabulary` is to be its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_text: Option<PathBuf>,
    /// Standard deviation of drawn weights.
    #[serde(default = "init_std")]
    pub init_std: f64,
    /// Amplitude of the sines and cosines that the position embeddings of patches start as (1 in
    /// MAE); absent: drawn as other weights are. Weights that the model starts from replace them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sine_positions: Option<f64>,
}

fn init_std() -> f64 {
    0.02
}

/// The systems that can be trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SystemKind {
    /// Align before fuse.
    Albef,
    /// Two towers and a contrastive loss.
    Clip,
    /// One stream of words and patches.
    Vilt,
    /// Mixture of modality experts.
    Vlmo,
    /// Patches to visual tokens: the targets of VLMo's image stage.
    #[serde(rename = "image_tokenizer")]
    ImageTokenizer,
}

impl std::fmt::Display for SystemKind {
    /// As a recipe writes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Albef => "albef",
            Self::Clip => "clip",
            Self::Vilt => "vilt",
            Self::Vlmo => "vlmo",
            Self::ImageTokenizer => "image_tokenizer",
        })
    }
}

impl SystemKind {
    /// Mean and deviation that its authors normalise images with.
    pub(super) fn normalize(self) -> Normalize {
        match self {
            Self::Albef | Self::Clip => Normalize::CLIP,
            Self::Vilt | Self::Vlmo | Self::ImageTokenizer => Normalize::HALF,
        }
    }
}

impl ModelRecipe {
    /// The sizes of the chosen system; `None` when its table is missing.
    pub(super) fn chosen(&self) -> Option<&dyn SystemConfig> {
        fn sizes<T: SystemConfig>(config: &Option<T>) -> Option<&dyn SystemConfig> {
            config.as_ref().map(|config| config as &dyn SystemConfig)
        }
        match self.system {
            SystemKind::Albef => sizes(&self.albef),
            SystemKind::Clip => sizes(&self.clip),
            SystemKind::Vilt => sizes(&self.vilt),
            SystemKind::Vlmo => sizes(&self.vlmo),
            SystemKind::ImageTokenizer => sizes(&self.image_tokenizer),
        }
    }

    /// The sizes of the chosen system.
    pub fn sizes(&self) -> &dyn SystemConfig {
        self.chosen().expect(CHECKED)
    }

    /// ALBEF's sizes; call for that system only.
    pub fn albef(&self) -> &AlbefConfig {
        self.albef.as_ref().expect(CHECKED)
    }

    /// CLIP's sizes; call for that system only.
    pub fn clip(&self) -> &ClipConfig {
        self.clip.as_ref().expect(CHECKED)
    }

    /// ViLT's sizes; call for that system only.
    pub fn vilt(&self) -> &ViltConfig {
        self.vilt.as_ref().expect(CHECKED)
    }

    /// VLMo's sizes; call for that system only.
    pub fn vlmo(&self) -> &VlmoConfig {
        self.vlmo.as_ref().expect(CHECKED)
    }
}

/// Why a recipe's own table is there.
pub(super) const CHECKED: &str = "a recipe is refused when the table of its system is missing";
