//! Shapes of tokens: a few words of a language that says less than regular expressions do, and so never backtracks.
//!
//! A shape is a list of parts between spaces. `C{n}`, `C{n,m}` is a run of n to m bytes of the set that the letter C
//! names; everything else stands for itself. A run takes as many bytes as it can.
//!
//! | letter | set |
//! | --- | --- |
//! | `d` | digits |
//! | `h`, `H` | hex digits, in lower case and in either case |
//! | `l`, `u`, `a` | digits and letters: lower, upper, either case |
//! | `w` | `a` and `_` |
//! | `b` | `w` and `-`, which is base64 for URLs |
//! | `t` | `b`, `.` and `~` |
//! | `s`, `p` | base64: `a`, `+`, `/`; `p` with `=`, `-` and `_`, too |
//! | `v` | `p` and `%`: what is encoded for a URL |
//! | `k` | base32: `A` to `Z`, `2` to `7` |

/// A shape, parsed.
pub(super) struct Shape {
    parts: Vec<Part>,
    /// What is searched for: the first fixed part of at least [`GRAM_BYTES`].
    anchor: Option<Anchor>,
}

/// Where the search meets a shape.
#[derive(Clone)]
pub(super) struct Anchor {
    pub(super) text: Vec<u8>,
    /// Bytes of the shape before it.
    pub(super) before: usize,
}

enum Part {
    Text(Vec<u8>),
    Run { set: Set, min: usize, max: usize },
}

type Set = fn(u8) -> bool;

/// What the search looks for first: this many bytes.
pub(super) const GRAM_BYTES: usize = 3;

impl Shape {
    /// Reads a shape. The rules are ours, and a test reads each, so what is wrong is only told apart from what is not.
    pub(super) fn parse(text: &str) -> Option<Shape> {
        let parts: Vec<Part> = text.split(' ').map(part).collect::<Option<_>>()?;
        let mut before = 0;
        let mut anchor = None;
        for part in &parts {
            match part {
                Part::Text(text) if text.len() >= GRAM_BYTES => {
                    anchor = Some(Anchor { text: text.clone(), before });
                    break;
                }
                Part::Text(text) => before += text.len(),
                Part::Run { min, max, .. } if min == max => before += min,
                Part::Run { .. } => break,
            }
        }
        Some(Shape { parts, anchor })
    }

    /// What the search looks for; `None` if the shape has no fixed part at a fixed place.
    pub(super) fn anchor(&self) -> Option<&Anchor> {
        self.anchor.as_ref()
    }

    /// Matches at `start`. Gives the end, and puts what the runs took into `random`.
    pub(super) fn match_at(&self, text: &[u8], start: usize, random: &mut Vec<u8>) -> Option<usize> {
        random.clear();
        let mut at = start;
        for part in &self.parts {
            let rest = text.get(at..)?;
            match part {
                Part::Text(want) => {
                    if !rest.starts_with(want) {
                        return None;
                    }
                    at += want.len();
                }
                Part::Run { set, min, max } => {
                    let length = rest.iter().take(*max).take_while(|b| set(**b)).count();
                    if length < *min {
                        return None;
                    }
                    random.extend_from_slice(&rest[..length]);
                    at += length;
                }
            }
        }
        self.ends_at(text, at).then_some(at)
    }

    /// Matches the whole of `value`.
    pub(super) fn is(&self, value: &[u8], random: &mut Vec<u8>) -> bool {
        self.match_at(value, 0, random) == Some(value.len())
    }

    /// A token that goes on is another one, or none.
    fn ends_at(&self, text: &[u8], at: usize) -> bool {
        let Some(next) = text.get(at) else { return true };
        match self.parts.last() {
            Some(Part::Run { set, .. }) => !set(*next) && !next.is_ascii_alphanumeric(),
            _ => true,
        }
    }
}

fn part(word: &str) -> Option<Part> {
    let Some((letter, count)) = word.strip_suffix('}').and_then(|w| w.split_once('{')) else {
        return (!word.is_empty()).then(|| Part::Text(word.into()));
    };
    let (min, max) = match count.split_once(',') {
        Some((min, max)) => (min.parse().ok()?, max.parse().ok()?),
        None => (count.parse().ok()?, count.parse().ok()?),
    };
    (min <= max && max > 0).then_some(Part::Run { set: set(letter)?, min, max })
}

fn set(letter: &str) -> Option<Set> {
    Some(match letter {
        "d" => |b| b.is_ascii_digit(),
        "h" => |b| matches!(b, b'0'..=b'9' | b'a'..=b'f'),
        "H" => |b| b.is_ascii_hexdigit(),
        "l" => |b| b.is_ascii_lowercase() || b.is_ascii_digit(),
        "u" => |b| b.is_ascii_uppercase() || b.is_ascii_digit(),
        "a" => |b| b.is_ascii_alphanumeric(),
        "w" => |b| b.is_ascii_alphanumeric() || b == b'_',
        "b" => |b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'),
        "t" => |b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'~'),
        "s" => |b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'),
        "p" => |b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=' | b'-' | b'_'),
        "v" => |b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=' | b'-' | b'_' | b'%'),
        "k" => |b| matches!(b, b'A'..=b'Z' | b'2'..=b'7'),
        _ => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn matched(shape: &str, text: &str) -> Option<(usize, String)> {
        let mut random = Vec::new();
        let end = Shape::parse(shape).unwrap().match_at(text.as_bytes(), 0, &mut random)?;
        Some((end, String::from_utf8(random).unwrap()))
    }

    #[test]
    fn parts_follow_one_another() {
        assert_eq!(matched("ab_ h{4} - d{1,3}", "ab_beef-12 x"), Some((10, "beef12".into())));
        assert_eq!(matched("ab_ h{4} - d{1,3}", "ab_bee-12"), None);
        assert_eq!(matched("ab_ h{4}", "ab_beef"), Some((7, "beef".into())));
        for goes_on in ["ab_beefa", "ab_beefz", "ab_beef0"] {
            assert_eq!(matched("ab_ h{4}", goes_on), None, "{goes_on}");
        }
    }

    #[test]
    fn the_anchor_is_the_first_fixed_text_at_a_fixed_place() {
        let anchor = |shape| Shape::parse(shape).unwrap().anchor().map(|a| (a.text.clone(), a.before));
        assert_eq!(anchor("a{14} .atlasv1. b{60,70}"), Some((b".atlasv1.".to_vec(), 14)));
        assert_eq!(anchor("h{8} - h{4} -end"), Some((b"-end".to_vec(), 13)));
        assert_eq!(anchor("h{8,9} -end"), None);
        assert_eq!(anchor("h{8} - h{4}"), None);
    }

    #[test]
    fn nonsense_is_no_shape() {
        for text in ["", "a  b", "q{3}", "a{}", "a{3,2}", "a{0}"] {
            assert!(Shape::parse(text).is_none(), "{text}");
        }
    }
}
