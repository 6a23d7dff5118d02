//! Keeps the last plans as files, so that a decision can be made again and looked at (`kaito-scheduler replay`).
//!
//! Never in the way of the plan itself: a file that cannot be written is reported and forgotten.

use std::path::{Path, PathBuf};

use kaito_placement::plan::Plan;
use kaito_placement::replay::{Evicting, Recording};
use kaito_placement::snapshot::Snapshot;

/// Who recorded it.
pub const RECORDED_BY: &str = concat!("kaito-scheduler/v", env!("CARGO_PKG_VERSION"));

/// Where to record, and how much.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory; made if it is not there.
    pub directory: PathBuf,
    /// Most recordings that are kept; the oldest goes first.
    pub keep: usize,
}

/// Writes recordings, one for every plan that differs from the last one.
#[derive(Debug)]
pub struct Recorder {
    settings: Settings,
    last: Option<Plan>,
    sequence: u32,
}

impl Recorder {
    /// A recorder that has written nothing yet.
    #[must_use]
    pub const fn new(settings: Settings) -> Self {
        Self {
            settings,
            last: None,
            sequence: 0,
        }
    }

    /// Records `plan`, unless it says the same as the last one and nobody is evicted.
    pub async fn record(&mut self, snapshot: &Snapshot, plan: &Plan, evicting: Option<&Evicting>) {
        if self.last.as_ref() == Some(plan) && evicting.is_none() {
            return;
        }
        self.last = Some(plan.clone());
        self.sequence = self.sequence.wrapping_add(1);
        let name = format!(
            "plan-{:012}-{:010}.json",
            snapshot.now_seconds, self.sequence
        );
        let path = self.settings.directory.join(name);
        let mut recording = Recording::new(snapshot.clone(), plan.clone(), RECORDED_BY);
        recording.evicting = evicting.cloned();
        if let Err(error) = self.write(&path, &recording).await {
            tracing::warn!(path = %path.display(), %error, "the plan was not recorded");
        }
    }

    async fn write(&self, path: &Path, recording: &Recording) -> std::io::Result<()> {
        let directory = &self.settings.directory;
        tokio::fs::create_dir_all(directory).await?;
        let text = serde_json::to_vec(recording)?;
        // Whoever looks while it is being written must not find half of it.
        let partial = path.with_extension("partial");
        tokio::fs::write(&partial, text).await?;
        tokio::fs::rename(&partial, path).await?;
        let mut kept = Vec::new();
        let mut entries = tokio::fs::read_dir(directory).await?;
        while let Some(entry) = entries.next_entry().await? {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("plan-") && name.ends_with(".json") {
                kept.push(name);
            }
        }
        kept.sort();
        let surplus = kept.len().saturating_sub(self.settings.keep.max(1));
        for name in kept.into_iter().take(surplus) {
            tokio::fs::remove_file(directory.join(name)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use kaito_placement::planner;
    use kaito_placement::snapshot::{Demand, Snapshot};

    use super::{Recorder, Recording, Settings};

    fn snapshot(now_seconds: i64) -> Snapshot {
        Snapshot {
            now_seconds,
            demands: vec![Demand {
                name: format!("default/w{now_seconds}"),
                members: vec!["w-0".to_owned()],
                ..Demand::default()
            }],
            ..Snapshot::default()
        }
    }

    #[tokio::test]
    async fn the_last_plans_are_kept_and_say_the_same_when_replayed() {
        let name = format!("kaito-recordings-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let settings = Settings {
            directory: directory.clone(),
            keep: 2,
        };
        let mut recorder = Recorder::new(settings);
        for now in [1, 2, 2, 3] {
            let snapshot = snapshot(now);
            let plan = planner::plan(&snapshot);
            recorder.record(&snapshot, &plan, None).await;
        }
        let mut texts = Vec::new();
        for entry in std::fs::read_dir(&directory).unwrap() {
            texts.push(std::fs::read_to_string(entry.unwrap().path()).unwrap());
        }
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(texts.len(), 2);
        for text in texts {
            let recording: Recording = serde_json::from_str(&text).unwrap();
            assert!(recording.snapshot.now_seconds > 1);
            assert!(recording.replay().unwrap().is_same());
        }
    }
}
