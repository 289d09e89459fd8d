//! Tensors on the host, and the files that hold them.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorView};

use super::pytorch::{self, PytorchError};
use crate::layers::relative_position::ResizeError;

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
    /// The file is PyTorch's, and damaged or asking for more than data.
    #[error("{path}: {source}")]
    Pytorch {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<PytorchError>,
    },
    /// A published encoder is built otherwise than the part that should start from it.
    #[error("{0}")]
    Unfit(&'static str),
    /// Positions that cannot be resized to the model's images.
    #[error(transparent)]
    Resize(#[from] ResizeError),
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
    /// The same, where the file is known.
    #[error("{path}: {source}")]
    MismatchIn {
        /// The file.
        path: PathBuf,
        /// What does not match.
        source: Box<WeightsError>,
    },
}

impl WeightsError {
    /// What does not match, with the file; other errors name theirs already.
    pub fn in_file(self, path: &Path) -> Self {
        match self {
            Self::Mismatch { .. } => Self::MismatchIn {
                path: path.to_owned(),
                source: Box::new(self),
            },
            other => other,
        }
    }
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

/// What a file says of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Lengths of the dimensions; empty for a scalar.
    pub shape: Vec<usize>,
    /// Type of the elements as safetensors writes it: `F32`, `F16`, `BF16`, `I64`, ...
    pub element: String,
}

/// The containers that are read.
enum Container {
    Safetensors,
    Pytorch,
}

/// What a file is, by its first bytes; names say little (`.bin`, `.pt`, `.ckpt`).
fn container(path: &Path) -> std::io::Result<Container> {
    let mut start = Vec::new();
    std::fs::File::open(path)?.take(9).read_to_end(&mut start)?;
    // The length of a safetensors header may begin with the same bytes as a pickle.
    let json = start.get(8) == Some(&b'{');
    let zip = start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06");
    match (json, zip || start.starts_with(&[0x80])) {
        (false, true) => Ok(Container::Pytorch),
        _ => Ok(Container::Safetensors),
    }
}

/// Reads all floating-point tensors of a file as float32, and its metadata. Tensors of other types
/// (index buffers) are left out. Which format it is, safetensors or either of PyTorch's, is seen
/// from the content; PyTorch's has no metadata, and is read as data: nothing in it is run.
///
/// # Errors
/// [`WeightsError::Io`], [`WeightsError::Format`] and [`WeightsError::Pytorch`], naming the file.
pub fn read(path: &Path) -> Result<(TensorMap, HashMap<String, String>), WeightsError> {
    let io = |source| WeightsError::Io {
        path: path.to_owned(),
        source,
    };
    match container(path).map_err(io)? {
        Container::Pytorch => Ok((pytorch::read(path)?, HashMap::new())),
        Container::Safetensors => read_safetensors(path),
    }
}

/// Names, shapes and types of all tensors of a file in any format that [`read`] knows, in the
/// order of their names, and its metadata. The data of the tensors are not read.
///
/// # Errors
/// As [`read`].
pub fn list(path: &Path) -> Result<(Vec<TensorInfo>, HashMap<String, String>), WeightsError> {
    let io = |source| WeightsError::Io {
        path: path.to_owned(),
        source,
    };
    if let Container::Pytorch = container(path).map_err(io)? {
        return Ok((pytorch::list(path)?, HashMap::new()));
    }
    let mut file = std::fs::File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let format = |reason: String| WeightsError::Format {
        path: path.to_owned(),
        reason,
    };
    let mut size = [0; 8];
    file.read_exact(&mut size)
        .map_err(|_| format(format!("only {length} bytes")))?;
    let size = u64::from_le_bytes(size);
    if size > length.saturating_sub(8) {
        return Err(format(format!("a header of {size} bytes in {length}")));
    }
    let mut header = Vec::new();
    file.take(size).read_to_end(&mut header).map_err(io)?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| format(e.to_string()))?;
    let held = length - 8 - size;
    if metadata.data_len() as u64 != held {
        let declared = metadata.data_len();
        return Err(format(format!(
            "{held} bytes of tensors, {declared} declared"
        )));
    }
    let mut tensors: Vec<TensorInfo> = metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| TensorInfo {
            name,
            shape: info.shape.clone(),
            element: format!("{:?}", info.dtype),
        })
        .collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((tensors, metadata.metadata().clone().unwrap_or_default()))
}

fn read_safetensors(path: &Path) -> Result<(TensorMap, HashMap<String, String>), WeightsError> {
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
        if !is_float(view.dtype()) {
            continue;
        }
        let shape = view.shape().to_vec();
        let values = floats(view.dtype(), view.data());
        tensors.insert(name.to_owned(), HostTensor { shape, values });
    }
    Ok((tensors, metadata.metadata().clone().unwrap_or_default()))
}

/// Whether [`floats`] knows the type.
pub(super) fn is_float(element: Dtype) -> bool {
    matches!(element, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// Little-endian elements of a floating-point type as float32; none of any other type.
pub(super) fn floats(element: Dtype, data: &[u8]) -> Vec<f32> {
    fn each<const N: usize>(data: &[u8], convert: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        data.as_chunks::<N>()
            .0
            .iter()
            .map(|b| convert(*b))
            .collect()
    }
    match element {
        Dtype::F32 => each(data, f32::from_le_bytes),
        Dtype::F16 => each(data, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => each(data, |b| bf16::from_le_bytes(b).to_f32()),
        Dtype::F64 => each(data, |b| f64::from_le_bytes(b) as f32),
        _ => Vec::new(),
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

impl Precision {
    /// The little-endian bytes of `values`.
    pub(super) fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Self::F16 => values
                .iter()
                .flat_map(|v| f16::from_f32(*v).to_le_bytes())
                .collect(),
        }
    }
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
            let bytes = precision.encode(&tensor.values);
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
    write_whole_with(path, |file| file.write_all(bytes))
}

/// As [`write_whole`], for what is not in memory as a whole.
pub(super) fn write_whole_with(
    path: &Path,
    write: impl FnOnce(&mut std::fs::File) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.partial"));
    let written = std::fs::File::create(&partial).and_then(|mut file| {
        write(&mut file)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    });
    if written.is_err() {
        // The write's own error is the one to report.
        let _ = std::fs::remove_file(&partial);
    }
    written
}
