//! Whether a value was made by a random generator, or by somebody who typed words.
//!
//! Three things tell: how even the distribution of its bytes is (Shannon's entropy), whether its letters follow each
//! other as those of words do (a table of pairs, counted over the words of 3,000 files of code and documentation), and
//! whether it counts up or repeats itself, as examples do.

/// The pairs of letters that make up 88 % of all pairs in words and identifiers: for each first letter a bit per
/// second one. Of random letters 29 % are in it.
const PAIRS: [u32; 26] = [
    0x11e_b94e, 0x010_4911, 0x01a_4d91, 0x006_4119, 0x0af_b87d, 0x002_4131, 0x000_0110, 0x008_4111, 0x22e_f87f,
    0x000_0000, 0x000_0010, 0x11c_4919, 0x010_c111, 0x01c_417d, 0x07e_f80c, 0x01e_c911, 0x010_0000, 0x11e_715d,
    0x11c_c195, 0x11e_c995, 0x00e_b916, 0x000_0111, 0x002_0181, 0x008_0000, 0x000_8000, 0x000_0010,
];

/// Words of people who leave a gap to be filled. Long enough not to be in a random value by chance.
const GAPS: &[&[u8]] = &[
    b"example",
    b"sample",
    b"placeholder",
    b"changeme",
    b"change_me",
    b"change-me",
    b"change-this",
    b"changethis",
    b"your-",
    b"your_",
    b"yourkey",
    b"yourtoken",
    b"yoursecret",
    b"yourpass",
    b"yourapi",
    b"xxxxx",
    b"dummy",
    b"redacted",
    b"removed",
    b"replace",
    b"insert",
    b"hunter2",
    b"password",
    b"passw0rd",
    b"secretkey",
    b"not-a-real",
    b"notareal",
    b"notreal",
    b"invalid",
    b"foobar",
    b"deadbeef",
    b"abcdef",
    b"qwerty",
    b"asdfgh",
    b"process.env",
    b"environ",
    b"getenv",
    b"undefined",
    b"-here",
    b"_here",
    b"-goes-",
    b"<",
    b"...",
    b"***",
    b"${",
    b"{{",
    b"$(",
    b"#{",
    b"%(",
];

/// Words that mark a value as made up when they stand alone between other characters, and nothing long follows.
const MADE_UP: &[&[u8]] =
    &[b"fake", b"test", b"demo", b"mock", b"todo", b"none", b"null", b"your", b"foo", b"bar", b"baz", b"xxx", b"dev"];

/// From this many random bytes on, a value counts even if `fake` or `test` stands before it.
const MADE_UP_BYTES_MAX: usize = 32;

/// Whether a value stands for one that somebody has yet to put there.
pub(in crate::model) fn is_placeholder(value: &[u8]) -> bool {
    let lower = value.to_ascii_lowercase();
    // Long values hold any short word by chance.
    let gaps = |gap: &&[u8]| (value.len() < 100 || gap.len() > 5) && find(&lower, gap);
    GAPS.iter().any(gaps) || is_made_up(&lower) || counts_or_repeats(&lower)
}

fn is_made_up(lower: &[u8]) -> bool {
    let mut words = lower.split(|b| !b.is_ascii_alphanumeric());
    let longest = lower.split(|b| !b.is_ascii_alphanumeric()).map(<[u8]>::len).max().unwrap_or(0);
    longest < MADE_UP_BYTES_MAX && words.any(|word| MADE_UP.contains(&word))
}

/// `12345678`, `abcdefgh`, `xxxxxx`, `abcabcabc`: what a hand makes.
fn counts_or_repeats(lower: &[u8]) -> bool {
    let (mut up, mut down, mut same) = (1, 1, 1);
    let most = if lower.len() < 64 { 6 } else { 8 };
    for pair in lower.windows(2) {
        up = if pair[1] == pair[0].wrapping_add(1) || pair == b"90" { up + 1 } else { 1 };
        down = if pair[0] == pair[1].wrapping_add(1) || pair == b"09" { down + 1 } else { 1 };
        same = if pair[0] == pair[1] { same + 1 } else { 1 };
        if up.max(down).max(same) >= most {
            return true;
        }
    }
    (1..=8).any(|period| lower.len() >= 2 * period + 4 && lower.iter().zip(&lower[period..]).all(|(a, b)| a == b))
}

/// Shannon's entropy, in bits per byte.
pub(super) fn entropy(value: &[u8]) -> f64 {
    let mut counts = [0u32; 256];
    for byte in value {
        counts[usize::from(*byte)] += 1;
    }
    let total = value.len() as f64;
    counts.iter().filter(|n| **n > 0).map(|n| f64::from(*n) / total).map(|p| -p * p.log2()).sum()
}

/// Whether the random part of a token is even enough. Short ones cannot be very even.
pub(super) fn is_even(random: &[u8]) -> bool {
    let hex = random.iter().all(|b| b.is_ascii_hexdigit());
    let bound = match random.len() {
        0..=11 => 2.0,
        12..=23 => 2.5,
        24..=39 => 2.9,
        _ if hex => 3.1,
        _ => 3.4,
    };
    entropy(random) >= bound
}

/// The share of neighbouring letters that words have, too, from 0 to 1; 0 if there are hardly any letters.
fn wordiness(value: &[u8]) -> f64 {
    let (mut pairs, mut common) = (0u32, 0u32);
    for pair in value.windows(2).filter(|p| p.iter().all(u8::is_ascii_alphabetic)) {
        // `tokenName` is two words.
        if pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase() {
            continue;
        }
        let place = |b: u8| usize::from(b.to_ascii_lowercase() - b'a');
        pairs += 1;
        common += PAIRS[place(pair[0])] >> place(pair[1]) & 1;
    }
    if pairs < 3 { 0.0 } else { f64::from(common) / f64::from(pairs) }
}

/// Whether a value looks as if a generator made it. Says no in doubt, since a key that says secret may stand before
/// anything; values shorter than 8 bytes never do.
pub(in crate::model) fn looks_random(value: &[u8]) -> bool {
    let count = |f: fn(&u8) -> bool| value.iter().filter(|b| f(b)).count();
    let (digits, letters) = (count(u8::is_ascii_digit), count(u8::is_ascii_alphabetic));
    let (lower, upper) = (count(u8::is_ascii_lowercase), count(u8::is_ascii_uppercase));
    if value.len() < 8 || letters < 2 || is_placeholder(value) {
        return false;
    }
    // The letters of hex digits follow each other in words, too, so a long run of them is judged by itself.
    let bare = value.strip_prefix(b"0x").unwrap_or(value);
    let hex = |run: &[u8]| run.len() >= 32 && run.iter().all(u8::is_ascii_hexdigit) && entropy(run) >= 2.9;
    if bare
        .split(|b| !b.is_ascii_alphanumeric())
        .any(|run| hex(run) && run.iter().filter(|b| b.is_ascii_digit()).count() >= 4)
    {
        return true;
    }
    let wordy = wordiness(value);
    // Words with numbers in them have few changes between letters and digits; random text has many.
    let changes = value.windows(2).filter(|p| kind(p[0]) != kind(p[1])).count();
    let lively = changes * 4 >= value.len();
    if value.iter().all(|b| b.is_ascii_hexdigit()) {
        return value.len() >= 16 && digits >= 2 && entropy(value) >= 2.5;
    }
    match value.len() {
        // As short as passwords that people choose: it has to be odd to count.
        0..16 => digits >= 2 && lively && wordy <= 0.6 && entropy(value) >= 2.8 && changes >= 4,
        16..24 => (digits >= 1 || changes * 2 >= value.len()) && lively && wordy <= 0.62 && entropy(value) >= 3.0,
        _ if digits == 0 => lower.min(upper) * 5 >= letters && lively && wordy <= 0.5 && entropy(value) >= 3.5,
        _ => lively && wordy <= 0.6 && entropy(value) >= 3.2,
    }
}

fn kind(b: u8) -> u8 {
    match b {
        b'0'..=b'9' => 0,
        b'a'..=b'z' => 1,
        b'A'..=b'Z' => 2,
        _ => 3,
    }
}

/// Whether `part` is in `text`.
pub(super) fn find(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|w| w == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_generator_makes_looks_random() {
        for value in [
            "q7Zp3LxV9tKe2WmB",
            "c8f1e07b2d9a4635e1f0a7b8",
            "Vh3kP0zXq8LrT5nWy2Jc6BdM",
            "zK8#pQ2vLm!9",
            "3fJ0sX/8Tq+LwY5hRb9NcVe2KdMgPz1uAoIi7tCx",
            "XqWvKzPlTyHbNmRcDfGjLsQx",
            "fake-6e3fbeaf7ee935f297a3fb352c341717cbddc94f",
        ] {
            assert!(looks_random(value.as_bytes()), "{value}");
        }
    }

    #[test]
    fn what_people_write_does_not() {
        for value in [
            "",
            "password123",
            "my-secret-token-2024",
            "correcthorsebatterystaple",
            "ThisIsMySecretTokenName42",
            "sk-xxxxxxxxxxxxxxxx",
            "<YOUR_API_KEY>",
            "your-api-key-goes-here-123",
            "1234567890abcdef",
            "0123456789",
            "20241120T221500",
            "AbCdEfGh12345678",
            "fake-9f8e7d6c",
            "test_a8Kq02xL",
            "${DB_PASSWORD}",
            "abc1abc1abc1abc1",
            "SunshineCoast2024",
            "application/x-www-form-urlencoded",
            "com.example.app2.service3",
        ] {
            assert!(!looks_random(value.as_bytes()), "{value}");
        }
    }

    #[test]
    fn entropy_is_in_bits_per_byte() {
        assert!(entropy(b"aaaa").abs() < 1e-9);
        assert!((entropy(b"abab") - 1.0).abs() < 1e-9);
        assert!((entropy(b"abcdefgh") - 3.0).abs() < 1e-9);
    }
}
