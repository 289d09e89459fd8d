//! `fitup model convert`: PyTorch files to safetensors and back.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use fitup_models::weights::{self, Precision, TensorMap};
use serde_json::json;

use crate::cli::model_file;
use crate::cli::output::{Output, grouped, megabytes};

const EXAMPLES: &str = "\
Examples:
  fitup model convert ALBEF.pth ALBEF.safetensors
  fitup model convert ALBEF.pth small.safetensors --f16
  fitup model convert model.safetensors for-albef.pth --key model";

/// Turn a PyTorch file into a safetensors file, or back
///
/// Reads safetensors and both formats of PyTorch (.pth, .pt, .bin, .ckpt, by content), as data:
/// nothing inside a file is run. Names stay as they are. Integer tensors (index buffers) are left
/// out; numbers are kept in 32 bits, or 16 with --f16.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Convert {
    /// File to read
    #[arg(value_name = "IN")]
    from: PathBuf,
    /// File to write
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// Format to write [default: by the ending of OUT]
    #[arg(long, value_enum, value_name = "FORMAT")]
    to: Option<Format>,
    /// 16-bit floats: half the size
    #[arg(long)]
    f16: bool,
    /// Put the tensors of a .pth file under this key ("model" for ALBEF's own scripts)
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Safetensors,
    Pth,
}

pub fn run(args: &Convert, output: Output) -> Result<()> {
    let format = match args.to {
        Some(format) => format,
        None => by_ending(&args.out)?,
    };
    ensure!(
        args.key.is_none() || format == Format::Pth,
        "--key is for .pth files; a safetensors file has no keys around its tensors"
    );
    let from = model_file::resolve(&args.from)?;
    let (listed, _) = weights::list(&from)?;
    let (tensors, metadata) = weights::read(&from)?;
    ensure!(!tensors.is_empty(), "{}: holds no floats", from.display());
    let left_out: Vec<&str> = listed
        .iter()
        .map(|info| info.name.as_str())
        .filter(|name| !tensors.contains_key(*name))
        .collect();
    let precision = match args.f16 {
        true => Precision::F16,
        false => Precision::F32,
    };
    if args.f16 {
        refuse_overflow(&from, &tensors)?;
    }
    let lost_metadata = format == Format::Pth && !metadata.is_empty();
    match format {
        Format::Safetensors => weights::write(&args.out, &tensors, metadata, precision)?,
        Format::Pth => {
            weights::write_pytorch(&args.out, &tensors, args.key.as_deref(), precision)?;
        }
    }
    let bytes = std::fs::metadata(&args.out)
        .with_context(|| args.out.display().to_string())?
        .len();
    let elements: usize = tensors.values().map(|tensor| tensor.values.len()).sum();
    let mut text = format!(
        "{} ({}): {} tensors, {} elements, from {}",
        args.out.display(),
        megabytes(bytes),
        grouped(tensors.len()),
        grouped(elements),
        from.display()
    );
    if !left_out.is_empty() {
        write!(text, "\nleft out, not floats: {}", left_out.join(", "))?;
    }
    if lost_metadata {
        write!(
            text,
            "\nleft out: the metadata (recipe, vocabulary), for which .pth has no place"
        )?;
    }
    let document = json!({
        "from": from,
        "file": args.out,
        "bytes": bytes,
        "tensors": tensors.len(),
        "elements": elements,
        "left_out": left_out,
        "metadata_left_out": lost_metadata,
    });
    output.result(&document, &text)
}

fn by_ending(out: &Path) -> Result<Format> {
    match out.extension().and_then(|ending| ending.to_str()) {
        Some("safetensors") => Ok(Format::Safetensors),
        Some("pth" | "pt" | "bin" | "ckpt") => Ok(Format::Pth),
        _ => bail!(
            "{}: the ending names no format; add --to safetensors or --to pth",
            out.display()
        ),
    }
}

/// Finite numbers that would become infinite are a broken model, not a small one.
fn refuse_overflow(from: &Path, tensors: &TensorMap) -> Result<()> {
    // Halfway to the next step above 65,504; from there on, rounding gives infinity.
    const LIMIT: f32 = 65_520.0;
    let over = tensors.iter().find_map(|(name, tensor)| {
        let mut values = tensor.values.iter();
        let value = values.find(|v| v.is_finite() && v.abs() >= LIMIT)?;
        Some((name, value))
    });
    match over {
        Some((name, value)) => bail!(
            "{}: {name} holds {value:e}, beyond the range of 16-bit floats; leave out --f16",
            from.display()
        ),
        None => Ok(()),
    }
}
