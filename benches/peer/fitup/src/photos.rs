//! JPEG files to augmented model inputs, on one core.

use std::path::Path;

use anyhow::Context;
use fitup_data::images::{DecodeLimits, EvalTransform, TrainTransform, Transform, decode};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use crate::Work;
use crate::tensors::Outputs;

/// What the driver chooses.
#[derive(Debug, Deserialize)]
pub struct Settings {
    /// Side of the model input in pixels.
    size: u32,
}

/// The files in memory: the disk is no part of the work.
pub struct Photos {
    files: Vec<Vec<u8>>,
    size: u32,
    rng: ChaCha8Rng,
    input: Vec<f32>,
}

impl Photos {
    /// Reads the folder `photos`.
    pub fn new(settings: Settings, folder: &Path) -> anyhow::Result<Self> {
        let folder = folder.join("photos");
        let listed = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        let mut paths: Vec<_> = listed
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        paths.sort();
        let files = paths.iter().map(std::fs::read);
        Ok(Self {
            files: files.collect::<Result<_, _>>()?,
            size: settings.size,
            rng: ChaCha8Rng::seed_from_u64(0),
            input: Vec::new(),
        })
    }
}

impl Work for Photos {
    fn run(&mut self) -> anyhow::Result<()> {
        let transform = TrainTransform::albef(self.size);
        for file in &self.files {
            let image = decode(file, &DecodeLimits::default())?;
            self.input = transform.apply(&image, &mut self.rng);
        }
        Ok(())
    }

    /// The augmentation is random; what is compared is the evaluation's transform of the first
    /// file, which decodes, resizes and normalises with the same code.
    fn outputs(&self) -> Outputs {
        let mut outputs = Outputs::default();
        let side = self.size as usize;
        let image = decode(&self.files[0], &DecodeLimits::default());
        if let Ok(image) = image {
            let input = EvalTransform::albef(self.size).input(&image);
            outputs.floats("input", &[3, side, side], &input);
        }
        outputs
    }
}
