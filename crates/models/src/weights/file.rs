//! Tensors on the host, and safetensors files.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// A tensor in host memory, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Lengths of the dimensions; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements.
    pub values: Vec<f32>,
}

/// Tensors by name, in the order of their names.
pub type TensorMap = BTreeMap<String, HostTensor>;

/// Why weights could not be read, written or put into a model.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file cannot be opened, read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not a whole safetensors file.
    #[error(
        "{path}: not a readable safetensors file ({reason}); it may be truncated: copy or download it again"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Names or shapes do not match the model.
    #[error("weights do not fit the model: {}", describe(.missing, .unexpected, .mis_shaped))]
    Mismatch {
        /// Parameters of the model that the file lacks.
        missing: Vec<String>,
        /// Tensors of the file that the model does not have.
        unexpected: Vec<String>,
        /// Name, expected shape, shape in the file.
        mis_shaped: Vec<(String, Vec<usize>, Vec<usize>)>,
    },
}

fn describe(
    missing: &[String],
    unexpected: &[String],
    mis_shaped: &[(String, Vec<usize>, Vec<usize>)],
) -> String {
    let list = |names: &[String]| {
        let shown: Vec<&str> = names.iter().take(5).map(String::as_str).collect();
        let rest = names.len().saturating_sub(5);
        let more = if rest > 0 {
            format!(" and {rest} more")
        } else {
            String::new()
        };
        format!("{}{more}", shown.join(", "))
    };
    let mut parts = Vec::new();
    if !missing.is_empty() {
        parts.push(format!("{} missing ({})", missing.len(), list(missing)));
    }
    if !unexpected.is_empty() {
        parts.push(format!(
            "{} unexpected ({})",
            unexpected.len(),
            list(unexpected)
        ));
    }
    if !mis_shaped.is_empty() {
        let shapes: Vec<String> = mis_shaped
            .iter()
            .map(|(name, want, got)| format!("{name}: expected {want:?}, got {got:?}"))
            .collect();
        parts.push(format!(
            "{} of another shape ({})",
            mis_shaped.len(),
            list(&shapes)
        ));
    }
    parts.join("; ")
}

/// Reads all floating-point tensors of a safetensors file as float32, and its metadata. Tensors
/// of other types (index buffers) are left out.
///
/// # Errors
/// [`WeightsError::Io`] and [`WeightsError::Format`], naming the file.
pub fn read(path: &Path) -> Result<(TensorMap, HashMap<String, String>), WeightsError> {
    let bytes = std::fs::read(path).map_err(|source| WeightsError::Io {
        path: path.to_owned(),
        source,
    })?;
    let format = |reason: String| WeightsError::Format {
        path: path.to_owned(),
        reason,
    };
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| format(e.to_string()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| format(e.to_string()))?;
    let mut tensors = TensorMap::new();
    for (name, view) in file.iter() {
        let Some(values) = to_f32(&view) else {
            continue;
        };
        let shape = view.shape().to_vec();
        tensors.insert(name.to_owned(), HostTensor { shape, values });
    }
    Ok((tensors, metadata.metadata().clone().unwrap_or_default()))
}

fn to_f32(view: &TensorView<'_>) -> Option<Vec<f32>> {
    fn each<const N: usize>(data: &[u8], convert: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        data.as_chunks::<N>()
            .0
            .iter()
            .map(|b| convert(*b))
            .collect()
    }
    let data = view.data();
    match view.dtype() {
        Dtype::F32 => Some(each(data, f32::from_le_bytes)),
        Dtype::F16 => Some(each(data, |b| f16::from_le_bytes(b).to_f32())),
        Dtype::BF16 => Some(each(data, |b| bf16::from_le_bytes(b).to_f32())),
        Dtype::F64 => Some(each(data, |b| f64::from_le_bytes(b) as f32)),
        _ => None,
    }
}

/// How elements are stored in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats: checkpoints that training continues from.
    F32,
    /// 16-bit floats: half the size, for shipping.
    F16,
}

/// Writes tensors and metadata to a temporary file beside `path`, then renames it: a reader sees
/// the old file or the whole new one.
///
/// # Errors
/// [`WeightsError::Io`], naming the file, for example when the disk is full; the old file stays.
pub fn write(
    path: &Path,
    tensors: &TensorMap,
    metadata: HashMap<String, String>,
    precision: Precision,
) -> Result<(), WeightsError> {
    let io = |source: std::io::Error| WeightsError::Io {
        path: path.to_owned(),
        source,
    };
    let encoded: Vec<(&String, Vec<u8>)> = tensors
        .iter()
        .map(|(name, tensor)| {
            let bytes = match precision {
                Precision::F32 => tensor.values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                Precision::F16 => tensor
                    .values
                    .iter()
                    .flat_map(|v| f16::from_f32(*v).to_le_bytes())
                    .collect(),
            };
            (name, bytes)
        })
        .collect();
    let dtype = match precision {
        Precision::F32 => Dtype::F32,
        Precision::F16 => Dtype::F16,
    };
    let views = encoded
        .iter()
        .map(|(name, bytes)| {
            let view = TensorView::new(dtype, tensors[*name].shape.clone(), bytes);
            view.map(|view| ((*name).clone(), view))
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| io(std::io::Error::other(e)))?;
    let bytes =
        safetensors::serialize(views, Some(metadata)).map_err(|e| io(std::io::Error::other(e)))?;
    write_whole(path, &bytes).map_err(io)
}

/// Writes `bytes` to `.NAME.partial` beside `path`, syncs, then renames: a reader, or a process
/// started after a kill, sees the old file or the whole new one. A partial file left by a killed
/// process is overwritten by the next write.
///
/// # Errors
/// What the system says; nothing partial is left behind then.
pub fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.partial"));
    let written = std::fs::File::create(&partial).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    });
    if written.is_err() {
        // The write's own error is the one to report.
        let _ = std::fs::remove_file(&partial);
    }
    written
}
