//! Makes scenes, measures how fast, and checks them with the baselines: `cargo run --release -p fitup-data --example generate_scenes -- PICTOGRAMS OUT
//! TRAIN VAL TEST [NOISE]`. Writes `OUT/sheet.png` to look at.

use std::time::Instant;

use fitup_data::images::{DecodeLimits, decode};
use fitup_data::preview::{LINES, SheetItem, contact_sheet};
use fitup_data::scenes::{ScenesOptions, check, generate};
use fitup_data::sources::{SourceSpec, open};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [pictograms, out, train, val, test, noise @ ..] = arguments.as_slice() else {
        return Err("expected PICTOGRAMS OUT TRAIN VAL TEST [NOISE]".into());
    };
    let mut options = ScenesOptions::new(pictograms, out);
    options.scenes = [train.parse()?, val.parse()?, test.parse()?];
    if let [noise, ..] = noise {
        options.noise = noise.parse()?;
    }
    let start = Instant::now();
    let made = generate(&options, &mut |_, _, _| {})?;
    let seconds = start.elapsed().as_secs_f64();
    for split in &made {
        println!("{}: {:#?}", split.folder.display(), split.report);
    }
    let scenes: usize = made.iter().map(|split| split.report.scenes).sum();
    println!(
        "{scenes} scenes in {seconds:.1} s, {:.0} a minute",
        scenes as f64 / seconds * 60.0
    );
    println!("{}", check(&options.out, &mut |_, _, _| {})?);

    let Some(split) = made.first() else {
        return Ok(());
    };
    let source = open(&SourceSpec::AlbefJson {
        files: vec![split.folder.join("captions.json")],
        image_root: Some(split.folder.clone()),
        limit: Some(15),
    })?;
    let items = (0..source.len())
        .map(|at| {
            let record = source.get(at)?;
            Ok(SheetItem {
                image: decode(&record.image, &DecodeLimits::default())?,
                caption: record.captions.join(" | "),
            })
        })
        .collect::<Result<Vec<_>, Box<dyn std::error::Error>>>()?;
    contact_sheet(&items, 5, options.side, LINES).save(options.out.join("sheet.png"))?;
    Ok(())
}
