//! A private place for what must lie on the disk for a moment. What a crash left is removed by the next run.

use std::path::{Path, PathBuf};

use super::world::private_dir;
use crate::error::{At as _, Result};

/// An empty private directory that goes away with its owner.
pub struct Staging(PathBuf);

impl Staging {
    /// Makes `dir/staging` anew. The caller holds the lock of the series.
    ///
    /// # Errors
    /// When remains cannot be removed or it cannot be made.
    pub fn open(dir: &Path) -> Result<Staging> {
        let path = dir.join("staging");
        if path.exists() {
            std::fs::remove_dir_all(&path).at("remove what an earlier run left in", &path)?;
        }
        private_dir(&path)?;
        Ok(Staging(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What stays is removed by the next run.
        drop(std::fs::remove_dir_all(&self.0));
    }
}
