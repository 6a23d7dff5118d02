//! Access tokens: asked for at the token service that the registry names, kept for four fifths of their life.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use std::time::Duration;
use tokio::time::Instant;
use url::Url;
use url::form_urlencoded::Serializer;

use super::challenge::Bearer;
use super::{AuthError, Credential, basic_header, sensitive};
use crate::registry::answer::error_detail;
use crate::registry::transport::{Call, RequestBody, Transport, without_query};

/// What the specification says a token lives when its answer does not tell.
const DEFAULT_LIFE_SECONDS: u64 = 60;
/// Longer lives are taken for this: the time must fit in an [`Instant`].
const LONGEST_LIFE_SECONDS: u64 = 24 * 3600;
/// Named in token requests; token services want some name and do not check it.
const CLIENT: &str = "image-builder";

/// A token and when to renew it.
pub(super) struct Token {
    value: SecretString,
    renew_at: Instant,
}

impl Token {
    /// A token that lives `life_seconds` from now.
    pub(super) fn new(value: SecretString, life_seconds: u64) -> Self {
        Self::issued(value, life_seconds, Instant::now())
    }

    fn issued(value: SecretString, life_seconds: u64, now: Instant) -> Self {
        let life = Duration::from_secs(life_seconds.min(LONGEST_LIFE_SECONDS));
        Self {
            value,
            renew_at: now + life * 4 / 5,
        }
    }

    /// Whether less than four fifths of its life are over.
    pub(super) fn is_fresh(&self) -> bool {
        self.is_fresh_at(Instant::now())
    }

    fn is_fresh_at(&self, now: Instant) -> bool {
        now < self.renew_at
    }

    pub(super) fn header(&self) -> HeaderValue {
        bearer_header(&self.value)
    }

    pub(super) fn secret(&self) -> SecretString {
        self.value.clone()
    }
}

pub(super) fn bearer_header(token: &SecretString) -> HeaderValue {
    sensitive(&format!("Bearer {}", token.expose_secret()))
}

/// The answer of a token service. Docker's calls the token `token`, OAuth `access_token`; some send both.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<SecretString>,
    #[serde(default)]
    access_token: Option<SecretString>,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// Asks the token service for a token with all of `scopes`.
pub(super) async fn fetch(
    transport: &Transport,
    bearer: &Bearer,
    scopes: &[String],
    credential: Option<&Credential>,
) -> Result<Token, AuthError> {
    let call = match credential {
        Some(Credential::Identity(secret)) => exchange_identity(bearer, scopes, secret),
        Some(Credential::Password { username, password }) => {
            let mut call = ask(bearer, scopes, Some(username));
            call.authorization = Some(basic_header(username, password));
            call
        }
        Some(Credential::Bearer(_)) | None => ask(bearer, scopes, None),
    };
    let service = without_query(&bearer.realm);
    let bytes = send(transport, call).await?;
    let answer: Answer = serde_json::from_slice(&bytes).map_err(|_| AuthError::NoToken {
        service: service.clone(),
    })?;
    let value = answer
        .access_token
        .or(answer.token)
        .filter(|token| !token.expose_secret().is_empty())
        .ok_or(AuthError::NoToken { service })?;
    let life = answer
        .expires_in
        .or_else(|| life_of(&value))
        .unwrap_or(DEFAULT_LIFE_SECONDS);
    Ok(Token::new(value, life))
}

/// The token service's docker form: everything in the query, the password in a header.
fn ask(bearer: &Bearer, scopes: &[String], account: Option<&str>) -> Call {
    let mut url: Url = bearer.realm.clone();
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = &bearer.service {
            query.append_pair("service", service);
        }
        if let Some(account) = account {
            query.append_pair("account", account);
        }
        for scope in scopes {
            query.append_pair("scope", scope);
        }
        query.append_pair("client_id", CLIENT);
    }
    Call::new(Method::GET, url)
}

/// The token service's OAuth form, for refresh tokens.
fn exchange_identity(bearer: &Bearer, scopes: &[String], secret: &SecretString) -> Call {
    let mut form = vec![
        ("grant_type", "refresh_token".to_owned()),
        ("client_id", CLIENT.to_owned()),
        ("refresh_token", secret.expose_secret().to_owned()),
    ];
    if let Some(service) = &bearer.service {
        form.push(("service", service.clone()));
    }
    // OAuth has one scope field with blanks; ACR's page says the same of several repositories.
    form.push(("scope", scopes.join(" ")));
    form_call(bearer.realm.clone(), &form)
}

/// A POST of a form.
pub(super) fn form_call(url: Url, fields: &[(&str, String)]) -> Call {
    let mut form = Serializer::new(String::new());
    for (name, value) in fields {
        form.append_pair(name, value);
    }
    Call::new(Method::POST, url)
        .header(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        )
        .body(RequestBody::Bytes(Bytes::from(form.finish())))
}

/// Sends a request to a token service and returns the body of a good answer.
pub(super) async fn send(transport: &Transport, call: Call) -> Result<Bytes, AuthError> {
    let service = without_query(&call.url);
    let failed = |cause| AuthError::Transport {
        service: service.clone(),
        cause,
    };
    let response = if call.method == Method::GET {
        transport.follow(call).await
    } else {
        transport.send(call).await
    }
    .map_err(failed)?;
    let status = response.status();
    let bytes = transport
        .collect(response.into_body())
        .await
        .map_err(failed)?;
    if status.is_success() {
        return Ok(bytes);
    }
    Err(AuthError::Refused {
        service,
        status,
        detail: error_detail(&bytes),
    })
}

/// Seconds from issue to end, where the token is a JWT that says so. The signature is the registry's business.
pub(super) fn life_of(token: &SecretString) -> Option<u64> {
    #[derive(Deserialize)]
    struct Claims {
        exp: u64,
        iat: Option<u64>,
        nbf: Option<u64>,
    }
    let payload = token.expose_secret().split('.').nth(1)?;
    let bytes = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    let claims: Claims = serde_json::from_slice(&bytes).ok()?;
    claims.exp.checked_sub(claims.iat.or(claims.nbf)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_when_four_fifths_of_its_life_are_over() {
        let now = Instant::now();
        let token = Token::issued("t".to_owned().into(), 100, now);
        assert!(token.is_fresh_at(now + Duration::from_secs(79)));
        assert!(!token.is_fresh_at(now + Duration::from_secs(81)));
    }

    #[test]
    fn the_life_of_a_web_token_is_read_from_its_claims() {
        let payload = URL_SAFE_NO_PAD.encode(r#"{"iat":1000,"exp":4600}"#);
        assert_eq!(life_of(&format!("h.{payload}.s").into()), Some(3600));
        assert_eq!(life_of(&"opaque".to_owned().into()), None);
    }

    #[test]
    fn each_scope_is_a_field_of_its_own_in_dockers_form_and_none_is_shown_with_a_secret() {
        let bearer = Bearer {
            realm: Url::parse("https://auth.io/token").unwrap(),
            service: Some("r.io".into()),
        };
        let scopes = [
            "repository:a:pull,push".to_owned(),
            "repository:b:pull".to_owned(),
        ];
        let call = ask(&bearer, &scopes, None);
        assert_eq!(
            call.url.as_str(),
            "https://auth.io/token?service=r.io&scope=repository%3Aa%3Apull%2Cpush&scope=repository%3Ab%3Apull&client_id=image-builder"
        );
        let call = exchange_identity(&bearer, &scopes, &"secret".to_owned().into());
        assert!(!call.url.as_str().contains("secret"));
    }
}
