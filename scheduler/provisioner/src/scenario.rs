//! The scenario file: what the simulated cloud has, how fast it is, and what goes wrong in it.
//!
//! Parsed, not checked: after [`Scenario::parse`] every value is usable. Pure, except [`Scenario::read`].

use std::path::{Path, PathBuf};

use jiff::SignedDuration;
use serde::Deserialize;

use crate::cloud::simulated::draw;
use crate::duration::parse_duration;

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

/// A delay: fixed (`30s`) or drawn evenly per entity from a range (`30s..80s`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Delay {
    least: SignedDuration,
    most: SignedDuration,
}

impl Delay {
    /// No delay.
    pub const ZERO: Self = Self::fixed(0);

    const fn fixed(seconds: i64) -> Self {
        Self::between(seconds, seconds)
    }

    const fn between(least: i64, most: i64) -> Self {
        Self {
            least: SignedDuration::from_secs(least),
            most: SignedDuration::from_secs(most),
        }
    }

    /// The delay of `entity` for `purpose`, scaled. The same arguments give the same delay in every run.
    pub(crate) fn pick(self, clock: Scale, entity: &str, purpose: &str) -> SignedDuration {
        let least = micros(self.least);
        let width = micros(self.most).saturating_sub(least).max(0);
        let offset = if width == 0 {
            0
        } else {
            let drawn = draw(clock.seed, entity, purpose) % u64::try_from(width).unwrap_or(1);
            i64::try_from(drawn).unwrap_or(0)
        };
        clock.scaled(SignedDuration::from_micros(least.saturating_add(offset)))
    }
}

impl TryFrom<String> for Delay {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let read = |part: &str| parse_duration(part.trim()).map_err(|error| error.to_string());
        let (least, most) = match text.split_once("..") {
            Some((least, most)) => (read(least)?, read(most)?),
            None => (read(&text)?, read(&text)?),
        };
        if most < least {
            return Err(format!(
                "`{text}` is an empty range; put the shorter delay first"
            ));
        }
        Ok(Self { least, most })
    }
}

fn micros(duration: SignedDuration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// How simulated time relates to real time, and the seed of all draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Simulated seconds per real second.
    pub factor: std::num::NonZeroU32,
    /// Seed of all draws.
    pub seed: u64,
}

impl Scale {
    /// The real length of a simulated duration.
    #[must_use]
    pub fn scaled(self, duration: SignedDuration) -> SignedDuration {
        SignedDuration::from_micros(micros(duration) / i64::from(self.factor.get()))
    }
}

/// Delays of machines. Defaults: inside the range published for AKS GPU pools (3–8 minutes from request to Ready),
/// not measured by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Delays {
    /// Request → the cloud has accepted the machine, or refused it.
    pub launch: Delay,
    /// Accepted → its Node object appears.
    pub register: Delay,
    /// Node appears → Ready.
    pub ready: Delay,
    /// Ready → the device plugin shows the GPUs.
    pub device_plugin: Delay,
    /// Deletion accepted → the machine is gone and its quota free.
    pub delete: Delay,
}

impl Delays {
    const NONE: Self = Self {
        launch: Delay::ZERO,
        register: Delay::ZERO,
        ready: Delay::ZERO,
        device_plugin: Delay::ZERO,
        delete: Delay::ZERO,
    };
}

impl Default for Delays {
    fn default() -> Self {
        Self {
            launch: Delay::between(30, 80),
            register: Delay::between(135, 175),
            ready: Delay::between(10, 40),
            device_plugin: Delay::between(60, 90),
            delete: Delay::between(90, 150),
        }
    }
}

/// Limits of a claim's life. `least` is real time: a real API server and controller-manager take part, and they do
/// not run faster because the cloud does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Creation → Launched.
    pub launch: Delay,
    /// Creation → Registered.
    pub registration: Delay,
    /// Registered → Initialized.
    pub initialization: Delay,
    /// Shortest limit after scaling, in real time.
    pub least: Delay,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            launch: Delay::fixed(15 * 60),
            registration: Delay::fixed(15 * 60),
            initialization: Delay::fixed(10 * 60),
            least: Delay::fixed(60),
        }
    }
}

impl Limits {
    /// A limit in real time.
    pub(crate) fn real(&self, limit: Delay, clock: Scale) -> SignedDuration {
        clock.scaled(limit.most).max(self.least.most)
    }
}

/// Delays of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Pods {
    /// Each init container.
    pub init: Delay,
    /// Containers created → running and ready (image pull, weights).
    pub start: Delay,
    /// Termination signal → stopped; never longer than the pod's grace period.
    pub stop: Delay,
    /// Life of a job's pod without the annotation `kaito.sh/simulated-duration`.
    pub job: Delay,
}

impl Pods {
    const NONE: Self = Self {
        init: Delay::ZERO,
        start: Delay::ZERO,
        stop: Delay::ZERO,
        job: Delay::ZERO,
    };
}

impl Default for Pods {
    fn default() -> Self {
        Self {
            init: Delay::fixed(1),
            start: Delay::fixed(2),
            stop: Delay::fixed(1),
            job: Delay::fixed(60),
        }
    }
}

/// Instance types by name: `*` any text, `?` one character, case ignored (clouds are careless with it).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(String);

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() {
            Err("a pattern may not be empty; use `*` for all".to_owned())
        } else {
            Ok(Self(text))
        }
    }
}

impl Default for Pattern {
    fn default() -> Self {
        Self("*".to_owned())
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Pattern {
    /// Whether `name` matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let pattern: Vec<char> = self.0.to_lowercase().chars().collect();
        let name: Vec<char> = name.to_lowercase().chars().collect();
        // `reach[i]`: the pattern read so far can have consumed the first `i` characters of the name. Quadratic at
        // worst, where backtracking would be exponential.
        let mut reach = vec![false; name.len() + 1];
        if let Some(first) = reach.first_mut() {
            *first = true;
        }
        for token in pattern {
            let mut next = vec![false; name.len() + 1];
            for (index, slot) in next.iter_mut().enumerate() {
                let before = index.checked_sub(1);
                *slot = match token {
                    '*' => reach.iter().take(index + 1).any(|reached| *reached),
                    _ => before.is_some_and(|before| {
                        reach.get(before) == Some(&true)
                            && (token == '?' || name.get(before) == Some(&token))
                    }),
                };
            }
            reach = next;
        }
        reach.last() == Some(&true)
    }
}

/// What an amount is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Machines.
    Nodes(u32),
    /// Virtual CPUs.
    Vcpus(u32),
}

/// One quota counter over all machines whose type matches.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawQuota")]
pub struct Quota {
    /// Machines that count.
    pub pattern: Pattern,
    /// Name of the counter in messages: the family's, or the pattern.
    pub name: String,
    /// Limit.
    pub limit: Limit,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawQuota {
    #[serde(rename = "match", default)]
    pattern: Pattern,
    name: Option<String>,
    nodes: Option<u32>,
    vcpus: Option<u32>,
}

impl TryFrom<RawQuota> for Quota {
    type Error = &'static str;

    fn try_from(raw: RawQuota) -> Result<Self, &'static str> {
        let limit = match (raw.nodes, raw.vcpus) {
            (Some(nodes), None) => Limit::Nodes(nodes),
            (None, Some(vcpus)) => Limit::Vcpus(vcpus),
            _ => return Err("a quota has exactly one of `nodes` and `vcpus`"),
        };
        let name = raw.name.unwrap_or_else(|| raw.pattern.to_string());
        Ok(Self {
            pattern: raw.pattern,
            name,
            limit,
        })
    }
}

/// Free machines of matching types.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Capacity {
    /// Machines that count, together.
    #[serde(rename = "match", default)]
    pub pattern: Pattern,
    /// Zone number; absent for each zone on its own.
    #[serde(default)]
    pub zone: Option<String>,
    /// Machines that the zone has.
    pub nodes: u32,
}

/// One scripted failure.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// Which launches it hits.
    #[serde(rename = "match", default)]
    pub matches: Match,
    /// What happens to them.
    pub effect: Effect,
}

/// Which launches a fault hits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Match {
    /// Type asked for.
    pub instance_type: Pattern,
    /// Ordinals, from 1, among the launches that this rule's type matches; empty for all. Counted per process.
    pub nth: Vec<std::num::NonZeroU64>,
}

/// What a scripted failure does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Refused for lack of capacity; final.
    Capacity,
    /// Refused for lack of quota; final.
    Quota,
    /// The call fails; tried again.
    LaunchError,
    /// Launched, but its node never appears.
    NeverRegister,
    /// The node appears and becomes Ready without its GPUs.
    NoGpu,
}

#[cfg(test)]
mod tests {
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
