//! Replaces a file that somebody else reads meanwhile: whoever opens it sees the old one or the new one.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::error::{At as _, Result};

/// Others may read it: that is what it is for.
const MODE: u32 = 0o644;

/// Writes `text` beside `path` and renames it to there. Everybody may read the result.
///
/// # Errors
/// When the directory cannot be written to; what was there is still there then.
pub fn replace_file(path: &Path, text: &str) -> Result<()> {
    let parent = path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".lifeboat-")
        .permissions(std::fs::Permissions::from_mode(MODE))
        .tempfile_in(parent)
        .at("write in", parent)?;
    // The process makes files that nobody else may read.
    file.as_file().set_permissions(std::fs::Permissions::from_mode(MODE)).at("open to others", path)?;
    file.write_all(text.as_bytes()).at("write", path)?;
    file.persist(path).map_err(|e| e.error).at("replace", path)?;
    Ok(())
}
