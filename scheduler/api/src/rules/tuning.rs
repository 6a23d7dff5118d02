//! Rules T: the tuning section.

use super::{Rule, When, inference::names, literals};

pub(super) fn rules() -> Vec<Rule> {
    let tunable = literals(names(|preset| preset.tuning_capable));
    vec![
        Rule::at(
            "T1",
            "tuning",
            "has(self.method) && self.method.lowerAscii() in ['lora', 'qlora']",
            "tuning.method must be lora or qlora: set one of them",
        )
        .field(".method"),
        Rule::at(
            "T2/present",
            "tuning",
            "has(self.preset)",
            "tuning.preset is missing: name the model to tune, such as phi-4-mini-instruct",
        )
        .field(".preset"),
        Rule::at(
            "T2/tunable",
            "tuning.preset.name",
            format!("self.lowerAscii() in {tunable}"),
            "presetName is no preset that can be tuned: use one that can, such as phi-4-mini-instruct",
        )
        .saying(
            "'tuning presetName ' + self + ' is no preset that can be tuned: use one that can, such as \
             phi-4-mini-instruct, phi-4 or mistral-7b'",
        ),
        Rule::at(
            "T2/unchanged",
            "tuning",
            "has(self.preset) == has(oldSelf.preset) && (!has(self.preset) || self.preset == oldSelf.preset)",
            "tuning.preset is immutable: create another Workspace for another model",
        )
        .when(When::Update)
        .field(".preset"),
        Rule::at(
            "T4",
            "tuning",
            "(has(self.method) ? self.method.lowerAscii() : '') == (has(oldSelf.method) ? \
             oldSelf.method.lowerAscii() : '')",
            "tuning.method is immutable: create another Workspace for another method",
        )
        .when(When::Update)
        .field(".method"),
        Rule::at(
            "D4",
            "tuning.input",
            "(has(self.name) ? self.name : '') == (has(oldSelf.name) ? oldSelf.name : '')",
            "tuning.input.name is immutable: create another Workspace for other data",
        )
        .when(When::Update)
        .field(".name"),
    ]
}
