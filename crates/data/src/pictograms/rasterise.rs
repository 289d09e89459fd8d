//! Rasterises all candidates on all cores, with every file's accidents kept to itself.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use image::RgbaImage;
use resvg::{tiny_skia, usvg};

use super::candidate::{Candidate, Picture};
use super::drawing::{Drawing, Useless, measure, premultiply, trim};
use super::hash::hex_digest;

/// Vector drawings are rasterised this much larger and scaled down, so that trimming costs no sharpness.
const OVERSAMPLING: u32 = 2;
/// Part of the cache names; raised when the same input should give another picture.
const CACHE_VERSION: u32 = 1;
/// Larger bitmaps are broken scans and not drawings.
const LARGEST_BITMAP: u32 = 6000;
/// Malformed filters and patterns can run for hours.
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// Deeply nested groups overflow the small stacks of threads.
const STACK: usize = 16 << 20;

/// The drawings of all candidates in their order, or why one is of no use.
///
/// Pictures that a former run made are read from `cache`. `progress` is told how many are done.
pub(super) fn rasterise_all(
    candidates: &[Candidate],
    size: u32,
    cache: &Path,
    mut progress: impl FnMut(usize, usize),
) -> Vec<Result<Drawing, Useless>> {
    let mut drawings: Vec<Result<Drawing, Useless>> = Vec::new();
    drawings.resize_with(candidates.len(), || Err(Useless("not rasterised")));
    let next = AtomicUsize::new(0);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..workers {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(candidate) = candidates.get(at) else {
                        break;
                    };
                    let (picture, cache) = (candidate.picture.clone(), cache.to_owned());
                    let drawing = contain(TIME_LIMIT, move || draw(&picture, size, &cache));
                    if sender.send((at, drawing)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for (done, (at, drawing)) in receiver.iter().enumerate() {
            drawings[at] = drawing;
            progress(done + 1, candidates.len());
        }
    });
    drawings
}

/// Runs one job on a thread of its own, so that a panic, an overlong run and the stack stay there.
///
/// A thread cannot be stopped: one that runs too long is left behind and its result is not used.
fn contain<T: Send + 'static>(
    limit: Duration,
    job: impl FnOnce() -> Result<T, Useless> + Send + 'static,
) -> Result<T, Useless> {
    let (sender, receiver) = mpsc::channel();
    let spawned = thread::Builder::new()
        .stack_size(STACK)
        .name("rasterise".to_owned())
        .spawn(move || {
            // The receiver is gone when the limit has passed.
            let _ = sender.send(job());
        });
    if spawned.is_err() {
        return Err(Useless("no thread"));
    }
    match receiver.recv_timeout(limit) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => Err(Useless("took too long")),
        Err(RecvTimeoutError::Disconnected) => Err(Useless("panic")),
    }
}

fn draw(picture: &Picture, size: u32, cache: &Path) -> Result<Drawing, Useless> {
    let bytes = match picture {
        Picture::Svg(document) => document.as_bytes().to_vec(),
        Picture::File(path) => std::fs::read(path).map_err(|_| Useless("no picture file"))?,
    };
    let kind = if matches!(picture, Picture::Svg(_)) {
        "svg"
    } else {
        "png"
    };
    let cached = cache.join(format!(
        "{kind}-{size}-{CACHE_VERSION}-{}.png",
        hex_digest(&bytes)
    ));
    if let Ok(known) = image::open(&cached) {
        return measure(&known.to_rgba8(), size);
    }
    let trimmed = match picture {
        Picture::Svg(_) => trim(&render(&bytes, size * OVERSAMPLING)?, size, OVERSAMPLING)?,
        Picture::File(_) => trim(&decode(&bytes)?, size, 1)?,
    };
    store(&trimmed, &cached);
    measure(&trimmed, size)
}

/// Renders into a square of `side` pixels at most; colours are premultiplied.
fn render(document: &[u8], side: u32) -> Result<RgbaImage, Useless> {
    let options = usvg::Options {
        resources_dir: None,
        ..usvg::Options::default()
    };
    let tree = usvg::Tree::from_data(document, &options).map_err(|_| Useless("malformed SVG"))?;
    let (width, height) = (tree.size().width(), tree.size().height());
    let scale = side as f32 / width.max(height);
    let pixels = |length: f32| ((length * scale).ceil() as u32).clamp(1, side);
    let mut pixmap =
        tiny_skia::Pixmap::new(pixels(width), pixels(height)).ok_or(Useless("malformed SVG"))?;
    resvg::render(
        &tree,
        tiny_skia::Transform::from_scale(scale, scale),
        &mut pixmap.as_mut(),
    );
    RgbaImage::from_raw(pixmap.width(), pixmap.height(), pixmap.take())
        .ok_or(Useless("malformed SVG"))
}

fn decode(bytes: &[u8]) -> Result<RgbaImage, Useless> {
    let reader = || image::ImageReader::new(std::io::Cursor::new(bytes)).with_guessed_format();
    let (width, height) = reader()
        .ok()
        .and_then(|reader| reader.into_dimensions().ok())
        .ok_or(Useless("malformed bitmap"))?;
    if width.max(height) > LARGEST_BITMAP {
        return Err(Useless("huge"));
    }
    let decoded = reader()
        .ok()
        .and_then(|reader| reader.decode().ok())
        .ok_or(Useless("malformed bitmap"))?;
    Ok(premultiply(decoded.to_rgba8()))
}

/// The cache only saves time, so a full disk shows when the shards are written and not here.
fn store(picture: &RgbaImage, path: &Path) {
    static SERIAL: AtomicUsize = AtomicUsize::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let temporary = PathBuf::from(format!(
        "{}.{}-{serial}.tmp",
        path.display(),
        std::process::id()
    ));
    let stored = picture
        .save_with_format(&temporary, image::ImageFormat::Png)
        .is_ok_and(|()| std::fs::rename(&temporary, path).is_ok());
    if !stored {
        let _ = std::fs::remove_file(&temporary);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn accidents_are_results() {
        let panicked: Result<(), Useless> = contain(TIME_LIMIT, || panic!("as a bad file might"));
        assert_eq!(panicked, Err(Useless("panic")));
        let slow = contain(Duration::from_millis(5), || {
            thread::sleep(Duration::from_millis(200));
            Ok(())
        });
        assert_eq!(slow, Err(Useless("took too long")));
        assert_eq!(contain(TIME_LIMIT, || Ok(7)), Ok(7));
    }

    #[test]
    fn a_wide_vector_drawing_fills_the_width_and_comes_back_from_the_cache() {
        let cache = tempfile::tempdir().unwrap();
        let svg = r##"<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40" viewBox="0 0 40 40">
            <rect x="10" y="15" width="20" height="10" fill="#e02020"/></svg>"##;
        let picture = Picture::Svg(svg.to_owned());
        let drawing = draw(&picture, 64, cache.path()).unwrap();
        assert_eq!((drawing.width, drawing.height), (64, 32));
        assert_eq!(drawing.colors.0, [("red".to_owned(), 1.0)]);
        assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 1);
        assert_eq!(
            draw(&picture, 64, cache.path()).unwrap().digest,
            drawing.digest
        );
    }

    #[test]
    fn malformed_pictures_are_results() {
        let cache = tempfile::tempdir().unwrap();
        let svg = Picture::Svg("<svg".to_owned());
        assert_eq!(
            draw(&svg, 64, cache.path()).err(),
            Some(Useless("malformed SVG"))
        );
        let missing = Picture::File(cache.path().join("missing.png"));
        assert_eq!(
            draw(&missing, 64, cache.path()).err(),
            Some(Useless("no picture file"))
        );
        let path = cache.path().join("broken.png");
        std::fs::write(&path, b"\x89PNG\r\n\x1a\nnothing").unwrap();
        assert_eq!(
            draw(&Picture::File(path), 64, cache.path()).err(),
            Some(Useless("malformed bitmap"))
        );
    }
}
