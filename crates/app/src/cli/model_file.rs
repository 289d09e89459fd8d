//! Which model a command uses.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use fitup_training::loaded::{LoadedModel, LoadedTask};
use fitup_training::recipe::TaskKind;
use fitup_training::{checkpoint, device};

/// The model that comes with the project.
const DEFAULT: &str = "weights/albef-tiny.safetensors";

/// Which model, and where it runs.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// Checkpoint, exported model, or folder of a run [default: weights/albef-tiny.safetensors]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Compute device: cpu, wgpu or cuda:N (as the binary was built)
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: String,
}

impl ModelArgs {
    /// Opens the model.
    pub fn open(&self) -> Result<LoadedModel> {
        let path = match &self.model {
            Some(path) => resolve(path)?,
            None => default()?,
        };
        let device = device::open(&self.device)?;
        LoadedModel::open(&path, &device).context("could not open the model")
    }
}

fn default() -> Result<PathBuf> {
    let path = PathBuf::from(DEFAULT);
    if path.is_file() {
        return Ok(path);
    }
    bail!(
        "no model: {DEFAULT} is not in the working directory; name one with --model FILE, or train one with `fitup pretrain albef-tiny` and use --model runs/albef-tiny"
    );
}

/// Which fine-tuned model, and where it runs.
#[derive(Debug, Args)]
pub struct TaskModelArgs {
    /// Checkpoint of a fine-tuning run, or the run's folder [default: runs/TASK]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Compute device: cpu, wgpu or cuda:N (as the binary was built)
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: String,
}

impl TaskModelArgs {
    /// Opens the model, which is fine-tuned for `kind`.
    pub fn open(&self, kind: TaskKind) -> Result<LoadedTask> {
        let path = match &self.model {
            Some(path) => path.clone(),
            None => Path::new("runs").join(kind.to_string()),
        };
        if self.model.is_none() && !path.exists() {
            bail!(
                "no model: {} is not in the working directory; name one with --model, or make it with `fitup finetune {kind} --from MODEL`",
                path.display()
            );
        }
        let device = device::open(&self.device)?;
        LoadedTask::open(&resolve(&path)?, &[kind], &device).context("could not open the model")
    }
}

/// The model file of a run, or the file itself.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let exported = path.join("model.safetensors");
    if exported.is_file() {
        return Ok(exported);
    }
    let checkpoints = checkpoint::list(&path.join("checkpoints"))?;
    match checkpoints.into_iter().next_back() {
        Some((_, newest)) => Ok(newest),
        None => bail!(
            "{}: no run: it holds neither model.safetensors nor checkpoints/; name a checkpoint or the folder of a run",
            path.display()
        ),
    }
}

/// Reads a picture from a file.
pub fn read_picture(path: &Path) -> Result<image::RgbImage> {
    let mut pictures = fitup_training::loaded::Pictures::default();
    let picture = pictures.load(&path.to_string_lossy());
    picture.context("could not read the picture")
}
