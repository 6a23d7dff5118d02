//! The scenario file: what the simulated cloud has, how fast it is, and what goes wrong in it.
//!
//! Parsed, not checked: after [`Scenario::parse`] every value is usable. Pure, except [`Scenario::read`].

use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use stock::{Capacity, Effect, Fault, Limit, Match, Pattern, Quota};
pub use times::{Delay, Delays, Limits, Pods, Scale};

mod stock;
mod times;

/// A scenario could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file could not be read.
    #[error("cannot read scenario file {}; give a readable YAML file with --scenario", path.display())]
    Read {
        /// File.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The text is not a scenario.
    #[error("{}line {line}, column {column}: {message}", origin(path.as_deref()))]
    Parse {
        /// File, absent when only a text was given.
        path: Option<PathBuf>,
        /// Line from 1; 0 when unknown.
        line: u64,
        /// Column from 1; 0 when unknown.
        column: u64,
        /// What is wrong.
        message: String,
    },
}

fn origin(path: Option<&Path>) -> String {
    path.map_or_else(
        || "scenario: ".to_owned(),
        |path| format!("scenario {}: ", path.display()),
    )
}

/// Everything about the simulated cloud that is not the claims themselves. All times are of the simulated world:
/// divided by the time scale before use. An empty document is the default: nothing fails, nothing is scarce.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Scenario {
    /// Region of all machines.
    pub region: Name,
    /// Zone numbers; a zone's label is `<region>-<number>`. Not empty.
    pub zones: Zones,
    /// How long the cloud and its machines take.
    pub delays: Delays,
    /// How long a claim may take before it is given up.
    pub limits: Limits,
    /// How long pods take.
    pub pods: Pods,
    /// What the subscription may use; what no entry matches is unlimited.
    pub quota: Vec<Quota>,
    /// What the cloud has; what no entry matches is unlimited.
    pub capacity: Vec<Capacity>,
    /// What fails, in the order in which rules are tried.
    pub faults: Vec<Fault>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            region: Name("eastus".to_owned()),
            zones: Zones(["1", "2", "3"].map(str::to_owned).to_vec()),
            delays: Delays::default(),
            limits: Limits::default(),
            pods: Pods::default(),
            quota: Vec::new(),
            capacity: Vec::new(),
            faults: Vec::new(),
        }
    }
}

impl Scenario {
    /// Reads a scenario from YAML.
    ///
    /// ```
    /// let scenario = kaito_provisioner::Scenario::parse("quota: [{match: Standard_NC*, nodes: 2}]").unwrap();
    /// assert_eq!(scenario.quota.len(), 1);
    /// ```
    ///
    /// # Errors
    /// [`ScenarioError::Parse`] with line and column of the first mistake.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
        if text.lines().all(blank) {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(text).map_err(|error| {
            let error = error.without_snippet();
            let (line, column) = error
                .location()
                .map_or((0, 0), |at| (at.line(), at.column()));
            ScenarioError::Parse {
                path: None,
                line,
                column,
                message: plain(&error.to_string()),
            }
        })
    }

    /// Reads a scenario file.
    ///
    /// # Errors
    /// [`ScenarioError::Read`] and, with the file's name, [`ScenarioError::Parse`].
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path).map_err(|source| ScenarioError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(|error| match error {
            ScenarioError::Parse {
                line,
                column,
                message,
                ..
            } => ScenarioError::Parse {
                path: Some(path.to_owned()),
                line,
                column,
                message,
            },
            other @ ScenarioError::Read { .. } => other,
        })
    }

    /// A scenario without any delay, for tests of everything else.
    #[must_use]
    pub fn immediate() -> Self {
        Self {
            delays: Delays::NONE,
            pods: Pods {
                job: Pods::default().job,
                ..Pods::NONE
            },
            ..Self::default()
        }
    }

    /// Label value of the zone with this number.
    #[must_use]
    pub fn zone_label(&self, number: &str) -> String {
        format!("{}-{number}", self.region.0)
    }
}

/// The parser's message without the position, which the error carries as fields.
fn plain(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    let cut = first.rfind(" at line ").or_else(|| first.rfind(" (line "));
    cut.and_then(|end| first.get(..end))
        .unwrap_or(first)
        .trim_start_matches("error: ")
        .to_owned()
}

/// A non-empty name that is valid in a label value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(pub(crate) String);

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let valid = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if valid && !text.is_empty() && text.len() <= 40 {
            Ok(Self(text))
        } else {
            Err(format!(
                "`{text}` is not a name; use 1 to 40 letters, digits and dashes"
            ))
        }
    }
}

/// Zone numbers, at least one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<Name>")]
pub struct Zones(pub(crate) Vec<String>);

impl TryFrom<Vec<Name>> for Zones {
    type Error = String;

    fn try_from(names: Vec<Name>) -> Result<Self, String> {
        if names.is_empty() {
            return Err("at least one zone is needed".to_owned());
        }
        Ok(Self(names.into_iter().map(|name| name.0).collect()))
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn empty_and_commented_documents_are_the_default() {
        assert_eq!(Scenario::parse("").unwrap(), Scenario::default());
        assert_eq!(
            Scenario::parse("# nothing\n\n").unwrap(),
            Scenario::default()
        );
    }

    #[test]
    fn every_section_is_read() {
        let scenario = Scenario::parse(
            r#"
region: westus3
zones: ["1", "2"]
delays: {launch: 30s..80s, devicePlugin: 0s}
limits: {initialization: 5m, least: 2s}
pods: {start: 500ms}
quota:
- {match: "Standard_NC*_A100_v4", vcpus: 48, name: NCADSA100v4}
capacity:
- {match: Standard_NC24ads_A100_v4, zone: "1", nodes: 1}
faults:
- match: {instanceType: "Standard_ND*", nth: [1, 3]}
  effect: no-gpu
"#,
        )
        .unwrap();
        assert_eq!(scenario.quota[0].limit, Limit::Vcpus(48));
        assert_eq!(scenario.faults[0].effect, Effect::NoGpu);
        assert_eq!(scenario.delays.delete, Delays::default().delete);
        assert_eq!(scenario.zone_label("2"), "westus3-2");
    }

    #[test]
    fn mistakes_name_the_line() {
        for (text, line, word) in [
            ("delays:\n  launch: 5 parsecs\n", 2, "parsecs"),
            ("region: eastus\nqouta: []\n", 2, "qouta"),
            (
                "quota:\n- {match: a, nodes: 1}\n- {match: b}\n",
                3,
                "exactly one",
            ),
            ("faults:\n- effect: explode\n", 2, "explode"),
            ("delays: {launch: 9s..3s}\n", 1, "empty range"),
        ] {
            let error = Scenario::parse(text).unwrap_err();
            let ScenarioError::Parse {
                line: found,
                ref message,
                ..
            } = error
            else {
                panic!("{error}")
            };
            assert_eq!(found, line, "{text}: {message}");
            assert!(message.contains(word), "{text}: {message}");
        }
    }

    #[test]
    fn errors_of_a_file_name_the_file() {
        let missing = Scenario::read(Path::new("/nonexistent/a.yaml")).unwrap_err();
        assert!(missing.to_string().contains("/nonexistent/a.yaml"));
    }

    #[test]
    fn patterns_match_as_globs_without_case() {
        let matches = |pattern: &str, name: &str| Pattern(pattern.to_owned()).matches(name);
        assert!(matches("Standard_NC*_A100_v4", "standard_nc24ads_a100_v4"));
        assert!(!matches("Standard_NC*_A100_v4", "Standard_NC4as_T4_v3"));
        assert!(matches("*", ""));
        assert!(matches("a?c", "abc"));
        assert!(!matches("a?c", "ac"));
        assert!(!matches("ab", "abc"));
    }

    #[test]
    fn drawn_delays_repeat_and_stay_in_their_range() {
        let scale = Scale {
            factor: std::num::NonZeroU32::new(60).unwrap(),
            seed: 7,
        };
        let delay = Delay::between(60, 120);
        for index in 0..100 {
            let name = format!("claim-{index}");
            let drawn = delay.pick(scale, &name, "launch");
            assert_eq!(drawn, delay.pick(scale, &name, "launch"));
            assert!((1_000..=2_000).contains(&drawn.as_millis()), "{drawn:?}");
        }
    }

    #[test]
    fn limits_never_fall_below_their_floor_however_fast_the_cloud() {
        let scale = Scale {
            factor: std::num::NonZeroU32::MAX,
            seed: 0,
        };
        let limits = Limits::default();
        assert_eq!(
            limits.real(limits.launch, scale),
            SignedDuration::from_secs(60)
        );
    }
}
