//! The ValidatingAdmissionPolicy and its binding.

use k8s_openapi::api::admissionregistration::v1::{
    MatchResources, NamedRuleWithOperations, ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding, ValidatingAdmissionPolicyBindingSpec,
    ValidatingAdmissionPolicySpec, Validation,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::names::GROUP;
use crate::rules::{BINDING_NAME, POLICY_NAME, Place, Rule, policy_expression, rules};

/// The policy with every rule whose place is the policy, in the order of the table.
#[must_use]
pub fn admission_policy() -> ValidatingAdmissionPolicy {
    let validations = rules()
        .iter()
        .filter(|rule| rule.place == Place::Policy)
        .map(validation)
        .collect();
    ValidatingAdmissionPolicy {
        metadata: named(POLICY_NAME),
        spec: Some(ValidatingAdmissionPolicySpec {
            failure_policy: Some("Fail".to_owned()),
            match_constraints: Some(MatchResources {
                resource_rules: Some(vec![NamedRuleWithOperations {
                    api_groups: Some(vec![GROUP.to_owned()]),
                    api_versions: Some(vec!["v1alpha1".to_owned(), "v1beta1".to_owned()]),
                    operations: Some(vec!["CREATE".to_owned(), "UPDATE".to_owned()]),
                    resources: Some(vec!["workspaces".to_owned()]),
                    ..NamedRuleWithOperations::default()
                }]),
                ..MatchResources::default()
            }),
            validations: Some(validations),
            ..ValidatingAdmissionPolicySpec::default()
        }),
        ..ValidatingAdmissionPolicy::default()
    }
}

/// The binding that makes the policy deny, in every namespace.
#[must_use]
pub fn admission_binding() -> ValidatingAdmissionPolicyBinding {
    ValidatingAdmissionPolicyBinding {
        metadata: named(BINDING_NAME),
        spec: ValidatingAdmissionPolicyBindingSpec {
            policy_name: POLICY_NAME.to_owned(),
            validation_actions: vec!["Deny".to_owned()],
            ..ValidatingAdmissionPolicyBindingSpec::default()
        },
    }
}

fn validation(rule: &Rule) -> Validation {
    Validation {
        expression: policy_expression(rule),
        message: Some(rule.message.clone()),
        message_expression: rule.message_expression.clone(),
        reason: Some("Invalid".to_owned()),
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    }
}
