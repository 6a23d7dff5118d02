//! What the user asks, checked against the catalogues. No file, no cluster.

use kaito_api::catalogue::{self, InstanceTypeInfo};
use kaito_placement::estimate::{Model, Request};
use kaito_snapshot::sizing;

use crate::error::Failure;

use super::Args;

/// Why the flags ask for no plan.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// An instance type that we have no facts of.
    #[error("instance type {name:?} is not in the table")]
    InstanceType {
        /// As typed.
        name: String,
    },
    /// A size that no model has.
    #[error("--weights-gib must be more than 0 and at most 1000000, not {gib}")]
    Weights {
        /// As typed, in GiB.
        gib: f64,
    },
    /// A model of the user's without its most important number.
    #[error("--kv-bytes-per-token is needed for a model of your own")]
    NoCacheSize,
    /// Nothing to plan for.
    #[error("give a Workspace NAME, -f FILE, --model MODEL, or --weights-gib GIB")]
    NoModel,
    /// A model of the past.
    #[error("model {name:?} is retired and no longer served; choose another")]
    Retired {
        /// As typed.
        name: String,
    },
    /// A model that nobody knows.
    #[error("model {name:?} is not in the catalogue")]
    Model {
        /// As typed.
        name: String,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = Self::of(&error);
        match error {
            Error::NoCacheSize => failure.with_hint(
                "It is 2 (keys and values) x KV heads x head size x layers x 2 bytes; for multi-head latent attention \
                 (KV rank + rope size) x layers x 2 bytes.",
            ),
            Error::NoModel => {
                failure.with_hint("See 'kubectl kaito plan -h' for help and examples")
            }
            _ => failure,
        }
    }
}

/// A model, what is asked of it, and the instance types in question.
#[derive(Clone, Debug)]
pub struct Question {
    /// The model.
    pub model: Model,
    /// Context, concurrency and fixed layout.
    pub request: Request,
    /// Instance types to judge.
    pub candidates: Vec<&'static InstanceTypeInfo>,
    /// Whether the user named them; every one of them then gets an answer.
    pub named: bool,
    /// How many choices to show.
    pub top: usize,
}

impl Question {
    /// Whether exactly one instance type is asked about.
    #[must_use]
    pub const fn is_single(&self) -> bool {
        self.named && self.candidates.len() == 1
    }
}

/// Checks the arguments.
///
/// # Errors
/// What is missing or unknown, with the nearest names.
pub fn parse(args: &Args) -> Result<Question, Failure> {
    let candidates = candidates(&args.instance_type)?;
    Ok(Question {
        model: model(args)?,
        request: request(args),
        named: !args.instance_type.is_empty(),
        candidates,
        top: if args.top == 0 { usize::MAX } else { args.top },
    })
}

fn candidates(names: &[String]) -> Result<Vec<&'static InstanceTypeInfo>, Failure> {
    if names.is_empty() {
        return Ok(catalogue::instance_types()
            .iter()
            .filter(|info| info.can_be_bought())
            .collect());
    }
    let mut found: Vec<&'static InstanceTypeInfo> = Vec::new();
    for name in names {
        let info = catalogue::instance_type(name).ok_or_else(|| {
            let error = Error::InstanceType { name: name.clone() };
            with_nearest(error.into(), &catalogue::nearest_instance_types(name))
        })?;
        if !found.iter().any(|known| known.name == info.name) {
            found.push(info);
        }
    }
    Ok(found)
}

/// What the flags ask of the layout.
#[must_use]
pub fn request(args: &Args) -> Request {
    Request {
        context: args.context_len,
        concurrency: args.concurrency,
        kv_element_bytes: (args.kv_dtype == "fp8").then_some(1),
        utilization: args.gpu_memory_utilization,
        gpus_per_node: args.gpus,
        nodes: args.nodes,
        tensor_parallel: args.tensor_parallel,
        pipeline_parallel: args.pipeline_parallel,
        data_parallel: args.data_parallel,
    }
}

fn model(args: &Args) -> Result<Model, Failure> {
    let known = args
        .model
        .as_deref()
        .and_then(catalogue::preset)
        .map(sizing::model);
    if known.is_none() && args.weights_gib.is_none() {
        return Err(unknown_model(args));
    }
    let own = known.is_none();
    let mut model = known.unwrap_or_else(|| Model {
        name: args
            .model
            .clone()
            .unwrap_or_else(|| "your model".to_owned()),
        distributed: true,
        ..Model::default()
    });
    if let Some(gib) = args.weights_gib {
        model.weight_bytes = bytes(gib)?;
    }
    match args.kv_bytes_per_token {
        Some(bytes) => model.kv_bytes_per_token = bytes,
        None if own => return Err(Error::NoCacheSize.into()),
        None => {}
    }
    override_with(&mut model.attention_heads, args.attention_heads);
    override_with(&mut model.kv_heads, args.kv_heads);
    override_with(&mut model.layers, args.layers);
    Ok(model)
}

fn override_with(field: &mut u32, given: Option<u32>) {
    *field = given.unwrap_or(*field);
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be 0 to 1e6 GiB"
)]
fn bytes(gib: f64) -> Result<u64, Failure> {
    if !(gib > 0.0 && gib <= 1e6) {
        return Err(Error::Weights { gib }.into());
    }
    Ok((gib * f64::from(1 << 30)).ceil() as u64)
}

fn unknown_model(args: &Args) -> Failure {
    let Some(name) = &args.model else {
        return Error::NoModel.into();
    };
    let owned = name.clone();
    if catalogue::retired_preset(name).is_some() {
        return Error::Retired { name: owned }.into();
    }
    let failure = with_nearest(
        Error::Model { name: owned }.into(),
        &catalogue::nearest_presets(name),
    );
    failure.with_hint("For a model of your own give --weights-gib and --kv-bytes-per-token.")
}

fn with_nearest(failure: Failure, near: &[&str]) -> Failure {
    if near.is_empty() {
        failure
    } else {
        failure.with_hint(format!("Did you mean {}?", near.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::{Args, parse};

    fn args() -> Args {
        Args {
            kv_dtype: "auto".to_owned(),
            top: 5,
            ..Args::default()
        }
    }

    #[test]
    fn a_misspelt_model_gets_its_neighbours() {
        let failure = parse(&Args {
            model: Some("phi4".to_owned()),
            ..args()
        })
        .unwrap_err();
        assert_eq!(
            failure.lines()[0],
            "error: model \"phi4\" is not in the catalogue"
        );
        assert!(failure.lines()[1].contains("phi-4"));
    }

    #[test]
    fn a_model_of_the_users_own_needs_weights_and_cache_size_only() {
        let own = Args {
            model: Some("acme/own".to_owned()),
            weights_gib: Some(14.0),
            kv_bytes_per_token: Some(131_072),
            ..args()
        };
        let question = parse(&own).unwrap();
        assert_eq!(question.model.weight_bytes, 14 << 30);
        assert!(!question.named && question.candidates.len() > 10);
        let no_kv = Args {
            kv_bytes_per_token: None,
            ..own
        };
        assert!(parse(&no_kv).unwrap_err().lines()[0].contains("--kv-bytes-per-token"));
    }

    #[test]
    fn weights_that_are_no_size_are_refused() {
        for gib in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let failure = parse(&Args {
                weights_gib: Some(gib),
                ..args()
            })
            .unwrap_err();
            assert!(failure.lines()[0].contains("--weights-gib"), "{gib}");
        }
    }

    #[test]
    fn an_instance_type_given_twice_is_judged_once() {
        let twice = Args {
            model: Some("phi-4".to_owned()),
            instance_type: vec![
                "Standard_NC24ads_A100_v4".to_owned(),
                "standard_nc24ads_a100_v4".to_owned(),
            ],
            ..args()
        };
        assert!(parse(&twice).unwrap().is_single());
        let wrong = Args {
            instance_type: vec!["Standard_NC24ads_A100".to_owned()],
            ..twice
        };
        assert!(parse(&wrong).unwrap_err().lines()[1].contains("Standard_NC24ads_A100_v4"));
    }
}
