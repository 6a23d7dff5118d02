//! `WWW-Authenticate`: how a registry wants proof. May do no I/O.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;
use url::Url;

use super::AuthError;

/// How a registry wants proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token from a token service.
    Bearer(Bearer),
}

/// The token service of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bearer {
    /// Its address.
    pub(super) realm: Url,
    /// The name under which it knows the registry.
    pub(super) service: Option<String>,
}

/// Reads the challenges of an answer; bearer is preferred. `None` where there is none.
pub(super) fn parse(headers: &HeaderMap) -> Result<Option<Challenge>, AuthError> {
    let mut basic = None;
    let mut unknown = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(text) = value.to_str() else { continue };
        let (scheme, parameters) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("bearer") {
            return bearer(parameters).map(|bearer| Some(Challenge::Bearer(bearer)));
        } else if scheme.eq_ignore_ascii_case("basic") {
            basic = Some(Challenge::Basic);
        } else {
            unknown = Some(scheme.to_owned());
        }
    }
    match (basic, unknown) {
        (Some(basic), _) => Ok(Some(basic)),
        (None, Some(what)) => Err(AuthError::Challenge { what }),
        (None, None) => Ok(None),
    }
}

fn bearer(parameters: &str) -> Result<Bearer, AuthError> {
    let mut realm = None;
    let mut service = None;
    for (name, value) in Parameters(parameters) {
        if name.eq_ignore_ascii_case("realm") {
            realm = Url::parse(&value)
                .ok()
                .filter(|url| matches!(url.scheme(), "http" | "https"));
        } else if name.eq_ignore_ascii_case("service") {
            service = Some(value);
        }
    }
    let realm = realm.ok_or_else(|| AuthError::Challenge {
        what: "a bearer challenge without a usable realm".to_owned(),
    })?;
    Ok(Bearer { realm, service })
}

/// `name="value"` pairs, separated by commas; values may be quoted and then hold commas and escaped quotes.
struct Parameters<'a>(&'a str);

impl Iterator for Parameters<'_> {
    type Item = (String, String);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.0.trim_start_matches([' ', ',', '\t']);
        let (name, rest) = rest.split_once('=')?;
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (value, rest) = rest.split_at(end);
                (value.trim().to_owned(), rest)
            }
        };
        self.0 = rest;
        Some((name.trim().to_owned(), value))
    }
}

fn unquote(quoted: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn challenge(values: &[&'static str]) -> Result<Option<Challenge>, AuthError> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(value));
        }
        parse(&headers)
    }

    #[test]
    fn realm_and_service_are_read_from_quoted_and_bare_values_in_any_order() {
        let expected = Challenge::Bearer(Bearer {
            realm: Url::parse("https://auth.io/token?a=1,2").unwrap(),
            service: Some("registry".into()),
        });
        let quoted = r#"Bearer realm="https://auth.io/token?a=1,2",service="registry",scope="a:b:pull,push""#;
        assert_eq!(challenge(&[quoted]).unwrap(), Some(expected.clone()));
        let bare =
            r#"bearer service=registry, error="x \" y" , realm="https://auth.io/token?a=1,2""#;
        assert_eq!(challenge(&["Basic realm=x", bare]).unwrap(), Some(expected));
    }

    #[test]
    fn a_challenge_without_a_realm_or_of_an_unknown_kind_is_an_error() {
        assert!(challenge(&["Bearer service=x"]).is_err());
        assert!(challenge(&["Negotiate abc"]).is_err());
        assert!(challenge(&[r#"Bearer realm="file:///etc/passwd""#]).is_err());
        assert_eq!(challenge(&["Basic"]).unwrap(), Some(Challenge::Basic));
        assert_eq!(challenge(&[]).unwrap(), None);
    }
}
