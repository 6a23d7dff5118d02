//! The CustomResourceDefinitions and the admission policy, as objects and as YAML.
//!
//! Schemas come from the Rust types; limits, defaults and columns from tables here; rules from [`crate::rules`]. The
//! output is a pure function of the source: no time, no environment. `kaito-scheduler crd`, the plugin's `install`
//! and the golden files under `scheduler/deploy` print it.

mod claim;
mod limits;
mod policy;
mod schema;
mod workspace;

use serde::Serialize;

pub use claim::nodeclaim_crd;
pub use policy::{admission_binding, admission_policy};
pub use workspace::workspace_crd;

/// Why a definition could not be made. Every variant is a mistake in this crate's tables, which its tests would show.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A table names a field that the types do not have.
    #[error("schema of {version} has no field {path:?}; correct the table that names it")]
    NoSuchField {
        /// API version.
        version: String,
        /// Path in table notation.
        path: String,
    },
    /// A table holds a value that is not JSON.
    #[error("value of {keyword} at {path:?} is not JSON; correct the table that holds it")]
    NotJson {
        /// Path in table notation.
        path: &'static str,
        /// Schema keyword.
        keyword: &'static str,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// The edited definition is no definition any more.
    #[error("edited definition does not read back; correct the tables of kaito-api")]
    Shape(#[source] serde_json::Error),
    /// The versions do not fit together.
    #[error("versions of {kind} cannot be merged; they must share group, kind and scope")]
    Merge {
        /// Kind.
        kind: &'static str,
        /// What kube said.
        #[source]
        source: kube::core::crd::MergeError,
    },
    /// YAML could not be written.
    #[error("cannot write {what} as YAML")]
    Yaml {
        /// What was to be written.
        what: &'static str,
        /// What the writer said.
        #[source]
        source: Box<serde_saphyr::ser_error::Error>,
    },
}

/// The Workspace CRD as YAML, one document.
///
/// # Errors
/// See [`workspace_crd`]; and [`Error::Yaml`].
pub fn workspace_crd_yaml() -> Result<String, Error> {
    yaml("the Workspace CRD", &workspace_crd()?)
}

/// The NodeClaim CRD as YAML, one document.
///
/// # Errors
/// See [`nodeclaim_crd`]; and [`Error::Yaml`].
pub fn nodeclaim_crd_yaml() -> Result<String, Error> {
    yaml("the NodeClaim CRD", &nodeclaim_crd()?)
}

/// Both CRDs as YAML, two documents, Workspace first.
///
/// # Errors
/// See [`workspace_crd`]; and [`Error::Yaml`].
pub fn crd_yaml() -> Result<String, Error> {
    Ok(format!(
        "{}---\n{}",
        workspace_crd_yaml()?,
        nodeclaim_crd_yaml()?
    ))
}

/// The admission policy and its binding as YAML, two documents.
///
/// # Errors
/// [`Error::Yaml`].
pub fn admission_policy_yaml() -> Result<String, Error> {
    let policy = yaml("the admission policy", &admission_policy())?;
    let binding = yaml("the policy binding", &admission_binding())?;
    Ok(format!("{policy}---\n{binding}"))
}

fn yaml<T: Serialize>(what: &'static str, object: &T) -> Result<String, Error> {
    let mut text = serde_saphyr::to_string(object).map_err(|source| Error::Yaml {
        what,
        source: Box::new(source),
    })?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}
