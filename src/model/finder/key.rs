//! What the name of a setting says about its value.

/// Parts of a key after which the value is about a secret, but none.
const HARMLESS: &str = "\
    hash hashed digest checksum id ids url uri urls endpoint type types name names count counts max min len \
    length size path paths file files filename dir public pub pubkey publishable limit limits expires expiry \
    expiration expire at ttl usage used total version regex regexp pattern format header headers prefix suffix \
    label title placeholder field column schema index kind state status error message budget window num \
    completion context algorithm alg method mode policy role scheme class next page cursor pagination \
    continuation continue sync idempotency cache partition sort foreign primary tokenizer tokenize vocab bos \
    eos pad unk fingerprint hint help description doc docs text event keyboard keycode keyword keywords csrf \
    xsrf site sitekey trace span lookup author authors authority signature sig nonce salt iv fixture mock test \
    tests testing example sample dummy fake integrity sha256 sha1 sha512 md5 etag commit revision ref \
    recipient recipients bytes bits i18n locale lang";

/// Words that make a `key` a secret one.
const QUALIFIERS: &str = "\
    api access secret private priv signing sign encryption encrypt crypt auth account storage shared master \
    app application deploy service admin webhook hmac client license subscription consumer bot function host \
    jwt session cookie rapidapi user server role aes gpg ssh rsa wallet integration write ingest project org \
    team developer functions";

/// What a key says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum Says {
    /// Nothing about secrets.
    Nothing,
    /// That the value only has to do with a secret, like its digest or its name.
    Harmless,
    /// That the value is a secret.
    Secret(Promise),
}

/// What a key promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum Promise {
    /// Something that a person may have chosen.
    Password,
    /// Something that a program made.
    Token,
    /// An `Authorization` header, or the `auth` of a registry: a user's name and password in base64.
    Login,
}

/// What a key says, by its words.
pub(in crate::model) fn says(key: &[u8]) -> Says {
    let words = words(key);
    if words.iter().any(|w| is_in(HARMLESS, w)) {
        return Says::Harmless;
    }
    let mut said = Says::Nothing;
    for (at, word) in words.iter().enumerate() {
        let word = word.as_str();
        let before = at.checked_sub(1).map_or("", |at| words[at].as_str());
        let promise = match word {
            "pass" | "pwd" | "passwd" | "passphrase" | "passcode" => Promise::Password,
            "secretary" | "secrets" | "passwords" => continue,
            "token" | "bearer" | "credential" | "credentials" => Promise::Token,
            "auth" | "authorization" => Promise::Login,
            "key" if is_in(QUALIFIERS, before) => Promise::Token,
            _ if word.contains("passw") || word.ends_with("pwd") => Promise::Password,
            _ if word.ends_with("secret") || word.starts_with("secret") || word.ends_with("token") => Promise::Token,
            _ if word.strip_suffix("key").is_some_and(ends_qualified) => Promise::Token,
            _ => continue,
        };
        // `auth_token` is a token: what is said last counts.
        said = Says::Secret(promise);
    }
    said
}

fn is_in(list: &str, word: &str) -> bool {
    list.split(' ').any(|w| w == word)
}

/// `apikey` in one word, and `storageaccountkey`.
fn ends_qualified(prefix: &str) -> bool {
    QUALIFIERS.split(' ').any(|q| prefix.ends_with(q))
}

/// The words of a key in lower case: split at marks and where a small letter meets a capital.
fn words(key: &[u8]) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut last = b'_';
    for byte in key.iter().copied() {
        if byte.is_ascii_alphanumeric() {
            if byte.is_ascii_uppercase() && (last.is_ascii_lowercase() || last.is_ascii_digit()) {
                words.push(String::new());
            }
            if let Some(word) = words.last_mut() {
                word.push(char::from(byte.to_ascii_lowercase()));
            }
        } else {
            words.push(String::new());
        }
        last = byte;
    }
    words.retain(|w| !w.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_promise_what_their_words_say() {
        for key in [
            "API_KEY",
            "apiKey",
            "x-api-key",
            "SECRET",
            "client_secret",
            "clientSecret",
            "DB_PASSWORD",
            "dbpassword",
            "smtp_pass",
            "access_token",
            "accessToken",
            "authtoken",
            "--api-key",
            "_authToken",
            "aws_secret_access_key",
            "spring.datasource.password",
            "PGPASSWORD",
            "SECRET_KEY_BASE",
            "signingKey",
            "storageAccountKey",
            "nAPI_KEY",
        ] {
            assert!(matches!(says(key.as_bytes()), Says::Secret(_)), "{key}");
        }
        for key in [
            "key",
            "monkey",
            "keyboard",
            "cache_key",
            "max_tokens",
            "token_type",
            "token_url",
            "password_hash",
            "public_key",
            "secretary",
            "compass",
            "author",
            "authority",
            "api_key_id",
            "next_page_token",
            "foreign_key",
            "tokens",
            "secrets",
            "tokenizer",
            "csrf_token",
            "test_token",
        ] {
            assert!(!matches!(says(key.as_bytes()), Says::Secret(_)), "{key}");
        }
    }
}
