//! The mapping of `features.bin`: the one place outside the kernels with unsafe code.

#![expect(
    unsafe_code,
    reason = "memmap2 maps ordinary files through unsafe functions only; its safe one \
              (`map_if_safe`) takes nothing but sealed memory and fs-verity files"
)]

use std::fs::File;
use std::path::Path;

use memmap2::{Mmap, MmapOptions};

use super::StoreError;

/// The committed bytes of `features.bin`; nothing is mapped when there are none.
#[derive(Debug)]
pub(super) struct FeatureMap(Option<Mmap>);

impl FeatureMap {
    /// Maps the first `bytes` of the file at `path`.
    pub(super) fn open(path: &Path, bytes: u64) -> Result<Self, StoreError> {
        let file = File::open(path).map_err(StoreError::io("open", path))?;
        let got = file
            .metadata()
            .map_err(StoreError::io("measure", path))?
            .len();
        let cut_short = || StoreError::CutShort {
            path: path.to_owned(),
            expected: bytes,
            got,
        };
        if got < bytes {
            return Err(cut_short());
        }
        if bytes == 0 {
            return Ok(Self(None));
        }
        let len = usize::try_from(bytes).map_err(|_| cut_short())?;
        // SAFETY: a mapping is sound while no one changes or cuts the mapped bytes. The file is
        // opened read-only, and the mapping covers committed bytes alone (the length was checked
        // above). Writers only append behind those and cut only what lies behind them, and no
        // store is created over an existing one. That leaves `salvage`, which cuts only damaged
        // stores, and other programs that change the file in place: the documentation of both
        // the format and `salvage` rules these out while a store is open.
        let map = unsafe { MmapOptions::new().len(len).map(&file) };
        map.map(|map| Self(Some(map)))
            .map_err(StoreError::io("map", path))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}
