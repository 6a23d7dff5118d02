//! `replay`: makes a recorded plan again and says where it differs.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use kaito_placement::replay::{Recording, Replayed};

/// Reads and replays a recording: what to tell, and whether the same sound plan came of it.
///
/// # Errors
/// A file that cannot be read, or is no recording of a known format.
pub fn replay(path: &Path) -> anyhow::Result<(String, bool)> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("reading the recording {}", path.display()))?;
    let recording: Recording = serde_json::from_str(&text)
        .with_context(|| format!("{} is no recording of a plan", path.display()))?;
    let replayed = recording
        .replay()
        .with_context(|| format!("replaying {}", path.display()))?;
    Ok((report(&recording, &replayed), replayed.is_same()))
}

fn report(recording: &Recording, replayed: &Replayed) -> String {
    let (snapshot, plan) = (&recording.snapshot, &replayed.plan);
    let mut text = format!(
        "recorded by {} at {} s: {} nodes, {} Workspaces waiting\n\
         planned again: {} placed, {} nodes ordered, {} given back, {} waiting\n",
        recording.recorded_by,
        snapshot.now_seconds,
        snapshot.nodes.len(),
        snapshot.demands.len(),
        plan.assignments.len(),
        plan.purchases.len(),
        plan.releases.len(),
        plan.waiting.len(),
    );
    if recording.evicting.is_some() {
        let preemptions = replayed.evictions.preemptions.iter();
        let victims: usize = preemptions.map(|one| one.victims.len()).sum();
        let consolidations = replayed.evictions.consolidations.iter();
        let moves: usize = consolidations.map(|one| one.moves.len()).sum();
        let _ = writeln!(
            text,
            "evictions planned again: {victims} workloads leave for others, {moves} pods move"
        );
    }
    for violation in &replayed.recorded_violations {
        let _ = writeln!(text, "the recorded plan is not sound: {violation}");
    }
    for violation in &replayed.violations {
        let _ = writeln!(text, "the plan made now is not sound: {violation}");
    }
    for line in &replayed.differences {
        let _ = writeln!(text, "{line}");
    }
    if replayed.is_same() {
        text.push_str("the same plan, bit for bit, and the checker finds nothing wrong with it\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use kaito_placement::eviction::{self, Occupants, Running, RunningMember};
    use kaito_placement::planner;
    use kaito_placement::replay::{Evicting, Recording};
    use kaito_placement::snapshot::{Demand, Node, Resources, Snapshot};

    use super::report;

    fn recording() -> Recording {
        let snapshot = Snapshot {
            demands: vec![Demand {
                name: "default/phi".to_owned(),
                members: vec!["phi-0".to_owned()],
                ..Demand::default()
            }],
            ..Snapshot::default()
        };
        let plan = planner::plan(&snapshot);
        Recording::new(snapshot, plan, "test")
    }

    #[test]
    fn an_unchanged_recording_gives_the_same_plan() {
        let recording = recording();
        let replayed = recording.replay().unwrap();
        assert!(replayed.is_same());
        assert!(report(&recording, &replayed).contains("the same plan, bit for bit"));
    }

    /// One node, full; somebody more important waits.
    fn recording_with_a_victim() -> Recording {
        let mut recording = recording();
        let one_gpu = Resources {
            gpus: 1,
            ..Resources::default()
        };
        recording.snapshot.nodes = vec![Node {
            name: "n".to_owned(),
            available: true,
            allocatable: one_gpu,
            used: one_gpu,
            ..Node::default()
        }];
        recording.snapshot.demands[0].per_member = one_gpu;
        recording.snapshot.demands[0].priority = 1;
        recording.plan = planner::plan(&recording.snapshot);
        let occupants = Occupants {
            running: vec![Running {
                name: "default/old".to_owned(),
                preemptible: true,
                per_member: one_gpu,
                members: vec![RunningMember {
                    pod: "old-0".to_owned(),
                    node: "n".to_owned(),
                }],
                ..Running::default()
            }],
            ..Occupants::default()
        };
        recording.evicting = Some(Evicting {
            evictions: eviction::plan(&recording.snapshot, &recording.plan, &occupants),
            occupants,
        });
        recording
    }

    #[test]
    fn evictions_are_planned_again_and_compared_too() {
        let mut recording = recording_with_a_victim();
        let replayed = recording.replay().unwrap();
        let text = report(&recording, &replayed);
        assert!(replayed.is_same(), "{text}");
        assert!(text.contains("1 workloads leave for others"), "{text}");
        let evicting = recording.evicting.as_mut().unwrap();
        evicting.evictions.preemptions[0].victims.clear();
        let replayed = recording.replay().unwrap();
        assert!(!replayed.is_same());
        let text = report(&recording, &replayed);
        assert!(text.contains("the recorded plan is not sound"), "{text}");
        assert!(
            text.contains("+ default/phi: phi-0 on n after default/old"),
            "{text}"
        );
    }

    #[test]
    fn a_recording_that_was_tampered_with_is_told_apart() {
        let mut recording = recording();
        recording.plan.waiting[0].message = "no reason".to_owned();
        let replayed = recording.replay().unwrap();
        let text = report(&recording, &replayed);
        assert!(!replayed.is_same());
        assert!(
            text.contains("- default/phi: waits") && text.contains("no reason"),
            "{text}"
        );
    }

    #[test]
    fn a_recording_of_another_format_is_refused_with_its_name() {
        let mut recording = recording();
        recording.format = "v9".to_owned();
        assert!(
            recording
                .replay()
                .unwrap_err()
                .to_string()
                .contains("\"v9\"")
        );
    }
}
