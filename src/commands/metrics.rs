//! The figures of `status` in the text format of Prometheus, for the textfile collector of its node exporter.

use std::fmt::Write as _;

use super::status::{Done, Row};

/// One figure: its name, what it means, and its value for a series.
type Gauge = (&'static str, &'static str, fn(&Row) -> Option<f64>);

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
    ("lifeboat_too_old", "Whether the newest snapshot or drill is older than configured.", |r| {
        Some(f64::from(u8::from(!r.late.is_empty())))
    }),
    ("lifeboat_verified", "Whether signatures were checked for these figures.", |r| {
        Some(f64::from(u8::from(r.verified)))
    }),
];

/// The whole file. Names of series have no character that would need a backslash.
pub fn text(done: &Done) -> String {
    let mut out = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        out.write_fmt(text).expect("writing to a String cannot fail");
        out.push('\n');
    };
    for (name, help, value) in GAUGES {
        let values: Vec<(&str, f64)> =
            done.series.iter().filter_map(|row| Some((row.series.as_str(), value(row)?))).collect();
        if values.is_empty() {
            continue;
        }
        line(format_args!("# HELP {name} {help}"));
        line(format_args!("# TYPE {name} gauge"));
        for (series, value) in values {
            line(format_args!("{name}{{series=\"{series}\"}} {value}"));
        }
    }
    line(format_args!("# HELP lifeboat_status_timestamp_seconds When these figures were taken."));
    line(format_args!("# TYPE lifeboat_status_timestamp_seconds gauge"));
    line(format_args!("lifeboat_status_timestamp_seconds {}", done.now));
    out
}
