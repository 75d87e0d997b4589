//! Who signs for a series, and which numbers: keys that follow each other by hand-overs (FORMAT.md section 7).

use super::sign::{self, PublicKey};
use crate::error::{Error, Result};

/// The largest `from-seq` of a hand-over: what a shell can still compare, and far beyond any clock.
const SEQ_MAX: u64 = 999_999_999_999_999;

/// The keys of a series, each with the numbers that it signs. What the last one hands over to comes after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signers {
    /// Keys that were handed over, oldest first, each with the number from which on the next one signs.
    former: Vec<(PublicKey, u64)>,
    /// The key that signs now.
    current: PublicKey,
}

impl From<PublicKey> for Signers {
    fn from(current: PublicKey) -> Signers {
        Signers { former: Vec::new(), current }
    }
}

impl Signers {
    /// The keys of a kit: the one that signs, and a line `RW… till-seq N` for each that did before, oldest first.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged) if a line is malformed or out of order.
    pub fn parse<S: AsRef<str>>(current: PublicKey, former: &[S]) -> Result<Signers> {
        let mut out = Signers::from(current);
        for line in former {
            let not_one = || Error::damaged("a line about a former signing key is malformed");
            let words: Vec<&str> = line.as_ref().split_whitespace().collect();
            let [key, "till-seq", till] = words[..] else { return Err(not_one()) };
            let till = parse_seq(till).ok_or_else(not_one)?;
            if till <= out.from_seq() {
                return Err(Error::damaged("the lines about former signing keys are out of order"));
            }
            out.former.push((PublicKey::from_text(key)?, till));
        }
        Ok(out)
    }

    /// A line for each former key, as [`Signers::parse`] reads them.
    pub fn former_lines(&self) -> Vec<String> {
        self.former.iter().map(|(key, till)| format!("{} till-seq {till}", key.to_base64())).collect()
    }

    /// The key that signs now.
    pub fn current(&self) -> &PublicKey {
        &self.current
    }

    /// The oldest key: the one that claimed the name of the series, as far as is known.
    pub fn first(&self) -> &PublicKey {
        self.former.first().map_or(&self.current, |(key, _)| key)
    }

    /// The number from which on the current key signs; 0 where it is the only one.
    pub fn from_seq(&self) -> u64 {
        self.former.last().map_or(0, |(_, till)| *till)
    }

    /// Whether `key` signs or signed for the series.
    pub fn knows(&self, key: &PublicKey) -> bool {
        self.current == *key || self.former.iter().any(|(known, _)| known == key)
    }

    /// The key that signs number `seq`.
    pub fn key_of(&self, seq: u64) -> &PublicKey {
        self.former.iter().find(|(_, till)| seq < *till).map_or(&self.current, |(key, _)| key)
    }

    /// The keys as they were before the last hand-over; `None` where there was none.
    pub fn before(&self) -> Option<Signers> {
        let mut former = self.former.clone();
        former.pop().map(|(current, _)| Signers { former, current })
    }

    /// The same series after its key handed over to `next`, which signs from number `from_seq` on.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged) if the number is not after all that the current key began with, or `next`
    /// had its turn: a key that was given up must never come back.
    pub fn followed_by(mut self, next: PublicKey, from_seq: u64) -> Result<Signers> {
        if from_seq <= self.from_seq() || from_seq > SEQ_MAX {
            return Err(Error::damaged("the hand-over is from an impossible number on"));
        }
        if self.knows(&next) {
            return Err(Error::damaged("the hand-over is to a key that signed before"));
        }
        let last = std::mem::replace(&mut self.current, next);
        self.former.push((last, from_seq));
        Ok(self)
    }

    /// Checks a hand-over as it stands on a store, and follows it: `public` is the file of the next key, with its number,
    /// and `signature` that of the current key.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged) if it was not made by the current key for this series and number, or makes
    /// no sense.
    pub fn follow(&self, series: &str, number: u32, public: &str, signature: &str) -> Result<Signers> {
        let said = sign::unverified_comment(signature)?;
        let from_seq = said.rsplit_once(' ').and_then(|(_, seq)| parse_seq(seq));
        let from_seq = from_seq.ok_or_else(|| Error::damaged("the signature is not one of a hand-over"))?;
        sign::verify(&self.current, public.as_bytes(), signature, &hand_over_comment(series, number, from_seq))?;
        self.clone().followed_by(PublicKey::from_text(public)?, from_seq)
    }

    /// Checks that one of the keys made a signature, whenever its turn is or was, and says which.
    ///
    /// # Errors
    /// As [`sign::verify`].
    pub fn signer_of(&self, data: &[u8], signature: &str, trusted_comment: &str) -> Result<&PublicKey> {
        let mut former = self.former.iter().map(|(key, _)| key);
        let key = former.find(|key| sign::is_by(key, signature)).unwrap_or(&self.current);
        sign::verify(key, data, signature, trusted_comment).map(|()| key)
    }

    /// Checks that number `seq` is one that `key` signs: it is what was signed that says so, hence after the signature.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged) if it is another key's.
    pub fn check_turn(&self, key: &PublicKey, seq: u64) -> Result<()> {
        if self.key_of(seq) == key {
            return Ok(());
        }
        Err(Error::damaged(match self.former.iter().find(|(former, _)| former == key) {
            Some((_, till)) if seq >= *till => format!(
                "it is number {seq} and signed with the key {}, which signs no number from {till} on: it was handed over \
                 to another key, and somebody still uses it",
                key.key_id()
            ),
            _ => format!("it is number {seq} and signed with the key {}, whose turn came later", key.key_id()),
        }))
    }

    /// Checks the signature of what has a time and no number, such as a drill's receipt: by the key that signed at that
    /// time, in Unix seconds, as numbers follow the clock, or by one that came after it.
    ///
    /// # Errors
    /// As [`sign::verify`], and if the key had been handed over by then.
    pub fn verify_at(&self, time: i64, data: &[u8], signature: &str, trusted_comment: &str) -> Result<()> {
        let key = self.signer_of(data, signature, trusted_comment)?;
        let seq = u64::try_from(time).unwrap_or(0);
        match self.former.iter().find(|(former, till)| former == key && seq >= *till) {
            None => Ok(()),
            Some(_) => self.check_turn(key, seq),
        }
    }
}

/// The trusted comment of a hand-over's signature.
pub fn hand_over_comment(series: &str, number: u32, from_seq: u64) -> String {
    format!("lifeboat-key {series} {number} from-seq {from_seq}")
}

/// Digits alone: `+5` and `05` would not be what a shell reads.
fn parse_seq(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|seq| plain && *seq <= SEQ_MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Kind;
    use crate::stream::sign::{SigningKey, sign};

    const SERIES: &str = "vm1";

    fn keys(n: usize) -> Vec<SigningKey> {
        (0..n).map(|_| SigningKey::generate().unwrap()).collect()
    }

    fn hand_over(from: &SigningKey, to: &SigningKey, number: u32, seq: u64) -> (String, String) {
        let public = to.public().to_text();
        let signature = sign(from, public.as_bytes(), &hand_over_comment(SERIES, number, seq)).unwrap();
        (public, signature)
    }

    fn signed(signers: &Signers, key: &SigningKey, seq: u64) -> Result<()> {
        let signature = sign(key, b"commit", "of it").unwrap();
        signers.check_turn(signers.signer_of(b"commit", &signature, "of it")?, seq)
    }

    #[test]
    fn each_key_signs_its_own_numbers() {
        let keys = keys(3);
        let mut signers = Signers::from(keys[0].public());
        for (i, seq) in [(1, 100), (2, 200)] {
            let (public, signature) = hand_over(&keys[i - 1], &keys[i], i as u32 + 1, seq);
            signers = signers.follow(SERIES, i as u32 + 1, &public, &signature).unwrap();
        }
        for (key, range) in [(0, [1, 99]), (1, [100, 199]), (2, [200, 1 << 40])] {
            for seq in range {
                for (other, key_at) in keys.iter().enumerate() {
                    assert_eq!(signed(&signers, key_at, seq).is_ok(), other == key, "key {other} for {seq}");
                }
            }
        }
        let stale = signed(&signers, &keys[0], 100).unwrap_err().to_string();
        assert!(stale.contains("handed") && stale.contains(&keys[0].public().key_id()), "{stale}");
        assert_eq!((signers.first(), signers.current()), (&keys[0].public(), &keys[2].public()));
        assert_eq!(Signers::parse(keys[2].public(), &signers.former_lines()).unwrap(), signers);
        let before = signers.before().unwrap();
        assert_eq!((before.current(), before.from_seq()), (&keys[1].public(), 100));
        assert_eq!(before.before().unwrap(), Signers::from(keys[0].public()));
        assert_eq!(Signers::from(keys[0].public()).before(), None);
    }

    #[test]
    fn what_has_only_a_time_may_be_by_the_key_of_that_time_or_a_later_one() {
        let keys = keys(3);
        let signers = Signers::from(keys[0].public()).followed_by(keys[1].public(), 100).unwrap();
        let by = |key: &SigningKey, time| signers.verify_at(time, b"r", &sign(key, b"r", "c").unwrap(), "c").is_ok();
        assert!(by(&keys[0], 99) && by(&keys[1], 99) && by(&keys[1], 100) && by(&keys[0], -5));
        assert!(!by(&keys[0], 100) && !by(&keys[2], 99) && !by(&keys[2], 100));
    }

    #[test]
    fn a_hand_over_that_is_forged_or_out_of_place_is_refused() {
        let keys = keys(3);
        let signers = Signers::from(keys[0].public());
        let refuse = |number: u32, public: &str, signature: &str| {
            assert_eq!(signers.follow(SERIES, number, public, signature).unwrap_err().kind(), Kind::Damaged);
        };
        let (public, signature) = hand_over(&keys[0], &keys[1], 2, 100);
        assert!(signers.follow(SERIES, 2, &public, &signature).is_ok());
        refuse(3, &public, &signature);
        assert!(signers.follow("vm2", 2, &public, &signature).is_err());
        refuse(2, &keys[2].public().to_text(), &signature);
        refuse(2, &public, &signature.replace("from-seq 100", "from-seq 101"));
        refuse(2, &public, "rubbish");
        let (forged, by_other) = hand_over(&keys[2], &keys[1], 2, 100);
        refuse(2, &forged, &by_other);
        // Back to a key that was given up, from 0 on, or from a number that no shell compares.
        let (itself, by_itself) = hand_over(&keys[0], &keys[0], 2, 100);
        refuse(2, &itself, &by_itself);
        for seq in [0, SEQ_MAX + 1] {
            let (public, signature) = hand_over(&keys[0], &keys[1], 2, seq);
            refuse(2, &public, &signature);
        }
        // A signature of a commit is none of a hand-over.
        refuse(2, &public, &sign(&keys[0], public.as_bytes(), "lifeboat vm1 20261121T201500Z-3f9c02de").unwrap());
        let two = signers.followed_by(keys[1].public(), 100).unwrap();
        let (back, back_signature) = hand_over(&keys[1], &keys[0], 3, 200);
        assert!(two.follow(SERIES, 3, &back, &back_signature).is_err());
        let (early, early_signature) = hand_over(&keys[1], &keys[2], 3, 100);
        assert!(two.follow(SERIES, 3, &early, &early_signature).is_err());
        // Who has the old key alone can hand nothing over any more.
        let (late, late_signature) = hand_over(&keys[0], &keys[2], 3, 300);
        assert!(two.follow(SERIES, 3, &late, &late_signature).is_err());
    }

    #[test]
    fn lines_that_make_no_sense_are_refused() {
        let key = keys(1)[0].public();
        let line = |seq: &str| format!("{} till-seq {seq}", key.to_base64());
        assert!(Signers::parse(key.clone(), &[line("5"), line("6")]).is_ok());
        for bad in
            [vec![line("5"), line("5")], vec![line("0")], vec![line("+5")], vec![line("")], vec![key.to_base64()]]
        {
            assert!(Signers::parse(key.clone(), &bad).is_err(), "{bad:?}");
        }
        assert!(Signers::parse(key, &["RWrubbish till-seq 5"]).is_err());
    }

    proptest! {
        #[test]
        fn noise_is_followed_nowhere(public in ".*", signature in ".*", number in any::<u32>()) {
            let signers = Signers::from(SigningKey::generate().unwrap().public());
            prop_assert!(signers.follow(SERIES, number, &public, &signature).is_err());
        }
    }
}
