//! The figures of `status` in the text format of Prometheus, for the textfile collector of its node exporter.

use super::mirror::Standing;
use super::status::{Done, Row};

/// One figure: its name, what it means, and its value for a series, or for another `Of`.
type Gauge<Of = Row> = (&'static str, &'static str, fn(&Of) -> Option<f64>);

/// Times and sizes stay far below 2^53, where a float still counts one by one.
#[allow(clippy::cast_precision_loss, reason = "see above")]
const GAUGES: &[Gauge] = &[
    ("lifeboat_snapshot_timestamp_seconds", "When the newest snapshot that can be restored was made.", |r| {
        r.snapshot.as_ref().map(|n| n.unix as f64)
    }),
    ("lifeboat_bundle_timestamp_seconds", "When the newest secrets bundle was made.", |r| {
        r.bundle.as_ref().map(|n| n.unix as f64)
    }),
    ("lifeboat_drill_timestamp_seconds", "When the newest drill passed.", |r| r.drill.as_ref().map(|d| d.unix as f64)),
    ("lifeboat_drill_duration_seconds", "How long the restore of that drill took.", |r| r.drill.as_ref()?.seconds),
    ("lifeboat_drill_snapshot_age_seconds", "How old the snapshot of that drill was.", |r| {
        r.drill.as_ref()?.age.map(|age| age as f64)
    }),
    ("lifeboat_snapshots", "Snapshots on the store.", |r| Some(r.snapshots as f64)),
    ("lifeboat_bundles", "Secrets bundles on the store.", |r| Some(r.bundles as f64)),
    ("lifeboat_stored_bytes", "Bytes on the store.", |r| Some(r.stored as f64)),
    ("lifeboat_stored_week_bytes", "Bytes on the store of the last seven days.", |r| Some(r.stored_week as f64)),
    ("lifeboat_incomplete_runs", "Archives without a commit.", |r| Some(r.incomplete as f64)),
    ("lifeboat_suspicious", "Whether the newest snapshot is marked as suspicious.", |r| {
        Some(f64::from(u8::from(r.snapshot.as_ref().is_some_and(|n| n.suspicious))))
    }),
    ("lifeboat_leaking_places", "Places of the state with a value of a secret, since the last full.", |r| {
        r.leaks.map(|n| n as f64)
    }),
    ("lifeboat_damage", "Signs that somebody tampered with the store.", |r| Some(r.damage.len() as f64)),
    (
        "lifeboat_too_old",
        "Whether the newest snapshot or drill is older than configured, or a mirror behind for as long.",
        |r| Some(f64::from(u8::from(!r.late.is_empty()))),
    ),
    ("lifeboat_verified", "Whether signatures were checked for these figures.", |r| {
        Some(f64::from(u8::from(r.verified)))
    }),
];

/// The same of a mirror. What is behind since an hour ago may be a copy under way.
#[allow(clippy::cast_precision_loss, reason = "see above")]
const MIRRORS: &[Gauge<Standing>] = &[
    ("lifeboat_mirror_up_to_date_timestamp_seconds", "When the mirror last had everything.", |m| {
        m.up_to_date_unix.map(|at| at as f64)
    }),
    ("lifeboat_mirror_behind", "Whether the mirror lacks anything, or nothing was ever copied to it.", |m| {
        Some(f64::from(u8::from(m.why.is_some())))
    }),
    ("lifeboat_mirror_behind_since_timestamp_seconds", "Since when the mirror lacks anything.", |m| {
        m.behind_since_unix.map(|at| at as f64)
    }),
];

/// The whole file. Names of series have no character that would need a backslash.
pub fn text(done: &Done) -> String {
    let mut out = String::new();
    for (name, help, value) in GAUGES {
        let of = |row: &Row| Some((format!("series=\"{}\"", row.series), value(row)?));
        gauge(&mut out, name, help, done.series.iter().filter_map(of).collect());
    }
    for (name, help, value) in MIRRORS {
        let all = done.series.iter().flat_map(|row| row.mirrors.iter().map(move |mirror| (row, mirror)));
        let of = |(row, mirror): (&Row, &Standing)| {
            let labels = format!("series=\"{}\",mirror=\"{}\"", row.series, escaped(&mirror.store));
            Some((labels, value(mirror)?))
        };
        gauge(&mut out, name, help, all.filter_map(of).collect());
    }
    let taken = vec![(String::new(), done.now.to_string())];
    gauge(&mut out, "lifeboat_status_timestamp_seconds", "When these figures were taken.", taken);
    out
}

/// One figure with its values by labels; one that nobody has is left out.
fn gauge(out: &mut String, name: &str, help: &str, values: Vec<(String, impl std::fmt::Display)>) {
    if values.is_empty() {
        return;
    }
    out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n"));
    for (labels, value) in values {
        let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
        out.push_str(&format!("{name}{labels} {value}\n"));
    }
}

/// What stands between quotes.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
