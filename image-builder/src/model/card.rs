//! The front matter of a model card: YAML between two lines of `---` at the beginning of `README.md`.

use serde::Deserialize;

use super::{Description, unique};

/// Bytes of front matter that are read at most.
const MAX_BYTES: usize = 256 * 1024;

/// Licences of the hub by the identifier that it writes, where SPDX writes another.
const SPDX: [(&str, &str); 34] = [
    ("apache-2.0", "Apache-2.0"),
    ("mit", "MIT"),
    ("bsd", "BSD-2-Clause"),
    ("bsd-2-clause", "BSD-2-Clause"),
    ("bsd-3-clause", "BSD-3-Clause"),
    ("bsd-3-clause-clear", "BSD-3-Clause-Clear"),
    ("afl-3.0", "AFL-3.0"),
    ("artistic-2.0", "Artistic-2.0"),
    ("bsl-1.0", "BSL-1.0"),
    ("cc0-1.0", "CC0-1.0"),
    ("cc-by-2.0", "CC-BY-2.0"),
    ("cc-by-3.0", "CC-BY-3.0"),
    ("cc-by-4.0", "CC-BY-4.0"),
    ("cc-by-sa-3.0", "CC-BY-SA-3.0"),
    ("cc-by-sa-4.0", "CC-BY-SA-4.0"),
    ("cc-by-nc-2.0", "CC-BY-NC-2.0"),
    ("cc-by-nc-3.0", "CC-BY-NC-3.0"),
    ("cc-by-nc-4.0", "CC-BY-NC-4.0"),
    ("cc-by-nd-4.0", "CC-BY-ND-4.0"),
    ("cc-by-nc-nd-4.0", "CC-BY-NC-ND-4.0"),
    ("cc-by-nc-sa-3.0", "CC-BY-NC-SA-3.0"),
    ("cc-by-nc-sa-4.0", "CC-BY-NC-SA-4.0"),
    ("ecl-2.0", "ECL-2.0"),
    ("epl-2.0", "EPL-2.0"),
    ("agpl-3.0", "AGPL-3.0-only"),
    ("gpl-2.0", "GPL-2.0-only"),
    ("gpl-3.0", "GPL-3.0-only"),
    ("lgpl-2.1", "LGPL-2.1-only"),
    ("lgpl-3.0", "LGPL-3.0-only"),
    ("mpl-2.0", "MPL-2.0"),
    ("ms-pl", "MS-PL"),
    ("unlicense", "Unlicense"),
    ("wtfpl", "WTFPL"),
    ("zlib", "Zlib"),
];

/// The fields that are read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FrontMatter {
    license: Texts,
    license_name: Texts,
    language: Texts,
    datasets: Texts,
    base_model: Texts,
}

/// One text, several, or something else, which is as nothing.
#[derive(Debug, Default)]
struct Texts(Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let texts = match value {
            serde_json::Value::String(text) => vec![text],
            serde_json::Value::Array(items) => items
                .into_iter()
                .filter_map(|item| item.as_str().map(str::to_owned))
                .collect(),
            _ => Vec::new(),
        };
        Ok(Self(texts))
    }
}

/// Adds what the card says; a card that cannot be read says nothing.
pub(super) fn describe(card: &[u8], description: &mut Description) {
    let Some(front) = front_matter(card) else {
        return;
    };
    let Ok(front) = serde_saphyr::from_str::<FrontMatter>(front) else {
        return;
    };
    let own_name = front.license_name.0.first().map(String::as_str);
    let licenses = front
        .license
        .0
        .iter()
        .map(|license| spdx(license, own_name));
    description.licenses = unique(licenses);
    let mut languages = unique(front.language.0.iter().filter_map(|tag| language(tag)));
    languages.sort();
    description.languages = languages;
    description.datasets = unique(front.datasets.0);
    description.base_models = unique(front.base_model.0);
}

/// The text between the two lines.
fn front_matter(card: &[u8]) -> Option<&str> {
    let card = card.get(..card.len().min(MAX_BYTES))?;
    let text = match std::str::from_utf8(card) {
        Ok(text) => text,
        // A character that the limit cut in two.
        Err(error) => std::str::from_utf8(card.get(..error.valid_up_to())?).ok()?,
    };
    let text = text.trim_start_matches('\u{feff}');
    let rest = text
        .strip_prefix("---\n")
        .or_else(|| text.strip_prefix("---\r\n"))?;
    let mut end = 0;
    for line in rest.split_inclusive('\n') {
        if line.trim_end() == "---" {
            return rest.get(..end);
        }
        end += line.len();
    }
    None
}

/// The SPDX identifier of a licence; one of the user's own name where SPDX has none.
pub(super) fn spdx(license: &str, own_name: Option<&str>) -> String {
    let lower = license.trim().to_lowercase();
    if let Some((_, identifier)) = SPDX.iter().find(|(hub, _)| *hub == lower) {
        return (*identifier).to_owned();
    }
    let name = match lower.as_str() {
        "" => return String::new(),
        "other" | "unknown" => own_name.unwrap_or(&lower),
        _ => &lower,
    };
    let identifier: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') {
                c
            } else {
                '-'
            }
        })
        .collect();
    format!("LicenseRef-{identifier}")
}

/// The two letters of a language tag; tags without them (`multilingual`, `code`) say nothing that the schema takes.
fn language(tag: &str) -> Option<String> {
    let primary = tag.split(['-', '_']).next()?.to_lowercase();
    let two = primary.len() == 2 && primary.bytes().all(|byte| byte.is_ascii_lowercase());
    two.then_some(primary)
}
