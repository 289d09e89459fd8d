//! What a file of weights holds that this program did not write.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use fitup_models::weights::TensorInfo;
use serde_json::{Value, json};

use crate::cli::output::{Output, grouped, megabytes};

/// Tensors and elements of one type.
#[derive(Clone, Copy, Default)]
struct Total {
    tensors: usize,
    elements: usize,
}

/// Prints totals by type, and every tensor where asked for.
pub fn show(path: &Path, listed: &[TensorInfo], tensors: bool, output: Output) -> Result<()> {
    let bytes = std::fs::metadata(path)
        .with_context(|| path.display().to_string())?
        .len();
    let mut totals: BTreeMap<&str, Total> = BTreeMap::new();
    for info in listed {
        let total = totals.entry(&info.element).or_default();
        total.tensors += 1;
        total.elements += elements(info);
    }
    let mut text = String::new();
    writeln!(
        text,
        "file          {} ({})",
        path.display(),
        megabytes(bytes)
    )?;
    writeln!(text, "tensors       {}", grouped(listed.len()))?;
    for (element, total) in &totals {
        writeln!(
            text,
            "{element:<14}{} tensors, {} elements",
            grouped(total.tensors),
            grouped(total.elements)
        )?;
    }
    if tensors {
        writeln!(text)?;
        for info in listed {
            writeln!(text, "{}  {:?}  {}", info.name, info.shape, info.element)?;
        }
    }
    let types = totals.iter().map(|(element, total)| {
        let total = json!({ "tensors": total.tensors, "elements": total.elements });
        ((*element).to_owned(), total)
    });
    let all = tensors.then(|| {
        let all = listed.iter().map(|info| {
            let about = json!({ "shape": info.shape, "type": info.element });
            (info.name.clone(), about)
        });
        Value::Object(all.collect())
    });
    let document = json!({
        "file": path,
        "bytes": bytes,
        "tensor_count": listed.len(),
        "types": Value::Object(types.collect()),
        "tensors": all,
    });
    output.result(&document, &text)
}

/// How many elements a tensor has.
pub fn elements(info: &TensorInfo) -> usize {
    info.shape.iter().product()
}
