//! The name of a series on the store: whoever puts its first verification key has it.

use crate::error::{Error, Result};
use crate::host::store::Store;
use crate::model::store_key::public_key;
use crate::stream::sign::PublicKey;

/// What a person gets who finds only the bucket.
const RECOVERY: &str = include_str!("../../RECOVERY.md");
/// The restore that needs nothing but stock tools.
const RECOVER_SH: &str = include_str!("../../recover.sh");

pub(super) fn is_taken(series: &str) -> Error {
    Error::failed(format!("the series {series} is taken on this store by another key"))
        .hint("choose another --name, or continue that series with `lifeboat init --kit KIT`")
}

/// Whether the name of the series belongs to another key.
pub(super) fn taken(store: &Store, series: &str, public: &PublicKey) -> Result<bool> {
    let there = match store.get_if_there(&public_key(series, 1), 4096) {
        // A credential that may only add cannot look; the create-only put then decides.
        Err(e) if Store::is_refusal(&e) => None,
        other => other?,
    };
    Ok(there.is_some_and(|there| there != public.to_text().as_bytes()))
}

/// Puts the verification key where it claims the name of the series, and what a finder of the store needs.
pub(super) fn claim(store: &Store, series: &str, public: &PublicKey) -> Result<()> {
    let key = public_key(series, 1);
    let put = store.put(&key, public.to_text().into_bytes());
    if put.is_err() && taken(store, series, public)? {
        return Err(is_taken(series));
    }
    put?;
    put_documents(store)
}

/// Puts what a finder of the store needs.
///
/// # Errors
/// When it cannot be written.
pub(in crate::commands) fn put_documents(store: &Store) -> Result<()> {
    for (name, text) in [("RECOVERY.md", RECOVERY), ("recover.sh", RECOVER_SH)] {
        // Another version of lifeboat may have left its own; both describe the same format.
        store.put_if_absent(name, text.as_bytes().to_vec())?;
    }
    Ok(())
}
