//! Rules O: the object as a whole.

use super::{Rule, Versions, When};

pub(super) fn rules() -> Vec<Rule> {
    vec![
        Rule::at(
            "O1",
            "",
            "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",
            "metadata.name is not a DNS label: use lower-case letters, digits and dashes, with a letter or digit at \
             both ends and no dot",
        ),
        Rule::at(
            "O2/neither",
            "",
            "has(self.inference) || has(self.tuning)",
            "neither inference nor tuning is set: add exactly one of them",
        ),
        Rule::at(
            "O2/both",
            "",
            "!(has(self.inference) && has(self.tuning))",
            "inference and tuning are both set: a Workspace does one of them; make two Workspaces",
        ),
        Rule::at(
            "O8/inference",
            "",
            "has(self.inference) == has(oldSelf.inference)",
            "inference can neither be added nor removed: create another Workspace",
        )
        .when(When::Update),
        Rule::at(
            "O8/tuning",
            "",
            "has(self.tuning) == has(oldSelf.tuning)",
            "tuning can neither be added nor removed: create another Workspace",
        )
        .when(When::Update),
        Rule::at(
            "R14",
            "",
            "!has(self.tuning) || !has(self.resource) || !has(self.resource.count) || self.resource.count <= 1",
            "resource.count is above 1: tuning runs on one node; leave count out",
        ),
        Rule::at(
            "R15",
            "",
            "!has(self.tuning) || !has(self.resource) || !has(self.resource.partition)",
            "resource.partition does not go with tuning, which takes whole GPUs: remove it",
        )
        .only(Versions::Beta),
        Rule::at(
            "R18/section",
            "",
            "has(self.resource) == has(oldSelf.resource)",
            "resource can neither be added nor removed, since its labelSelector is immutable: create another Workspace",
        )
        .when(When::Update),
    ]
}
