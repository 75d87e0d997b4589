//! Receipts of drills on a store: which of them verify, and the newest.

use bytes::Bytes;

use super::{Event, Events};
use crate::error::{Error, Result};
use crate::host::store::Store;
use crate::model::commit::SIGNATURE_BYTES_MAX;
use crate::model::path::printable;
use crate::model::receipt::{self, RECEIPT_BYTES_MAX, Receipt};
use crate::model::store_key::SnapshotId;
use crate::stream::sign::{self, SigningKey};
use crate::stream::signers::Signers;

/// The newest receipt of a series that verifies; with `passed` only of a drill that passed. A drill from the future of
/// `now`, in Unix seconds, is passed over: a clock that jumped must not silence the alarm.
///
/// # Errors
/// When the store cannot be listed or read.
pub fn newest(
    store: &Store,
    series: &str,
    signers: &Signers,
    now: i64,
    passed: bool,
    events: &mut Events<'_>,
) -> Result<Option<Receipt>> {
    let mut there: Vec<(SnapshotId, SnapshotId)> = names(store, series)?;
    there.retain(|(_, drill)| drill.unix_seconds() <= now);
    there.sort_by(|a, b| a.1.cmp(&b.1));
    for (snapshot, drill) in there.into_iter().rev() {
        match signed(store, series, signers, &snapshot, &drill).map(|(receipt, ..)| receipt) {
            Ok(receipt) if receipt.passed || !passed => return Ok(Some(receipt)),
            Ok(_) => {}
            Err(e) => {
                let name = format!("{}/{drill}", receipt::directory(series, &snapshot));
                let why = printable(e.to_string().as_bytes());
                events(Event::Warning(format!("the receipt {name} does not count: {why}")));
            }
        }
    }
    Ok(None)
}

/// Snapshot and drill of each receipt that has a name, signed or not.
///
/// # Errors
/// When the store cannot be listed.
pub fn names(store: &Store, series: &str) -> Result<Vec<(SnapshotId, SnapshotId)>> {
    let listed = store.list(&format!("drills/{series}"))?;
    let mut out = Vec::new();
    for one in listed.iter().filter(|l| !l.key.ends_with(".minisig")) {
        if let Some((_, snapshot, drill)) = receipt::parse_key(&one.key).filter(|(of, _, _)| *of == series) {
            out.push((snapshot, drill));
        }
    }
    Ok(out)
}

/// A receipt that verifies, with its text and its signature.
///
/// # Errors
/// [`Kind::Damaged`](crate::Kind::Damaged) when it does not verify or says something else than its name, else when the
/// store cannot be read.
pub fn signed(
    store: &Store,
    series: &str,
    signers: &Signers,
    snapshot: &SnapshotId,
    drill: &SnapshotId,
) -> Result<(Receipt, Bytes, Bytes)> {
    let name = format!("{}/{drill}", receipt::directory(series, snapshot));
    let bytes = store.get(&name, RECEIPT_BYTES_MAX)?;
    let signature = store.get_if_there(&format!("{name}.minisig"), SIGNATURE_BYTES_MAX)?;
    let signature = signature.ok_or_else(|| Error::damaged("it is not signed"))?;
    let text = std::str::from_utf8(&signature).map_err(|_| Error::damaged("its signature is malformed"))?;
    let comment = Receipt::trusted_comment(series, snapshot, drill);
    signers.verify_at(drill.unix_seconds(), &bytes, text, &comment)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Error::damaged("it is not text"))?;
    let receipt = Receipt::parse(text)?;
    if receipt.series != series || receipt.snapshot.0 != *snapshot || receipt.drill != *drill {
        return Err(Error::damaged("it says something else than its name"));
    }
    Ok((receipt, bytes, signature))
}

/// Signs a receipt and puts it on the store: the signature first, so that a receipt without one is no crash's doing.
///
/// # Errors
/// When it cannot be signed or put.
pub fn put(store: &Store, key: &SigningKey, receipt: &Receipt) -> Result<()> {
    let text = receipt.render();
    let comment = Receipt::trusted_comment(&receipt.series, &receipt.snapshot.0, &receipt.drill);
    let signature = sign::sign(key, text.as_bytes(), &comment)?;
    sign::verify(&key.public(), text.as_bytes(), &signature, &comment)?;
    store.put(&format!("{}.minisig", receipt.key()), signature)?;
    store.put(&receipt.key(), text)?;
    Ok(())
}
