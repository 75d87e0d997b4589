//! Where archive paths are on a disk: `home/…` below the user's home, `root/…` below `/`, or both below a target.

/// The two places that archive paths start from, as absolute disk paths without a slash at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// What `home` means.
    pub home: Vec<u8>,
    /// What `root` means; empty for `/`.
    pub root: Vec<u8>,
}

impl Layout {
    /// The layout of a machine whose user lives in `home`.
    pub fn machine(home: &[u8]) -> Self {
        let home = home.strip_suffix(b"/").unwrap_or(home);
        Layout { home: home.to_vec(), root: Vec::new() }
    }

    /// The layout of a restore into the directory `target`.
    pub fn target(target: &[u8]) -> Self {
        let target = target.strip_suffix(b"/").unwrap_or(target);
        Layout { home: [target, b"/home"].concat(), root: [target, b"/root"].concat() }
    }

    /// The archive path of an absolute disk path.
    pub fn to_archive(&self, disk: &[u8]) -> Vec<u8> {
        let below = |base: &[u8]| disk.strip_prefix(base).filter(|r| r.is_empty() || r[0] == b'/').map(<[u8]>::to_vec);
        match below(&self.home) {
            Some(rest) if !self.home.is_empty() => [b"home", &rest[..]].concat(),
            _ => {
                let rest = below(&self.root).unwrap_or_default();
                [b"root", rest.strip_suffix(b"/").unwrap_or(&rest)].concat()
            }
        }
    }

    /// The disk path of an archive path.
    pub fn to_disk(&self, archive: &[u8]) -> Vec<u8> {
        match archive.strip_prefix(b"home") {
            Some(rest) => [&self.home[..], rest].concat(),
            None => {
                let rest = archive.strip_prefix(b"root").unwrap_or(archive);
                let path = [&self.root[..], rest].concat();
                if path.is_empty() { b"/".to_vec() } else { path }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let machine = Layout::machine(b"/home/agent/");
        for (disk, archive) in [
            (&b"/home/agent"[..], &b"home"[..]),
            (b"/home/agent/.hermes", b"home/.hermes"),
            (b"/home/agent2", b"root/home/agent2"),
            (b"/opt", b"root/opt"),
            (b"/", b"root"),
        ] {
            assert_eq!(machine.to_archive(disk), archive);
            assert_eq!(machine.to_disk(archive), disk);
        }
        assert_eq!(Layout::target(b"/t/").to_disk(b"home/x"), b"/t/home/x");
        assert_eq!(Layout::target(b"/t").to_disk(b"root/opt"), b"/t/root/opt");
    }
}
