//! PyTorch's own files (`.pth`, `.pt`, `.bin`, `.ckpt`) in both containers: the zip file of
//! version 1.6 and later, and the sequence of pickles before that. Nothing in them is run.

mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::file::{floats, is_float};
use super::pickle::{MAX_BYTES, Node, Pickle, PickleError, Storage, TensorRef, Value};
use super::zip::{ZipError, ZipReader, read_at};
use super::{HostTensor, TensorInfo, TensorMap, WeightsError};

pub use write::write_pytorch;

/// Keys under which training scripts put the tensors.
const WRAPPERS: [&str; 3] = ["model", "state_dict", "module"];
/// Modules of a TorchScript archive inside one another.
const MAX_DEPTH: usize = 64;
/// Dimensions of a tensor, as PyTorch has it.
const MAX_DIMENSIONS: usize = 64;
/// Tensors that share a storage are written out one by one. Tied weights hold twice their share;
/// a file that expands to more than this multiple was made to fill the memory.
const MAX_EXPANSION: u64 = 8;
/// Below this many bytes any expansion is harmless.
const SMALL: u64 = 1 << 20;
/// The number at the start of a file of the old container.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Why a PyTorch file is not read.
#[derive(Debug, thiserror::Error)]
pub enum PytorchError {
    /// The container is damaged.
    #[error(transparent)]
    Zip(#[from] ZipError),
    /// The description of the tensors is damaged, or asks for more than data.
    #[error(transparent)]
    Pickle(#[from] PickleError),
    /// A zip file of something else, or a pickle.
    #[error("not a file of PyTorch: {0}")]
    Other(&'static str),
    /// Nowhere in it is a dictionary of tensors.
    #[error("holds no state dict: no tensors by name at the top or under {}", WRAPPERS.join(", "))]
    NoTensors,
    /// Containers inside containers without end.
    #[error("containers lie too deep, or inside themselves")]
    Nesting,
    /// A tensor that looks beyond its storage.
    #[error(
        "tensor {name}: shape {shape:?} with strides {strides:?} from element {offset} does not fit its storage of {elements} elements"
    )]
    OutOfStorage {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Its strides in elements.
        strides: Vec<u64>,
        /// Its first element.
        offset: u64,
        /// What the storage holds.
        elements: u64,
    },
    /// A storage of another length than its tensors say.
    #[error("storage {key} has {got} bytes, {expected} are declared")]
    StorageSize {
        /// Name of the storage.
        key: String,
        /// What the description says.
        expected: u64,
        /// What is there.
        got: u64,
    },
    /// Small storages seen through huge shapes.
    #[error("the tensors would fill {bytes} bytes, over {MAX_EXPANSION} times the file")]
    Expansion {
        /// Their size in memory.
        bytes: u64,
    },
    /// The old container ends before its storages do.
    #[error("ends early, inside storage {key}: it is truncated; copy or download it again")]
    Truncated {
        /// Name of the storage.
        key: String,
    },
    /// Written on a machine with the other byte order.
    #[error("written in big-endian byte order, which is not supported")]
    BigEndian,
    /// The system could not read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

enum Container {
    Zip {
        zip: ZipReader,
        /// What stands before `data/` in the names of the storages.
        folder: String,
    },
    Legacy {
        file: File,
        /// Each storage as it lies in the file, and its start there.
        places: BTreeMap<String, (Storage, u64)>,
    },
}

/// An open file: its tensors are known and lie inside the storages they declare. That those are
/// as long as declared is checked when they are read.
struct Source {
    container: Container,
    tensors: BTreeMap<String, TensorRef>,
}

/// Names, shapes and types of the tensors of a PyTorch file.
pub(super) fn list(path: &Path) -> Result<Vec<TensorInfo>, WeightsError> {
    let source = Source::open(path).map_err(|source| name_file(path, source))?;
    let info = source.tensors.into_iter().map(|(name, tensor)| TensorInfo {
        name,
        shape: tensor.shape.iter().map(|d| *d as usize).collect(),
        element: format!("{:?}", tensor.storage.element),
    });
    Ok(info.collect())
}

/// All floating-point tensors of a PyTorch file as float32.
pub(super) fn read(path: &Path) -> Result<TensorMap, WeightsError> {
    Source::open(path)
        .and_then(Source::read)
        .map_err(|source| name_file(path, source))
}

fn name_file(path: &Path, source: PytorchError) -> WeightsError {
    let path = path.to_owned();
    match source {
        PytorchError::Io(source) | PytorchError::Zip(ZipError::Io(source)) => {
            WeightsError::Io { path, source }
        }
        source => WeightsError::Pytorch {
            path,
            source: Box::new(source),
        },
    }
}

impl Source {
    fn open(path: &Path) -> Result<Self, PytorchError> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut start = [0; 2];
        file.read_exact(&mut start)?;
        file.rewind()?;
        let (container, pickle) = match &start {
            b"PK" => open_zip(file)?,
            _ => open_legacy(file)?,
        };
        let tensors = state_dict(&pickle)?;
        let mut bytes = 0u64;
        for (name, tensor) in &tensors {
            let elements = check(name, tensor)?;
            let size = tensor.storage.element.bitsize() as u64 / 8;
            bytes = bytes.saturating_add(elements.saturating_mul(size));
        }
        if bytes > SMALL && bytes / MAX_EXPANSION > length {
            return Err(PytorchError::Expansion { bytes });
        }
        Ok(Self { container, tensors })
    }

    /// Reads one storage after the other, so that never more than one is held beside the tensors.
    fn read(mut self) -> Result<TensorMap, PytorchError> {
        let mut by_storage: BTreeMap<String, Vec<(String, TensorRef)>> = BTreeMap::new();
        for (name, tensor) in std::mem::take(&mut self.tensors) {
            let key = tensor.storage.key.clone();
            by_storage.entry(key).or_default().push((name, tensor));
        }
        let mut tensors = TensorMap::new();
        for views in by_storage.into_values() {
            let storage = &views[0].1.storage;
            if let Some((_, other)) = views.iter().find(|(_, view)| view.storage != *storage) {
                return Err(PytorchError::StorageSize {
                    key: storage.key.clone(),
                    expected: storage.bytes(),
                    got: other.storage.bytes(),
                });
            }
            if !is_float(storage.element) {
                continue;
            }
            let bytes = self.container.storage(storage)?;
            let values = floats(storage.element, &bytes);
            drop(bytes);
            for (name, view) in views {
                let shape = view.shape.iter().map(|d| *d as usize).collect();
                let values = gather(&values, &view);
                tensors.insert(name, HostTensor { shape, values });
            }
        }
        Ok(tensors)
    }
}

impl Container {
    /// The bytes of a storage, as many as its tensors say.
    fn storage(&mut self, storage: &Storage) -> Result<Vec<u8>, PytorchError> {
        let wrong_size = |got| PytorchError::StorageSize {
            key: storage.key.clone(),
            expected: storage.bytes(),
            got,
        };
        match self {
            Self::Zip { zip, folder } => {
                let name = format!("{folder}data/{}", storage.key);
                let got = zip.size(&name)?;
                if got != storage.bytes() {
                    return Err(wrong_size(got));
                }
                Ok(zip.read(&name)?)
            }
            Self::Legacy { file, places } => match places.get(&storage.key) {
                Some((there, start)) if there == storage => {
                    Ok(read_at(file, *start, storage.bytes())?)
                }
                Some((there, _)) => Err(wrong_size(there.bytes())),
                None => Err(wrong_size(0)),
            },
        }
    }
}

fn open_zip(file: File) -> Result<(Container, Pickle), PytorchError> {
    let mut zip = ZipReader::open(file)?;
    let folders = zip.names().filter_map(|name| {
        let folder = name.strip_suffix("data.pkl")?;
        (folder.is_empty() || folder.ends_with('/')).then(|| folder.to_owned())
    });
    let folder = folders.min_by_key(String::len);
    let folder = folder.ok_or(PytorchError::Other("a zip file without data.pkl"))?;
    let order = format!("{folder}byteorder");
    if zip.names().any(|name| name == order) && zip.read(&order)? != b"little" {
        return Err(PytorchError::BigEndian);
    }
    let description = format!("{folder}data.pkl");
    if zip.size(&description)? > MAX_BYTES {
        return Err(PickleError::TooLarge.into());
    }
    let bytes = zip.read(&description)?;
    let pickle = Pickle::read(&mut bytes.as_slice())?;
    Ok((Container::Zip { zip, folder }, pickle))
}

/// The old container: magic number, protocol, system, the object, the keys of the storages, then
/// each storage as a count and its elements.
fn open_legacy(file: File) -> Result<(Container, Pickle), PytorchError> {
    let length = file.metadata()?.len();
    let mut input = BufReader::new(file);
    let magic = Pickle::read(&mut input)?;
    match magic.node(magic.root()) {
        Some(Node::Bytes(bytes)) if *bytes == MAGIC => {}
        _ => {
            return Err(PytorchError::Other(
                "a pickle without PyTorch's magic number",
            ));
        }
    }
    let protocol = Pickle::read(&mut input)?;
    if protocol.root() != Value::Int(1001) {
        return Err(PytorchError::Other("an unknown version of the old format"));
    }
    let system = Pickle::read(&mut input)?;
    if system.get(system.root(), "little_endian") == Some(Value::Bool(false)) {
        return Err(PytorchError::BigEndian);
    }
    let pickle = Pickle::read(&mut input)?;
    let keys = Pickle::read(&mut input)?;
    let Some(Node::List(order)) = keys.node(keys.root()) else {
        return Err(PytorchError::Other("no list of storages"));
    };
    let declared: BTreeMap<&str, &Storage> = pickle
        .storages()
        .map(|storage| (storage.key.as_str(), storage))
        .collect();
    let mut places = BTreeMap::new();
    let mut at = input.stream_position()?;
    let mut file = input.into_inner();
    for key in order {
        let key = keys.text(*key);
        let storage = key.and_then(|key| declared.get(key).copied());
        let storage = storage.ok_or(PytorchError::Other("a storage that no tensor uses"))?;
        let truncated = || PytorchError::Truncated {
            key: storage.key.clone(),
        };
        if at.checked_add(8).is_none_or(|end| end > length) {
            return Err(truncated());
        }
        file.seek(SeekFrom::Start(at))?;
        let mut count = [0; 8];
        file.read_exact(&mut count)?;
        let count = u64::from_le_bytes(count);
        if count != storage.elements {
            let size = storage.element.bitsize() as u64 / 8;
            return Err(PytorchError::StorageSize {
                key: storage.key.clone(),
                expected: storage.bytes(),
                got: count.saturating_mul(size),
            });
        }
        let end = (at + 8).checked_add(storage.bytes());
        let end = end.filter(|end| *end <= length).ok_or_else(truncated)?;
        places.insert(storage.key.clone(), (storage.clone(), at + 8));
        at = end;
    }
    Ok((Container::Legacy { file, places }, pickle))
}

/// The tensors by name: at the top or under one of [`WRAPPERS`], without the `module.` that
/// distributed training puts in front of all.
fn state_dict(pickle: &Pickle) -> Result<BTreeMap<String, TensorRef>, PytorchError> {
    let at = find_state(pickle, pickle.root(), 0)?.unwrap_or(pickle.root());
    let mut tensors = BTreeMap::new();
    match pickle.node(at) {
        Some(Node::Dict(pairs)) => {
            for (key, value) in pairs {
                if let (Some(key), Some(Node::Tensor(tensor))) =
                    (pickle.text(*key), pickle.node(*value))
                {
                    tensors.insert(key.to_owned(), tensor.clone());
                }
            }
        }
        // A TorchScript archive holds objects whose attributes are tensors and further modules.
        Some(Node::Object { class, .. }) if class.starts_with("__torch__.") => {
            script_module(pickle, at, &mut tensors)?;
        }
        _ => {}
    }
    if tensors.is_empty() {
        return Err(PytorchError::NoTensors);
    }
    if tensors.keys().all(|name| name.starts_with("module.")) {
        let strip = |name: String| name["module.".len()..].to_owned();
        tensors = tensors.into_iter().map(|(n, t)| (strip(n), t)).collect();
    }
    Ok(tensors)
}

/// The innermost dictionary under [`WRAPPERS`] that holds tensors; there may be a configuration
/// called `model` beside the tensors under `state_dict`.
fn find_state(pickle: &Pickle, at: Value, depth: usize) -> Result<Option<Value>, PytorchError> {
    /// Wrappers inside one another; each level has three ways to go.
    const MAX_WRAPPERS: usize = 8;
    if depth > MAX_WRAPPERS {
        return Err(PytorchError::Nesting);
    }
    let Some(Node::Dict(pairs)) = pickle.node(at) else {
        return Ok(None);
    };
    for key in WRAPPERS {
        if let Some(inner) = pickle.get(at, key)
            && let Some(found) = find_state(pickle, inner, depth + 1)?
        {
            return Ok(Some(found));
        }
    }
    let mut values = pairs.iter().map(|(_, value)| pickle.node(*value));
    let holds = values.any(|node| matches!(node, Some(Node::Tensor(_))));
    Ok(holds.then_some(at))
}

/// Collects the tensors of a TorchScript module under dotted names.
fn script_module(
    pickle: &Pickle,
    root: Value,
    tensors: &mut BTreeMap<String, TensorRef>,
) -> Result<(), PytorchError> {
    /// Modules visited: one that is reached over many ways is visited as often.
    const MAX_VISITS: usize = 100_000;
    let mut open = vec![(String::new(), root, 0)];
    let mut visits = 0;
    while let Some((prefix, module, depth)) = open.pop() {
        visits += 1;
        if depth > MAX_DEPTH || visits > MAX_VISITS {
            return Err(PytorchError::Nesting);
        }
        let Some(Node::Object { state, .. }) = pickle.node(module) else {
            continue;
        };
        let Some(Node::Dict(pairs)) = pickle.node(*state) else {
            continue;
        };
        for (key, value) in pairs {
            let Some(key) = pickle.text(*key) else {
                continue;
            };
            match pickle.node(*value) {
                Some(Node::Tensor(tensor)) => {
                    tensors.insert(format!("{prefix}{key}"), tensor.clone());
                }
                Some(Node::Object { .. }) => {
                    open.push((format!("{prefix}{key}."), *value, depth + 1));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Checks that every element lies inside the storage; returns how many there are.
fn check(name: &str, tensor: &TensorRef) -> Result<u64, PytorchError> {
    let inside = || {
        let TensorRef {
            storage,
            offset,
            shape,
            strides,
        } = tensor;
        if shape.len() != strides.len() || shape.len() > MAX_DIMENSIONS {
            return None;
        }
        let count = if shape.contains(&0) {
            0
        } else {
            shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d))?
        };
        let mut last = *offset;
        for (length, stride) in shape.iter().zip(strides) {
            let reach = length.saturating_sub(1).checked_mul(*stride)?;
            last = last.checked_add(reach)?;
        }
        (count == 0 || last < storage.elements).then_some(count)
    };
    inside().ok_or_else(|| PytorchError::OutOfStorage {
        name: name.to_owned(),
        shape: tensor.shape.clone(),
        strides: tensor.strides.clone(),
        offset: tensor.offset,
        elements: tensor.storage.elements,
    })
}

/// The elements of a view, row-major. The view was checked to lie inside `values`.
fn gather(values: &[f32], view: &TensorRef) -> Vec<f32> {
    if view.shape.contains(&0) {
        return Vec::new();
    }
    // Places of the elements, one dimension after the other.
    let count: u64 = view.shape.iter().product();
    let mut row_major = vec![1; view.shape.len()];
    for i in (1..view.shape.len()).rev() {
        row_major[i - 1] = row_major[i] * view.shape[i];
    }
    let start = view.offset as usize;
    let dense = view.shape.iter().zip(&view.strides).zip(&row_major);
    if dense
        .into_iter()
        .all(|((length, stride), dense)| *length == 1 || stride == dense)
    {
        return values[start..start + count as usize].to_vec();
    }
    let mut out = Vec::with_capacity(count as usize);
    let mut index = vec![0u64; view.shape.len()];
    let mut at = start as u64;
    for _ in 0..count {
        out.push(values[at as usize]);
        for (i, place) in index.iter_mut().enumerate().rev() {
            *place += 1;
            at += view.strides[i];
            if *place < view.shape[i] {
                break;
            }
            at -= view.strides[i] * view.shape[i];
            *place = 0;
        }
    }
    out
}
