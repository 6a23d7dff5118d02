//! The policy's rules, evaluated offline.

use std::cell::RefCell;

use kube::core::cel::{
    AdmissionRequest, CompiledVapExpression, VapError, VapEvaluator, VapExpression,
};
use serde_json::Value;

use super::Violation;
use crate::names::{
    ANNOTATION_BYPASS, ANNOTATION_IMAGE_FAMILY, ANNOTATION_LOCAL_WEIGHTS,
    ANNOTATION_PERFORMANCE_MODE, ANNOTATION_PREEMPTIBLE, ANNOTATION_RUNTIME,
};
use crate::rules::{Place, Rule, policy_expression, rules};

thread_local! {
    /// Compiled once per thread: programs are neither `Clone` nor promised to be `Sync`.
    static COMPILED: RefCell<Option<Vec<Result<CompiledVapExpression, VapError>>>> =
        const { RefCell::new(None) };
}

/// Violations of the policy's rules by `new`, in the order of the table. Only rules that were judged false count;
/// `strict` says whether a rule that could not be judged counts too, which the server takes for a refusal.
pub(super) fn judge(new: &Value, old: Option<&Value>, strict: Strictness) -> Vec<Violation> {
    let request = AdmissionRequest {
        operation: if old.is_some() { "UPDATE" } else { "CREATE" }.to_owned(),
        ..AdmissionRequest::default()
    };
    let mut builder = VapEvaluator::builder().object(new.clone()).request(request);
    if let Some(old) = old {
        builder = builder.old_object(old.clone());
    }
    let evaluator = builder.build();
    let results = COMPILED.with_borrow_mut(|compiled| {
        let compiled =
            compiled.get_or_insert_with(|| evaluator.compile_expressions(&expressions()));
        evaluator.evaluate_compiled(compiled)
    });
    policy_rules()
        .zip(results)
        .filter(|(_, result)| !result.passed)
        .filter_map(|(rule, result)| {
            let judged = result.message.as_deref() == Some(rule.message.as_str());
            (judged || strict == Strictness::Unjudged).then(|| Violation {
                path: rule.field.to_owned(),
                message: result.message.unwrap_or_else(|| rule.message.clone()),
                rule: Some(rule.id),
            })
        })
        .collect()
}

/// Whether a rule that cannot be evaluated counts as violated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Strictness {
    /// It does, as on the server.
    Unjudged,
    /// It does not: the object is refused for its structure already, which is why it cannot be evaluated.
    Judged,
}

fn policy_rules() -> impl Iterator<Item = &'static Rule> {
    rules().iter().filter(|rule| rule.place == Place::Policy)
}

fn expressions() -> Vec<VapExpression> {
    policy_rules()
        .map(|rule| VapExpression {
            expression: with_escaped_keys(&policy_expression(rule)),
            message: Some(rule.message.clone()),
            message_expression: rule.message_expression.clone(),
        })
        .collect()
}

/// kube-cel escapes the keys of every map of an admission policy's object as if they were field names, which the
/// server does not do to annotations. The expressions are escaped to match.
fn with_escaped_keys(expression: &str) -> String {
    let keys = [
        ANNOTATION_BYPASS,
        ANNOTATION_IMAGE_FAMILY,
        ANNOTATION_LOCAL_WEIGHTS,
        ANNOTATION_PERFORMANCE_MODE,
        ANNOTATION_PREEMPTIBLE,
        ANNOTATION_RUNTIME,
    ];
    keys.iter().fold(expression.to_owned(), |text, key| {
        let escaped = key
            .replace('-', "__dash__")
            .replace('.', "__dot__")
            .replace('/', "__slash__");
        text.replace(&format!("'{key}'"), &format!("'{escaped}'"))
    })
}
