//! How far a training is, read from what the trainer writes: one JSON object a line, told apart by `kaito`.
//!
//! Pure. Lines that are none of these are passed over: libraries write to the same log.

use serde::{Deserialize, Serialize};

use crate::output::age;

/// The last that a trainer told.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Training {
    /// Steps done.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Loss of the last step that was logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Loss over the rows held out, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation_loss: Option<f64>,
    /// Tokens trained on per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// Seconds until the last step, by the trainer's estimate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<i64>,
    /// The step that this run went on from, if it was cut off before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumed_from_step: Option<u64>,
    /// Whether the adapter is written.
    pub done: bool,
}

/// A line of the trainer, as far as it is of use here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Line {
    kaito: String,
    step: u64,
    steps: u64,
    loss: Option<f64>,
    last_loss: Option<f64>,
    evaluation_loss: Option<f64>,
    tokens_per_second: Option<f64>,
    seconds_left: Option<f64>,
    resumed_from_step: Option<u64>,
}

impl Training {
    /// What the lines of a log add up to; none before the first step.
    #[must_use]
    pub fn read(log: &str) -> Option<Self> {
        let mut found = Self::default();
        let mut begun = false;
        for line in log.lines() {
            let Ok(line) = serde_json::from_str::<Line>(line) else {
                continue;
            };
            begun |= found.take(line);
        }
        begun.then_some(found)
    }

    /// Takes over what one line tells; whether it told anything.
    fn take(&mut self, line: Line) -> bool {
        let resumed = line.resumed_from_step.filter(|step| *step > 0);
        match line.kaito.as_str() {
            "training" => {
                // Another start of the trainer.
                *self = Self {
                    step: resumed.unwrap_or_default(),
                    steps: line.steps,
                    resumed_from_step: resumed,
                    ..Self::default()
                };
            }
            "progress" => {
                self.step = line.step;
                self.steps = line.steps;
                self.loss = line.loss;
                self.tokens_per_second = line.tokens_per_second;
                self.seconds_left = line.seconds_left.map(whole);
            }
            "evaluation" => self.evaluation_loss = line.loss,
            "done" => {
                *self = Self {
                    step: line.steps,
                    steps: line.steps,
                    loss: line.last_loss,
                    evaluation_loss: line.evaluation_loss,
                    resumed_from_step: resumed,
                    done: true,
                    ..Self::default()
                };
            }
            _ => return false,
        }
        true
    }

    /// `step 12 of 50, loss 1.234, 310 tokens/s, 80s left`.
    #[must_use]
    pub fn sentence(&self) -> String {
        let mut parts = vec![format!("step {} of {}", self.step, self.steps)];
        let number = |name: &str, value: f64| format!("{name} {value:.3}");
        parts.extend(self.loss.map(|loss| number("loss", loss)));
        parts.extend(
            self.evaluation_loss
                .map(|loss| number("held-out loss", loss)),
        );
        parts.extend(
            self.tokens_per_second
                .map(|speed| format!("{speed:.0} tokens/s")),
        );
        parts.extend(
            self.resumed_from_step
                .map(|step| format!("went on from step {step}")),
        );
        if self.done {
            parts.push("the adapter is written".to_owned());
        } else {
            parts.extend(
                self.seconds_left
                    .map(|seconds| format!("{} left", age::of_seconds(seconds))),
            );
        }
        parts.join(", ")
    }
}

/// Whole seconds of an estimate; one that no run has counts as a year.
fn whole(seconds: f64) -> i64 {
    const YEAR: f64 = 31_536_000.0;
    let seconds = seconds.clamp(0.0, YEAR).round();
    #[expect(clippy::cast_possible_truncation, reason = "between 0 and a year")]
    let whole = seconds as i64;
    whole
}

#[cfg(test)]
mod tests {
    use super::Training;

    const LOG: &str = r#"loading
{"kaito": "training", "base": "smollm2", "method": "lora", "steps": 50, "resumedFromStep": 0}
{"kaito": "progress", "step": 1, "steps": 50, "loss": 2.9, "gradNorm": 1.0, "tokensPerSecond": 300.4, "secondsLeft": 98}
a library's remark
{"kaito": "progress", "step": 2, "steps": 50, "loss": 2.25, "gradNorm": null, "tokensPerSecond": 310.6, "secondsLeft": 95.0}
"#;

    #[test]
    fn the_last_step_counts_and_remarks_of_libraries_do_not() {
        let found = Training::read(LOG).unwrap();
        assert_eq!((found.step, found.steps, found.done), (2, 50, false));
        assert_eq!(
            found.sentence(),
            "step 2 of 50, loss 2.250, 311 tokens/s, 95s left"
        );
        assert_eq!(Training::read("loading\n{\"kaito\": \"note\"}\n"), None);
    }

    #[test]
    fn a_run_that_goes_on_says_where_and_a_finished_one_that_the_adapter_is_there() {
        let more = format!(
            "{LOG}{}\n",
            r#"{"kaito": "training", "steps": 50, "resumedFromStep": 10}"#
        );
        let found = Training::read(&more).unwrap();
        assert_eq!((found.step, found.loss), (10, None));
        let end = r#"{"kaito": "done", "steps": 50, "firstLoss": 1.0, "lastLoss": 0.07, "evaluationLoss": null, "resumedFromStep": 10}"#;
        let found = Training::read(&format!("{more}{end}")).unwrap();
        assert_eq!(
            found.sentence(),
            "step 50 of 50, loss 0.070, went on from step 10, the adapter is written"
        );
    }
}
