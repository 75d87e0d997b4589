//! Archive paths: byte strings that cannot leave the place they are restored to.

use std::fmt;
use std::path::Path;

use crate::error::{Error, Result};

/// The longest archive path a reader accepts, in bytes.
pub const PATH_BYTES_MAX: usize = 1 << 20;

/// Checks that `path` may stand in a manifest: relative, below `home` or `root`, without empty, `.` or `..`
/// components and without NUL.
///
/// # Errors
/// [`Kind::Damaged`](crate::Kind::Damaged), saying which rule is broken.
pub fn check(path: &[u8]) -> Result<()> {
    let refuse = |why: &str| Err(Error::damaged(format!("refused path {} in a manifest: {why}", printable(path))));
    if path.is_empty() {
        return refuse("it is empty");
    }
    if path.len() > PATH_BYTES_MAX {
        return refuse("it is too long");
    }
    if path.contains(&0) {
        return refuse("it contains a NUL byte");
    }
    if path[0] == b'/' {
        return refuse("it is absolute");
    }
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" => return refuse("it has an empty component"),
            b"." => return refuse("it has a component `.`"),
            b".." => return refuse("it climbs with `..`"),
            _ if part.len() > 255 => return refuse("a component is longer than 255 bytes"),
            _ => {}
        }
    }
    match path.split(|b| *b == b'/').next() {
        Some(b"home" | b"root") => Ok(()),
        _ => refuse("it is neither below home nor below root"),
    }
}

/// A path or any other name from a disk or a store, made harmless for a terminal and a log: control and
/// bidirectional characters and bytes that are not UTF-8 are escaped.
pub fn printable(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            let bidi =
                matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{061c}');
            if c.is_control() || bidi || c == '\u{2028}' || c == '\u{2029}' {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        for b in chunk.invalid() {
            out.push_str(&format!("\\x{b:02x}"));
        }
    }
    out
}

/// [`printable`] of a path on this disk.
pub fn printable_path(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    printable(path.as_os_str().as_bytes())
}

/// The last component of a path.
pub fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or(path)
}

/// Everything before the last component, without the slash; `None` for a single component.
pub fn parent(path: &[u8]) -> Option<&[u8]> {
    path.iter().rposition(|b| *b == b'/').map(|i| &path[..i])
}

/// Whether `path` lies in `dir`, at any depth.
pub fn is_below(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.first() == Some(&b'/'))
}

/// Joins a directory and a name.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(dir.len() + 1 + name.len());
    out.extend_from_slice(dir);
    if !dir.is_empty() {
        out.push(b'/');
    }
    out.extend_from_slice(name);
    out
}

/// Resolves `.` and `..` of `path` by its text alone; `None` when it climbs above the start.
pub fn normalize(path: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

/// A byte string that prints as [`printable`].
pub struct Printable<'a>(pub &'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_escape_are_refused() {
        for bad in
            [&b""[..], b"/etc", b"home/../x", b"home//x", b"home/./x", b"etc/passwd", b"..", b"home/\0", b"home/"]
        {
            assert!(check(bad).is_err(), "{}", printable(bad));
        }
        for good in [&b"home"[..], b"home/.hermes/..x", b"root/etc", b"home/\xff\n"] {
            assert!(check(good).is_ok(), "{}", printable(good));
        }
    }

    #[test]
    fn terminals_see_no_control_characters() {
        assert_eq!(printable(b"a\nb\x1b[31m\xff"), "a\\nb\\u{1b}[31m\\xff");
        assert_eq!(printable("\u{202e}x caf\u{e9}".as_bytes()), "\\u{202e}x caf\u{e9}");
    }

    #[test]
    fn normalising_resolves_dots() {
        assert_eq!(normalize(b"a/b/../c/./d"), Some(b"a/c/d".to_vec()));
        assert_eq!(normalize(b"a/../.."), None);
    }
}
