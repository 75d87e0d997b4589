//! Signatures in minisign's format: Ed25519 over the BLAKE2b hash of the data, with a comment that is signed, too.
//!
//! The texts are taken apart here and not by the minisign crate, which slices a short comment signature out of
//! bounds and trims comments before it checks them.

use std::fmt;
use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::model::path::printable;

/// The longest signature text that is looked at, in bytes; minisign's own limits on comments fit in.
const SIGNATURE_TEXT_BYTES_MAX: usize = 16 * 1024;

/// The longest key text that is looked at, in bytes.
const KEY_TEXT_BYTES_MAX: usize = 4 * 1024;

/// The longest trusted comment that is signed, in bytes: what stock minisign reads.
const TRUSTED_COMMENT_BYTES_MAX: usize = 8 * 1024;

const UNTRUSTED: &str = "untrusted comment: ";
const TRUSTED: &str = "trusted comment: ";

/// Algorithm, key id, key.
const PUBLIC_BYTES: usize = 2 + 8 + 32;
/// Algorithm, key id, signature.
const SIGNATURE_BYTES: usize = 2 + 8 + 64;
/// A bare Ed25519 signature, here of the signature and the trusted comment.
const COMMENT_SIGNATURE_BYTES: usize = 64;
/// Three algorithms, salt, two costs, key id, key pair, checksum.
const SECRET_BYTES: usize = 3 * 2 + 32 + 2 * 8 + 8 + 64 + 32;

const KEY_ALGORITHM: &[u8] = b"Ed";
const PREHASHED: &[u8] = b"ED";
const LEGACY: &[u8] = b"Ed";
const NO_PASSWORD: &[u8] = &[0, 0];
const PASSWORD: &[u8] = b"Sc";
const CHECKSUM_ALGORITHM: &[u8] = b"B2";

/// The secret key that signs a series' commits.
#[derive(Clone)]
pub struct SigningKey(Zeroizing<Vec<u8>>);

/// The public half of a [`SigningKey`].
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; PUBLIC_BYTES]);

/// Signs `data`. `trusted_comment` is signed with it.
///
/// # Errors
/// If the comment is not one plain line, or there is no randomness.
pub fn sign(key: &SigningKey, data: &[u8], trusted_comment: &str) -> Result<String> {
    let plain = trusted_comment == trusted_comment.trim() && !trusted_comment.chars().any(char::is_control);
    if !plain || trusted_comment.len() > TRUSTED_COMMENT_BYTES_MAX {
        return Err(Error::failed("a signature's trusted comment must be one plain line"));
    }
    let secret = key.minisign()?;
    let public = minisign::PublicKey::from_bytes(&key.public().0).map_err(failed("sign"))?;
    let untrusted = "signature from lifeboat's signing key";
    let signature = minisign::sign(Some(&public), &secret, data, Some(trusted_comment), Some(untrusted));
    Ok(signature.map_err(failed("sign"))?.into_string())
}

/// Checks that `key` signed `data` together with exactly this `trusted_comment`.
///
/// # Errors
/// [`Kind::Damaged`](crate::Kind::Damaged), saying whether the signature is malformed, of a legacy kind, by another
/// key, does not match, or was made for something else.
pub fn verify(key: &PublicKey, data: &[u8], signature: &str, trusted_comment: &str) -> Result<()> {
    let parts = Parts::parse(signature)?;
    if parts.signature[..2] == *LEGACY {
        return Err(Error::damaged("the signature is of the legacy kind that does not hash first, which is refused"));
    }
    if parts.signature[..2] != *PREHASHED {
        return Err(malformed("its algorithm is unknown"));
    }
    if parts.signature[2..10] != key.0[2..10] {
        let theirs = key_id(&parts.signature);
        return Err(Error::damaged(format!("the signature is by another key: {theirs}, not {}", key.key_id())));
    }
    let public = minisign::PublicKey::from_bytes(&key.0).map_err(failed("verify"))?;
    let whole = parts.minisign().map_err(|_| malformed("it cannot be read"))?;
    if let Err(e) = check(&public, &whole, data) {
        // Without its comment the same signature is checked against the data alone, which tells the two apart.
        let bones = minisign::SignatureBones::from(whole).into();
        return Err(match check(&public, &bones, data) {
            Ok(()) => Error::damaged("the signature's trusted comment was altered"),
            Err(_) => Error::damaged("the signature does not match what it should sign").because(e),
        });
    }
    if parts.comment != trusted_comment {
        let made_for = printable(parts.comment.as_bytes());
        return Err(Error::damaged(format!("the signature is for `{made_for}`, not for `{trusted_comment}`")));
    }
    Ok(())
}

/// Whether a signature says that `key` made it, before anybody checked that.
pub(super) fn is_by(key: &PublicKey, signature: &str) -> bool {
    Parts::parse(signature).is_ok_and(|parts| parts.signature[2..10] == key.0[2..10])
}

/// The trusted comment of a signature, before anybody checked it.
///
/// # Errors
/// [`Kind::Damaged`](crate::Kind::Damaged) if the signature is malformed.
pub(super) fn unverified_comment(signature: &str) -> Result<&str> {
    Parts::parse(signature).map(|parts| parts.comment)
}

fn check(key: &minisign::PublicKey, signature: &minisign::SignatureBox, data: &[u8]) -> minisign::Result<()> {
    let (quiet, output, allow_legacy) = (true, false, false);
    minisign::verify(key, signature, Cursor::new(data), quiet, output, allow_legacy)
}

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn generate() -> Result<Self> {
        let pair = minisign::KeyPair::generate_unencrypted_keypair().map_err(failed("make a signing key"))?;
        Self::from_bytes(Zeroizing::new(pair.sk.to_bytes()))
    }

    /// Reads a secret key file as `minisign -G -W` writes it, or its base64 line alone.
    ///
    /// # Errors
    /// If it is none, protected by a password, or damaged. The text never stands in the message.
    pub fn from_text(text: &str) -> Result<Self> {
        let line = base64_line(text).ok_or_else(not_a_signing_key)?;
        let mut bytes = Zeroizing::new(vec![0; KEY_TEXT_BYTES_MAX]);
        // The decoder's own message would quote the byte it stumbled on.
        let length = STANDARD.decode_slice(line, &mut bytes).map_err(|_| not_a_signing_key())?;
        bytes.truncate(length);
        Self::from_bytes(bytes)
    }

    fn from_bytes(bytes: Zeroizing<Vec<u8>>) -> Result<Self> {
        if bytes.len() != SECRET_BYTES || bytes[..2] != *KEY_ALGORITHM || bytes[4..6] != *CHECKSUM_ALGORITHM {
            return Err(not_a_signing_key());
        }
        if bytes[2..4] == *PASSWORD {
            return Err(Error::failed("the signing key is protected by a password")
                .hint("backups are signed with nobody at the keyboard: remove it with `minisign -C -W -s FILE`"));
        }
        if bytes[2..4] != *NO_PASSWORD {
            return Err(not_a_signing_key());
        }
        let key = SigningKey(bytes);
        key.prove()?;
        Ok(key)
    }

    /// Both halves must belong together: signing with a foreign public half would give the secret away.
    fn prove(&self) -> Result<()> {
        let damaged = || Error::failed("the signing key is damaged");
        if !self.checksum_holds()? {
            return Err(damaged());
        }
        let signature = sign(self, b"canary", "canary").map_err(|_| damaged())?;
        verify(&self.public(), b"canary", &signature, "canary").map_err(|_| damaged())
    }

    /// Stock minisign leaves the checksum of a key without password zero; everybody else fills it in.
    fn checksum_holds(&self) -> Result<bool> {
        if self.0[SECRET_BYTES - 32..].iter().all(|b| *b == 0) {
            return Ok(true);
        }
        // The crate compares the checksum only for keys that once had a password: those it takes for still
        // encrypted as long as the checksum is wrong.
        let mut marked = self.0.clone();
        marked[2..4].copy_from_slice(PASSWORD);
        Ok(!minisign::SecretKey::from_bytes(&marked).map_err(failed("read the signing key"))?.is_encrypted())
    }

    /// The key as a file that stock minisign signs with.
    pub fn to_text(&self) -> SecretString {
        let mut text = Zeroizing::new(String::with_capacity(512));
        text.push_str(UNTRUSTED);
        text.push_str("minisign unencrypted secret key\n");
        STANDARD.encode_string(&*self.0, &mut text);
        text.push('\n');
        SecretString::from(text.as_str())
    }

    /// The base64 line of [`Self::to_text`], as the recovery kit holds it.
    pub fn to_base64(&self) -> SecretString {
        let mut line = Zeroizing::new(String::with_capacity(512));
        STANDARD.encode_string(&*self.0, &mut line);
        SecretString::from(line.as_str())
    }

    /// A key of its own for another purpose, which `context` names and nothing else uses.
    pub fn derive(&self, context: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(context, &self.0))
    }

    /// What verifies this key's signatures.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; PUBLIC_BYTES];
        bytes[..2].copy_from_slice(KEY_ALGORITHM);
        bytes[2..10].copy_from_slice(&self.0[54..62]);
        bytes[10..].copy_from_slice(&self.0[94..126]);
        PublicKey(bytes)
    }

    /// A copy in the crate's type, which does not wipe itself, so it is made late and dropped early.
    fn minisign(&self) -> Result<minisign::SecretKey> {
        minisign::SecretKey::from_bytes(&self.0).map_err(failed("read the signing key"))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().key_id())
    }
}

impl PublicKey {
    /// Reads a public key file, or its base64 line alone.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged) if it is none.
    pub fn from_text(text: &str) -> Result<Self> {
        let not_one = || Error::damaged("not a minisign public key");
        let line = base64_line(text).ok_or_else(not_one)?;
        let bytes = STANDARD.decode(line).map_err(|_| not_one())?;
        let bytes: [u8; PUBLIC_BYTES] = bytes.try_into().map_err(|_| not_one())?;
        if bytes[..2] != *KEY_ALGORITHM {
            return Err(not_one());
        }
        Ok(PublicKey(bytes))
    }

    /// The key as a file, as stock minisign writes it.
    pub fn to_text(&self) -> String {
        format!("{UNTRUSTED}minisign public key {}\n{}\n", self.key_id(), self.to_base64())
    }

    /// The key in one line, as `minisign -P` takes it.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// The id of the key, in the form minisign prints it.
    pub fn key_id(&self) -> String {
        key_id(&self.0)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.to_base64())
    }
}

/// A signature's text, taken apart and of the right lengths.
struct Parts<'a> {
    signature: [u8; SIGNATURE_BYTES],
    comment: &'a str,
    comment_signature: [u8; COMMENT_SIGNATURE_BYTES],
}

impl<'a> Parts<'a> {
    fn parse(text: &'a str) -> Result<Self> {
        if text.len() > SIGNATURE_TEXT_BYTES_MAX {
            return Err(malformed("it is too long"));
        }
        let lines: Vec<&str> = text.lines().collect();
        let [untrusted, signature, trusted, comment_signature] = lines[..] else {
            return Err(malformed("it does not have four lines"));
        };
        if !untrusted.starts_with(UNTRUSTED) {
            return Err(malformed("its first line is not an untrusted comment"));
        }
        let comment =
            trusted.strip_prefix(TRUSTED).ok_or_else(|| malformed("its third line is not a trusted comment"))?;
        Ok(Parts {
            signature: decode(signature).ok_or_else(|| malformed("its second line is not a signature"))?,
            comment,
            comment_signature: decode(comment_signature)
                .ok_or_else(|| malformed("its fourth line is not a signature"))?,
        })
    }

    /// The same in the crate's type, from a text that is known to be well formed.
    fn minisign(&self) -> minisign::Result<minisign::SignatureBox> {
        minisign::SignatureBox::from_string(&format!(
            "{UNTRUSTED}\n{}\n{TRUSTED}{}\n{}\n",
            STANDARD.encode(self.signature),
            self.comment,
            STANDARD.encode(self.comment_signature),
        ))
    }
}

fn decode<const N: usize>(line: &str) -> Option<[u8; N]> {
    STANDARD.decode(line).ok()?.try_into().ok()
}

/// The base64 line of a key: alone, or below an untrusted comment.
fn base64_line(text: &str) -> Option<&str> {
    if text.len() > KEY_TEXT_BYTES_MAX {
        return None;
    }
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    match lines[..] {
        [line] => Some(line),
        [comment, line] if comment.starts_with(UNTRUSTED.trim_end()) => Some(line),
        _ => None,
    }
}

/// Bytes 2 to 10 of a key or a signature are a little-endian number that minisign prints in hex.
fn key_id(bytes: &[u8]) -> String {
    bytes[2..10].iter().rev().map(|b| format!("{b:02X}")).collect()
}

fn malformed(why: &str) -> Error {
    Error::damaged(format!("the signature is malformed: {why}"))
}

fn not_a_signing_key() -> Error {
    Error::failed("not a minisign secret key")
}

fn failed(what: &'static str) -> impl Fn(minisign::PError) -> Error {
    move |e| Error::failed(format!("cannot {what}")).because(e)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::*;
    use crate::error::Kind;

    // Made by stock minisign 0.11 for these tests and published with them: never to be used.
    const STOCK_PUBLIC: &str = "untrusted comment: minisign public key 64EEFE08C95540D6\nRWTWQFXJCP7uZHrJ1lHPfJAcoWkfBauO18djqvMgEUTZNKKXepvQiAvL\n";
    const STOCK_SECRET: &str = "untrusted comment: minisign encrypted secret key\nRWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA1kBVyQj+7mSqL0kHz9eySliBDFnkYSTqzIlNsM5Bu9hF/G88+viI0HrJ1lHPfJAcoWkfBauO18djqvMgEUTZNKKXepvQiAvLAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
    const STOCK_SECRET_WITH_PASSWORD: &str = "untrusted comment: minisign encrypted secret key\nRWRTY0IyqsRw0yq9j6WUDOvWqnQMVuMO+n2ju66AE8n0NS6nfkUAAAACAAAAAAAAAEAAAAAAdJQfhszYbM1mqhkwimt2iHk9A1g9f3R8Ok840nxmtgGOKKBy+ngfmrpR2Zq8UC6xP297wyB+Y1GzD/6aIZBUp/2LUWKI0CKlN7CqrV+AyOt8k3TJWmjJzFojunhfxoEk3inz5tuyoLY=\n";
    const MESSAGE: &[u8] = b"lifeboat test vector\n";
    const COMMENT: &str = "lifeboat vm1 20261121T201500Z-3f9c02de";
    const STOCK_SIGNATURE: &str = "untrusted comment: signature from minisign secret key\nRUTWQFXJCP7uZIpjyH0MmB9NVxmXuxCeCxuqmOHklFwSeaNy4E1kSHmXs5dIznyTaaDNo+osmylkpMQnL+KdRWpozkz1Ypivuws=\ntrusted comment: lifeboat vm1 20261121T201500Z-3f9c02de\n74uVsmxqI8R+NC4Gqh6D+GwwZveSI835Nw3nLSL7au3Mj9rdKyfxxt3pZHbIJFFS++2PP6wKvRH9/Q1ag9TRCg==\n";
    const STOCK_LEGACY_SIGNATURE: &str = "untrusted comment: signature from minisign secret key\nRWTWQFXJCP7uZGK5d3ebpLhFoMO0b+xwSmhN9qkb9GLnzPfQ15wTbs2k/Cslg6dfwVMAOivfsVvfsdc7KzlBzxVJG2U0R049+A8=\ntrusted comment: lifeboat vm1 20261121T201500Z-3f9c02de\nUBlj1CrF5XK9CQ94wTt7dysBvtP4KyaihpaC8NZBkbQG++DKsdr0kzXZgp0wPMf8fUBio9X3vgVGDhAzUexNAw==\n";

    fn stock() -> PublicKey {
        PublicKey::from_text(STOCK_PUBLIC).unwrap()
    }

    fn refusal(signature: &str) -> String {
        let error = verify(&stock(), MESSAGE, signature, COMMENT).unwrap_err();
        assert_eq!(error.kind(), Kind::Damaged);
        error.to_string()
    }

    #[test]
    fn stock_minisign_is_understood() {
        verify(&stock(), MESSAGE, STOCK_SIGNATURE, COMMENT).unwrap();
        let key = SigningKey::from_text(STOCK_SECRET).unwrap();
        assert_eq!(key.public(), stock());
        assert_eq!(key.public().to_text(), STOCK_PUBLIC);
        assert_eq!(key.public().key_id(), "64EEFE08C95540D6");
        verify(&stock(), b"other", &sign(&key, b"other", "x y").unwrap(), "x y").unwrap();
    }

    #[test]
    fn keys_survive_their_texts() {
        let key = SigningKey::generate().unwrap();
        let text = key.to_text();
        let line = key.to_base64();
        for text in [text.expose_secret(), line.expose_secret()] {
            assert_eq!(SigningKey::from_text(text).unwrap().public(), key.public());
        }
        for text in [key.public().to_text(), key.public().to_base64()] {
            assert_eq!(PublicKey::from_text(&text).unwrap(), key.public());
        }
        assert!(text.expose_secret().ends_with(&format!("\n{}\n", line.expose_secret())));
        assert_eq!(format!("{key:?}"), format!("SigningKey({})", key.public().key_id()));
    }

    #[test]
    fn refusals_say_which() {
        let altered = STOCK_SIGNATURE.replace("3f9c02de", "3f9c02df");
        assert_eq!(refusal(&altered), "the signature's trusted comment was altered");
        assert!(refusal(STOCK_LEGACY_SIGNATURE).contains("legacy"));

        let key = SigningKey::from_text(STOCK_SECRET).unwrap();
        let elsewhere = sign(&key, MESSAGE, "lifeboat vm2 x").unwrap();
        assert_eq!(refusal(&elsewhere), format!("the signature is for `lifeboat vm2 x`, not for `{COMMENT}`"));
        let other_data = sign(&key, b"other", COMMENT).unwrap();
        assert_eq!(refusal(&other_data), "the signature does not match what it should sign");
        let other_key = SigningKey::generate().unwrap();
        let foreign = sign(&other_key, MESSAGE, COMMENT).unwrap();
        let id = other_key.public().key_id();
        assert_eq!(refusal(&foreign), format!("the signature is by another key: {id}, not 64EEFE08C95540D6"));
    }

    #[test]
    fn a_stolen_key_id_does_not_help() {
        let mut forged = SigningKey::generate().unwrap();
        forged.0[54..62].copy_from_slice(&stock().0[2..10]);
        let signature = sign(&forged, MESSAGE, COMMENT).unwrap();
        assert_eq!(refusal(&signature), "the signature does not match what it should sign");
    }

    #[test]
    fn malformed_signatures_are_refused() {
        let lines: Vec<&str> = STOCK_SIGNATURE.lines().collect();
        let with = |i: usize, line: &str| {
            let mut lines = lines.clone();
            lines[i] = line;
            lines.join("\n")
        };
        let cases = [
            String::new(),
            lines[..3].join("\n"),
            format!("{STOCK_SIGNATURE}more\n"),
            with(0, "comment"),
            with(1, ""),
            with(1, &lines[1][..96]),
            with(1, "####"),
            with(2, "trusted"),
            with(3, ""),
            // The crate alone would panic here.
            with(3, "AAAA"),
            with(3, &format!("{}AAAA", &lines[3][..84])),
            with(1, &format!("Zz{}", &lines[1][2..])),
            format!("{STOCK_SIGNATURE}{}", "x".repeat(SIGNATURE_TEXT_BYTES_MAX)),
        ];
        for case in cases {
            assert!(refusal(&case).starts_with("the signature is malformed"), "{case}");
        }
        // Line ends of another system are no damage.
        verify(&stock(), MESSAGE, &STOCK_SIGNATURE.replace('\n', "\r\n"), COMMENT).unwrap();
        // Stock minisign would accept this one; the comment is not exactly the expected one.
        refusal(&STOCK_SIGNATURE.replace("3f9c02de\n", "3f9c02de \n"));
    }

    #[test]
    fn secret_keys_that_cannot_sign_are_refused() {
        let error = SigningKey::from_text(STOCK_SECRET_WITH_PASSWORD).unwrap_err();
        assert_eq!(error.to_string(), "the signing key is protected by a password");
        assert!(error.advice().unwrap().contains("minisign -C -W"));
        assert_eq!(SigningKey::from_text(STOCK_PUBLIC).unwrap_err().to_string(), "not a minisign secret key");
        assert!(PublicKey::from_text(STOCK_SECRET).is_err());

        // One flipped bit in the key id, either half or the checksum.
        for at in [54, 62, 94, 126] {
            let mut key = SigningKey::generate().unwrap();
            key.0[at] ^= 1;
            let error = SigningKey::from_text(key.to_text().expose_secret()).unwrap_err();
            assert_eq!(error.to_string(), "the signing key is damaged", "{at}");
        }
        // Stock keys have no checksum, but the halves must still belong together.
        for at in [62, 94] {
            let mut key = SigningKey::from_text(STOCK_SECRET).unwrap();
            key.0[at] ^= 1;
            assert!(SigningKey::from_text(key.to_text().expose_secret()).is_err(), "{at}");
        }
    }

    #[test]
    fn comments_that_would_break_the_text_are_not_signed() {
        let key = SigningKey::generate().unwrap();
        for bad in ["a\nb", " a", "a ", "a\u{7}", &"x".repeat(9000)] {
            assert!(sign(&key, b"", bad).is_err());
        }
        verify(&key.public(), b"", &sign(&key, b"", "").unwrap(), "").unwrap();
    }

    proptest! {
        #[test]
        fn noise_is_refused_without_panic(text in any::<String>(), bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let noise = String::from_utf8_lossy(&bytes);
            let encoded = STANDARD.encode(&bytes);
            for text in [text.as_str(), &noise, &encoded] {
                prop_assert!(verify(&stock(), MESSAGE, text, COMMENT).is_err());
                prop_assert!(SigningKey::from_text(text).is_err());
                let _key = PublicKey::from_text(text);
            }
        }

        #[test]
        fn well_formed_noise_is_refused_without_panic(
            signature in any::<[u8; 32]>(), s in any::<[u8; 32]>(), comment in any::<String>(), key in any::<[u8; 32]>(),
        ) {
            let mut bytes = [0; SIGNATURE_BYTES];
            bytes[..2].copy_from_slice(PREHASHED);
            bytes[10..42].copy_from_slice(&signature);
            bytes[42..].copy_from_slice(&s);
            bytes[73] &= 0x0f;
            let text = format!("{UNTRUSTED}\n{}\n{TRUSTED}{comment}\n{}\n", STANDARD.encode(bytes), STANDARD.encode(&bytes[10..]));
            let mut public = [0; PUBLIC_BYTES];
            public[..2].copy_from_slice(KEY_ALGORITHM);
            public[10..].copy_from_slice(&key);
            prop_assert!(verify(&PublicKey(public), MESSAGE, &text, &comment).is_err());
        }

        #[test]
        fn a_changed_byte_is_noticed(at in 0..STOCK_SIGNATURE.len(), to in 0x20..0x7fu8) {
            let mut bytes = STOCK_SIGNATURE.as_bytes().to_vec();
            // The untrusted comment is nobody's business.
            let signed = at > STOCK_SIGNATURE.find('\n').unwrap();
            let changed = signed && bytes[at] != to && at + 1 < bytes.len();
            bytes[at] = to;
            let text = String::from_utf8(bytes).unwrap();
            if changed {
                prop_assert!(verify(&stock(), MESSAGE, &text, COMMENT).is_err());
            }
        }
    }
}
