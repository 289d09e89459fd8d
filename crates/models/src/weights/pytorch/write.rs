//! Writing a state dict that PyTorch's own loader reads, also with `weights_only=True`.

use std::io::BufWriter;
use std::path::Path;

use super::super::file::write_whole_with;
use super::super::zip::ZipWriter;
use super::super::{Precision, TensorMap, WeightsError};

/// Writes tensors as PyTorch's zip format, under `key` (`"model"` as ALBEF's scripts expect) or at
/// the top, whole or not at all. The format has no place for metadata.
///
/// # Errors
/// [`WeightsError::Io`], naming the file, for example when the disk is full; an old file stays.
pub fn write_pytorch(
    path: &Path,
    tensors: &TensorMap,
    key: Option<&str>,
    precision: Precision,
) -> Result<(), WeightsError> {
    let written = write_whole_with(path, |file| {
        let mut zip = ZipWriter::new(BufWriter::new(file));
        zip.add("archive/data.pkl", &description(tensors, key, precision))?;
        zip.add("archive/byteorder", b"little")?;
        for (index, tensor) in tensors.values().enumerate() {
            let data = precision.encode(&tensor.values);
            zip.add(&format!("archive/data/{index}"), &data)?;
        }
        zip.add("archive/version", b"3\n")?;
        zip.finish()
    });
    written.map_err(|source| WeightsError::Io {
        path: path.to_owned(),
        source,
    })
}

/// The pickle of an ordered dictionary of tensors.
fn description(tensors: &TensorMap, key: Option<&str>, precision: Precision) -> Vec<u8> {
    let class: &[u8] = match precision {
        Precision::F32 => b"ctorch\nFloatStorage\n",
        Precision::F16 => b"ctorch\nHalfStorage\n",
    };
    let mut out = vec![0x80, 2];
    if let Some(key) = key {
        out.push(b'}');
        text(&mut out, key);
    }
    let ordered_dict = b"ccollections\nOrderedDict\n)R";
    out.extend(ordered_dict);
    out.push(b'(');
    for (index, (name, tensor)) in tensors.iter().enumerate() {
        text(&mut out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(class);
        text(&mut out, &index.to_string());
        text(&mut out, "cpu");
        integer(&mut out, tensor.values.len());
        out.extend(b"tQK\0"); // the storage, from element 0
        integers(&mut out, &tensor.shape);
        let mut strides = vec![1; tensor.shape.len()];
        for i in (1..strides.len()).rev() {
            strides[i - 1] = strides[i] * tensor.shape[i].max(1);
        }
        integers(&mut out, &strides);
        out.push(0x89); // no gradient
        out.extend(ordered_dict); // no hooks
        out.extend(b"tR");
    }
    out.push(b'u');
    if key.is_some() {
        out.push(b's');
    }
    out.push(b'.');
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn integer(out: &mut Vec<u8>, value: usize) {
    match i32::try_from(value) {
        Ok(value) => {
            out.push(b'J');
            out.extend(value.to_le_bytes());
        }
        Err(_) => {
            out.extend([0x8a, 8]);
            out.extend((value as i64).to_le_bytes());
        }
    }
}

fn integers(out: &mut Vec<u8>, values: &[usize]) {
    out.push(b'(');
    values.iter().for_each(|value| integer(out, *value));
    out.push(b't');
}
