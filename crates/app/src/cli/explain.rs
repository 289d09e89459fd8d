//! `fitup explain`: what a model looks at.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use fitup_data::preview::{LINES, SheetItem, contact_sheet, fitted, outline, overlay};
use fitup_index::metrics::grounding::{Box4, HeatMap};
use fitup_training::loaded::Explanation;
use image::RgbImage;
use serde_json::{Value, json};

use super::model_file::{ModelArgs, read_picture};
use super::output::{Output, write_whole};

const EXAMPLES: &str = "\
Examples:
  fitup explain dog.jpg \"a dog in the snow\"
  fitup explain dog.jpg \"a dog in the snow\" --boxes --out dog-explained.png
  fitup explain dog.jpg \"a dog in the snow\" --layer 2 --json --model runs/albef-tiny";

/// Side of a drawn picture in pixels.
const CELL: u32 = 224;
const MOST_COLUMNS: usize = 5;

/// Draw where in a picture a model looks for a text, and for each of its words
///
/// Grad-CAM of matching: how much each patch that a word attends to raises the probability that
/// picture and text belong together. The lightest place of every map is its own hottest; the share
/// beside a word says how hot its map is beside those of the other words.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Explain {
    /// Picture (JPEG, PNG, WebP, GIF)
    image: PathBuf,
    /// Text
    text: String,
    /// Picture to write
    #[arg(long, value_name = "FILE", default_value = "explain.png")]
    out: PathBuf,
    /// Layer whose cross-attention is looked at, counted from the first text layer; in the last one
    /// no word has a map of its own [default: the third fusion layer, or the last but one]
    #[arg(long, value_name = "N")]
    layer: Option<usize>,
    /// Draw a box around what each map points at
    #[arg(long)]
    boxes: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// A map with what it points at, in pixels of the picture.
struct Pointed<'a> {
    map: HeatMap<'a>,
    peak: Option<[f64; 2]>,
    region: Option<Box4>,
}

impl<'a> Pointed<'a> {
    fn new(explanation: &Explanation, map: &'a [f32], picture: &RgbImage) -> Self {
        let size = [picture.width() as usize, picture.height() as usize];
        let map = explanation.heat_map(map);
        Self {
            peak: map.peak(size),
            region: map.pointed(size),
            map,
        }
    }

    fn json(&self) -> Value {
        json!({ "peak": self.peak, "box": self.region })
    }

    fn draw(&self, picture: &RgbImage, caption: String, boxes: bool) -> SheetItem {
        let large = fitted(picture, CELL);
        let [across, down] = [large.width() as usize, large.height() as usize];
        let mut image = overlay(&large, &self.map.resized([across, down]));
        let scale = f64::from(large.width()) / f64::from(picture.width());
        if let Some(region) = self.region.filter(|_| boxes) {
            outline(&mut image, region.map(|length| length * scale));
        }
        SheetItem { image, caption }
    }
}

pub fn run(args: &Explain, output: Output) -> Result<()> {
    let picture = read_picture(&args.image)?;
    let model = args.model.open()?;
    let explained = model.explain(&picture, &args.text, args.layer)?;
    let whole = Pointed::new(&explained, &explained.map, &picture);
    let words: Vec<Pointed<'_>> = explained
        .words
        .iter()
        .map(|word| Pointed::new(&explained, &word.map, &picture))
        .collect();

    let mut items = vec![
        SheetItem {
            image: picture.clone(),
            caption: explained.text.clone(),
        },
        whole.draw(
            &picture,
            format!("all words, match {:.1} %", 100.0 * explained.probability),
            args.boxes,
        ),
    ];
    for (word, pointed) in explained.words.iter().zip(&words) {
        let caption = format!("{} {:.0} %", word.word, 100.0 * word.mass);
        items.push(pointed.draw(&picture, caption, args.boxes));
    }
    let sheet = contact_sheet(&items, items.len().min(MOST_COLUMNS), CELL, LINES);
    let mut png = std::io::Cursor::new(Vec::new());
    sheet
        .write_to(&mut png, image::ImageFormat::Png)
        .context("could not encode the picture")?;
    write_whole(&args.out, png.get_ref())?;

    let mut text = format!(
        "{}: match {:.1} %, layer {}\n\n{:<18}{:>6}   {:<12}box (left, top, width, height)\n",
        args.out.display(),
        100.0 * explained.probability,
        explained.layer,
        "word",
        "share",
        "peak (x, y)",
    );
    line(&mut text, "all words", 1.0, &whole)?;
    let mut listed = Vec::with_capacity(words.len());
    for (word, pointed) in explained.words.iter().zip(&words) {
        line(&mut text, &word.word, word.mass, pointed)?;
        let mut entry = pointed.json();
        entry["word"] = json!(word.word);
        entry["mass"] = json!(word.mass);
        listed.push(entry);
    }
    if explained.words.iter().all(|word| word.mass == 0.0) {
        writeln!(
            text,
            "\nno word has a map of its own: above layer {} matching reads [CLS] alone, or nothing raises the match",
            explained.layer
        )?;
    }
    let document = json!({
        "image": args.image,
        "text": explained.text,
        "match_probability": explained.probability,
        "layer": explained.layer,
        "all_words": whole.json(),
        "words": listed,
        "file": args.out,
    });
    output.result(&document, &text)
}

fn line(text: &mut String, word: &str, mass: f32, pointed: &Pointed<'_>) -> std::fmt::Result {
    let [peak, region] = [
        pointed.peak.map(|peak| peak.to_vec()),
        pointed.region.map(|region| region.to_vec()),
    ]
    .map(|numbers| match numbers {
        None => "-".to_owned(),
        Some(numbers) => {
            let numbers: Vec<String> = numbers.iter().map(|n| format!("{n:.0}")).collect();
            numbers.join(" ")
        }
    });
    writeln!(
        text,
        "{word:<18}{:>4.0} %   {peak:<12}{region}",
        100.0 * mass
    )
}
