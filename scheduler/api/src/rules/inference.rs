//! Rules I: the inference section.

use super::{Rule, Versions, When, literals};
use crate::catalogue::{Delivery, Preset, presets};

/// Labels of a DNS subdomain in lower case.
const SUBDOMAIN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// The same in any case: what creation has always let pass.
const ANY_CASE_SUBDOMAIN: &str =
    "^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?([.][A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*$";
/// Decimals from 0 to 1, with or without a negative exponent.
const ZERO_TO_ONE: &str =
    "^[+]?(0+([.][0-9]*)?|0*[.][0-9]+|0*1([.]0*)?|0*[0-9]([.][0-9]*)?[eE]-0*[1-9][0-9]*)$";

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = section();
    rules.extend(preset_name());
    rules.extend(preset_options());
    rules.extend(adapters());
    rules
}

/// Names under which the presets that `wanted` picks are called, ids with a slash left out where any `org/model` will
/// do.
pub(super) fn names(wanted: impl Fn(&Preset) -> bool) -> impl Iterator<Item = &'static str> {
    presets()
        .iter()
        .filter(move |preset| wanted(preset))
        .flat_map(Preset::names)
}

fn section() -> Vec<Rule> {
    vec![
        Rule::at(
            "I1",
            "inference",
            "has(self.preset) != has(self.template)",
            "exactly one of inference.preset and inference.template must be set: name a preset, or give a pod template",
        ),
        Rule::at(
            "I9",
            "inference",
            "has(self.preset) == has(oldSelf.preset) && (!has(self.preset) || self.preset == oldSelf.preset)",
            "inference.preset is immutable: create another Workspace for another model",
        )
        .when(When::Update)
        .field(".preset"),
        Rule::at(
            "I10",
            "inference",
            "has(self.template) == has(oldSelf.template)",
            "inference.template may change but neither appear nor vanish: create another Workspace",
        )
        .when(When::Update)
        .field(".template"),
        Rule::at(
            "I11/case",
            "inference",
            format!(
                "!has(self.adapters) || self.adapters.all(a, !has(a.source) || !has(a.source.name) || \
                 a.source.name.matches('{SUBDOMAIN}') || (has(oldSelf.adapters) && oldSelf.adapters.exists(b, \
                 has(b.source) && has(b.source.name) && b.source.name == a.source.name)))"
            ),
            "inference.adapters.source.name of a new adapter is not a DNS subdomain: use lower-case letters, digits, \
             dots and dashes",
        )
        .when(When::Update)
        .field(".adapters"),
    ]
}

fn preset_name() -> Vec<Rule> {
    let short = literals(names(|_| true).filter(|name| !name.contains('/')));
    let retired = literals(names(|preset| preset.delivery == Delivery::Retired));
    vec![
        Rule::at(
            "I2",
            "inference.preset.name",
            format!("self.lowerAscii() in {short} || self.matches('^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$')"),
            "inference.preset.name is no known preset: use a catalogue name such as phi-4-mini-instruct, or a model \
             id of the form org/model",
        )
        .saying(
            "'inference preset name ' + self + ' is no known preset: use a catalogue name such as \
             phi-4-mini-instruct, or a model id of the form org/model'",
        ),
        Rule::at(
            "R4",
            "inference.preset.name",
            format!("!(self.lowerAscii() in {retired})"),
            "inference.preset.name names a deprecated preset that is no longer supported: use phi-4-mini-instruct",
        )
        .saying(
            "'inference preset ' + self + ' is deprecated and no longer supported: use phi-4-mini-instruct'",
        ),
    ]
}

fn preset_options() -> Vec<Rule> {
    let downloaded = literals(
        names(|preset| preset.delivery == Delivery::Hub).filter(|name| !name.contains('/')),
    );
    let private = literals(names(|preset| preset.delivery == Delivery::PrivateImage));
    vec![
        Rule::at(
            "I5/unused",
            "inference.preset",
            format!(
                "!has(self.presetOptions) || !has(self.presetOptions.modelAccessSecret) || \
                 self.presetOptions.modelAccessSecret == '' || self.name.contains('/') || \
                 self.name.lowerAscii() in {downloaded}"
            ),
            "presetOptions.modelAccessSecret is set although the model is not downloaded at run time: remove it",
        )
        .only(Versions::Beta)
        .field(".presetOptions.modelAccessSecret"),
        Rule::at(
            "I6/image",
            "inference.preset",
            "!has(self.accessMode) || self.accessMode != 'private' || (has(self.presetOptions) && \
             has(self.presetOptions.image) && self.presetOptions.image != '')",
            "accessMode private needs an image: set presetOptions.image to your image of the model",
        )
        .only(Versions::Alpha)
        .field(".presetOptions"),
        Rule::at(
            "I6/private",
            "inference.preset",
            format!(
                "!(self.name.lowerAscii() in {private}) || (has(self.accessMode) && self.accessMode == 'private')"
            ),
            "accessMode must be private: there is no public image of this preset; set accessMode: private and \
             presetOptions.image",
        )
        .only(Versions::Alpha)
        .field(".accessMode"),
    ]
}

fn adapters() -> Vec<Rule> {
    let mut rules = vec![Rule::at(
        "I8",
        "inference.adapters",
        "self.all(a, !has(a.source) || !has(a.source.name) || self.exists_one(b, has(b.source) && \
         has(b.source.name) && b.source.name == a.source.name))",
        "duplicate adapter name: every inference.adapters.source.name must be unique; rename one",
    )];
    rules.extend(adapter_sources());
    rules.extend(adapter_names());
    rules.push(
        Rule::at(
            "I11/strength",
            "inference.adapters[]",
            format!("!has(self.strength) || self.strength == '' || self.strength.matches('{ZERO_TO_ONE}')"),
            "adapter strength is not a number from 0 to 1: correct it, or leave it out for 1.0",
        )
        .field(".strength")
        .saying(
            "'adapter ' + (has(self.source) && has(self.source.name) ? self.source.name : '') + ': strength ' + \
             self.strength + ' is not a number from 0 to 1: correct it, or leave it out for 1.0'",
        ),
    );
    rules
}

fn adapter_sources() -> Vec<Rule> {
    vec![
        Rule::at(
            "I11/source",
            "inference.adapters[]",
            "has(self.source)",
            "adapter has no source: give it a source with a name and an image or volumeSource",
        )
        .field(".source"),
        Rule::at(
            "I11/urls",
            "inference.adapters[]",
            "!has(self.source) || !has(self.source.urls) || self.source.urls.size() == 0",
            "an adapter cannot come from urls: use image or volumeSource",
        )
        .field(".source.urls"),
        Rule::at(
            "I11/origin",
            "inference.adapters[]",
            "!has(self.source) || (has(self.source.image) && self.source.image != '') != \
             has(self.source.volumeSource)",
            "adapter source needs exactly one of image and volumeSource: set the one that holds the adapter files",
        )
        .field(".source"),
    ]
}

fn adapter_names() -> Vec<Rule> {
    vec![
        Rule::at(
            "I11/name",
            "inference.adapters[]",
            "!has(self.source) || (has(self.source.name) && self.source.name != '')",
            "adapter has no source.name: name it, since clients ask for it by that name",
        )
        .field(".source"),
        Rule::at(
            "I11/dns",
            "inference.adapters[]",
            format!(
                "!has(self.source) || !has(self.source.name) || self.source.name == '' || \
                 (self.source.name.size() <= 253 && self.source.name.matches('{ANY_CASE_SUBDOMAIN}'))"
            ),
            "inference.adapters.source.name is not a DNS subdomain of at most 253 characters: use lower-case letters, \
             digits, dots and dashes",
        )
        .field(".source.name"),
    ]
}
