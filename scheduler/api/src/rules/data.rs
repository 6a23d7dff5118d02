//! Rules D: where data comes from and where results go.

use super::Rule;

/// An image reference: domain and port, lower-case path, tag, digest. Source: the grammar of github.com/distribution
/// reference.
const REFERENCE: &str = "^(([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?([.][A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*)(:[0-9]+)?/)?[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@[A-Za-z][A-Za-z0-9]*([-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?$";
/// The placeholder of KAITO's README, which applies unchanged there and here; the push then says what to replace.
const PLACEHOLDER: &str = "^[A-Z_]+_HERE[.]azurecr[.]io/[A-Z_]+_HERE(:[A-Za-z0-9_.-]+)?$";
/// Scheme and user part of a URL in lower case.
const UP_TO_HOST: &str = "^https?://([^/?#]*@)?";
/// What may follow the host of a URL.
const AFTER_HOST: &str = "[.]?(:[0-9]*)?([/?#].*)?$";

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = source();
    rules.extend(urls());
    rules.extend(references());
    rules.extend(destination());
    rules
}

fn source() -> Vec<Rule> {
    vec![Rule::at(
        "D1",
        "tuning.input",
        "(has(self.urls) && self.urls.size() > 0 ? 1 : 0) + (has(self.image) && self.image != '' ? 1 : 0) + \
         (has(self.volumeSource) ? 1 : 0) == 1",
        "tuning.input needs exactly one of urls, image and volumeSource: keep the one that holds the data",
    )]
}

/// Hosts are judged as written; the downloader judges the addresses they resolve to.
fn urls() -> Vec<Rule> {
    let inner = "localhost|[^/?#@:]*[.]localhost";
    let metadata = "metadata[.]google[.]internal|metadata[.]google|instance-data[.]ec2[.]internal";
    let address = "url points to a loopback, private or link-local address: use a public host";
    let rule =
        |id, expression: String, message| Rule::at(id, "tuning.input.urls[]", expression, message);
    vec![
        rule(
            "D2/scheme",
            "self.lowerAscii().matches('^https?://([^/?#@]*@)?[^/?#@:][^/?#@]*([/?#]|$)')"
                .to_owned(),
            "url is not absolute or its scheme is neither http nor https: use an http or https URL with a host",
        ),
        rule(
            "D2/address",
            not_to(&format!("{inner}|{}", inner_ipv4())),
            address,
        ),
        rule(
            "D2/spelling",
            not_to(&format!("{}|{}", odd_ipv4(), inner_ipv6())),
            address,
        ),
        rule(
            "D2/metadata",
            not_to(metadata),
            "url points to a cloud metadata service: use a public host",
        ),
    ]
}

/// Two rules rather than one share the alternatives, because the API server bounds the cost of each rule.
fn not_to(hosts: &str) -> String {
    format!("!self.lowerAscii().matches('{UP_TO_HOST}({hosts}){AFTER_HOST}')")
}

/// Loopback, private, link-local and unspecified addresses.
fn inner_ipv4() -> &'static str {
    "127([.][0-9]+){3}|10([.][0-9]+){3}|0([.][0-9]+){3}|192[.]168([.][0-9]+){2}|\
     172[.](1[6-9]|2[0-9]|3[01])([.][0-9]+){2}|169[.]254([.][0-9]+){2}"
}

/// Every other spelling of an address (fewer than four parts, leading zeros, hexadecimal), which some clients take
/// for one of those.
fn odd_ipv4() -> String {
    let part = "(0x[0-9a-f]+|[0-9]+)";
    let strange = "(0x[0-9a-f]+|0[0-9]+)";
    format!(
        "{part}([.]{part}){{0,2}}|{strange}([.]{part}){{3}}|{part}[.]{strange}([.]{part}){{2}}|\
         {part}[.]{part}[.]{strange}[.]{part}|{part}([.]{part}){{2}}[.]{strange}"
    )
}

/// Loopback, unspecified, unique-local and link-local addresses, and IPv4 addresses written as IPv6.
fn inner_ipv6() -> &'static str {
    // `[Z-[]` is an opening bracket in lower-case text: Go and Rust differ about a lone one inside a class.
    "[Z-[]([0:]*:0*1|[0:]+|f[cd][0-9a-f]{2}:[^/?#]*|fe[89ab][0-9a-f]:[^/?#]*|[0:]*:ffff:[^/?#]*)(%[^/?#]*)?]"
}

fn references() -> Vec<Rule> {
    let is_reference = format!("self == '' || self.matches('{REFERENCE}')");
    let message = "image is not an image reference: write registry/repository:tag with the repository in lower case";
    vec![
        Rule::at(
            "D3/adapter",
            "inference.adapters[].source.image",
            is_reference.clone(),
            message,
        ),
        Rule::at(
            "D3/input",
            "tuning.input.image",
            is_reference.clone(),
            message,
        ),
        Rule::at(
            "D3/output",
            "tuning.output.image",
            format!("{is_reference} || self.matches('{PLACEHOLDER}')"),
            message,
        ),
    ]
}

fn destination() -> Vec<Rule> {
    vec![
        Rule::at(
            "D5",
            "tuning.output",
            "(has(self.image) && self.image != '') != has(self.volumeSource)",
            "tuning.output needs exactly one of image and volumeSource: keep the one that is to hold the adapter",
        ),
        Rule::at(
            "D6",
            "tuning.output",
            "!has(self.image) || self.image == '' || (has(self.imagePushSecret) && self.imagePushSecret != '')",
            "tuning.output.imagePushSecret is missing: name the secret with the credentials to push the image",
        )
        .field(".imagePushSecret"),
    ]
}
