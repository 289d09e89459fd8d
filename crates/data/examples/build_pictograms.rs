//! Builds the pictograms, checks the splits for leaks, and picks the sample:
//! `cargo run --release -p fitup-data --example build_pictograms -- OUT WORK SAMPLE`.

use std::path::PathBuf;
use std::time::Instant;

use fitup_data::pictograms::{BuildOptions, SampleOptions, build, check_splits, write_sample};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folders: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [out, work, sample] = folders.as_slice() else {
        return Err("expected three folders: OUT WORK SAMPLE".into());
    };
    let start = Instant::now();
    let options = BuildOptions {
        work: work.clone(),
        ..BuildOptions::new(out)
    };
    let report = build(&options, &mut |stage, done, all| {
        if done % 1000 == 0 || done == all {
            eprintln!(
                "{stage} {done}/{all} ({:.0} s)",
                start.elapsed().as_secs_f64()
            );
        }
    })?;
    println!("{report:#?}\n{}", check_splits(out)?);
    println!("{:?}", write_sample(&SampleOptions::new(out, sample))?);
    Ok(())
}
