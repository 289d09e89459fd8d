//! The first command of the README, shortened.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

fn demo(root: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fitup"))
        .arg("demo")
        .args(arguments)
        .current_dir(root)
        .output()
        .unwrap()
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

#[test]
fn the_demo_runs_from_the_root_and_writes_a_whole_page() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("demo.html");
    let output = demo(
        root(),
        &[
            "--seconds",
            "2",
            "--no-open",
            "--out",
            page.to_str().unwrap(),
        ],
    );
    let console = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{console}\n{errors}");

    let html = std::fs::read_to_string(&page).unwrap();
    for query in [
        "a red heart",
        "an umbrella",
        "a racing car",
        "a crying face",
        "a black cat",
        "a glass of milk",
    ] {
        let heading = format!("<h3>\u{201c}{query}\u{201d}");
        assert!(html.contains(&heading), "{query}");
        assert!(console.contains(query), "{query}");
    }
    // Six texts with both rankings, two pictures with pictures like them, six of each, and the
    // pictures that are queries themselves: two here, two with a missing word.
    assert_eq!(html.matches("<b>Contrastive</b>").count(), 8);
    assert_eq!(html.matches("<b>Re-ranked</b>").count(), 6);
    assert_eq!(html.matches("<img ").count(), 6 * 14 + 4);
    assert_eq!(
        html.matches("src=\"data:image/png;base64,iVBORw0KGgo")
            .count(),
        6 * 14 + 4
    );
    assert_eq!(html.matches("captions, re-ranked</th>").count(), 2);
    assert_eq!(html.matches("momentum model</th>").count(), 2);
    for text in ["<h3>a [MASK] face</h3>", "<h3>a [MASK] heart</h3>"] {
        assert_eq!(html.matches(text).count(), 1, "{text}");
    }
    // The sum of the losses, and each of the three.
    assert_eq!(html.matches("<figure class=\"chart\">").count(), 4);
    assert!(html.matches("<polyline").count() >= 4);
    assert!(html.contains("prefers-color-scheme: dark"));
    for outside in ["http://", "https://", "<script", "<link"] {
        assert!(!html.contains(outside), "{outside}");
    }
    // Encoded pictures may spell anything.
    let words = html.split('"').filter(|part| !part.starts_with("data:"));
    assert!(!words.collect::<String>().contains("NaN"));
    assert!(console.contains("870 pictures"), "{console}");
    assert!(console.contains("the loss went from"), "{console}");
    // Nothing but the page is left.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn away_from_the_repository_the_demo_says_where_to_go() {
    let folder = tempfile::tempdir().unwrap();
    let output = demo(folder.path(), &["--no-open"]);
    assert!(!output.status.success());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("weights/albef-tiny.safetensors"),
        "{errors}"
    );
    assert!(errors.contains("--weights"), "{errors}");
    assert!(!folder.path().join("demo.html").exists());
}
