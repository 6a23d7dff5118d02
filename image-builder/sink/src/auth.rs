//! Bearer tokens: a token service at `/token`, and Azure's exchange at `/oauth2/…`. *Emulated*: the tokens are numbers.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Response, StatusCode};
use serde_json::json;
use url::form_urlencoded;

use crate::body::Answer;
use crate::server::{answer, problem};

/// Who may do what.
#[derive(Clone, Debug)]
pub struct Access {
    /// User and password that the token service wants; `None` gives tokens to anyone.
    pub user: Option<(String, String)>,
    /// How long a token is good for.
    pub life: Duration,
    /// For how many requests a token is good; `None` for any number.
    pub uses: Option<u32>,
    /// Azure's exchange, instead of user and password.
    pub azure: Option<Azure>,
}

/// An emulated Azure registry.
#[derive(Clone, Debug)]
pub struct Azure {
    /// The Entra token that is taken.
    pub entra_token: String,
}

#[derive(Debug)]
struct Issued {
    scopes: Vec<String>,
    until: Instant,
    used: u32,
}

/// Tokens that were issued.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    issued: Mutex<HashMap<String, Issued>>,
}

impl Tokens {
    /// `None` where a request may pass, else the answer to it.
    pub(crate) fn check(
        &self,
        access: &Access,
        host: &str,
        headers: &HeaderMap,
        needed: Option<(&str, &str)>,
    ) -> Option<Response<Answer>> {
        let token = headers
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let good = token
            .and_then(|token| issued.get_mut(token))
            .is_some_and(|issued| {
                issued.used += 1;
                Instant::now() < issued.until
                    && access.uses.is_none_or(|uses| issued.used <= uses)
                    && needed.is_none_or(|needed| covers(&issued.scopes, needed))
            });
        if good {
            return None;
        }
        let realm = if access.azure.is_some() {
            "oauth2/token"
        } else {
            "token"
        };
        let mut response = problem(StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
        let challenge = format!(r#"Bearer realm="http://{host}/{realm}",service="{host}""#);
        if let Ok(value) = challenge.parse() {
            response.headers_mut().insert("www-authenticate", value);
        }
        Some(response)
    }

    /// `GET /token`.
    pub(crate) fn token(
        &self,
        access: &Access,
        headers: &HeaderMap,
        query: &str,
    ) -> Response<Answer> {
        if let Some((user, password)) = &access.user {
            let expected = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
            if headers
                .get("authorization")
                .is_none_or(|given| given.as_bytes() != expected.as_bytes())
            {
                return problem(StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
            }
        }
        self.issue(access, query, "token")
    }

    /// `POST /oauth2/exchange` and `POST /oauth2/token`.
    pub(crate) fn azure(&self, access: &Access, path: &str, form: &[u8]) -> Response<Answer> {
        let fields: HashMap<String, String> = form_urlencoded::parse(form).into_owned().collect();
        let field = |name: &str| fields.get(name).map(String::as_str);
        let entra = access
            .azure
            .as_ref()
            .map(|azure| azure.entra_token.as_str());
        if path == "/oauth2/exchange" {
            if field("grant_type") != Some("access_token") || field("access_token") != entra {
                return problem(StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
            }
            return answer(
                StatusCode::OK,
                json!({"refresh_token": "refresh"}).to_string(),
            );
        }
        if field("grant_type") != Some("refresh_token") || field("refresh_token") != Some("refresh")
        {
            return problem(StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
        }
        let text = String::from_utf8_lossy(form).into_owned();
        self.issue(access, &text, "access_token")
    }

    fn issue(&self, access: &Access, query: &str, field: &str) -> Response<Answer> {
        let scopes = form_urlencoded::parse(query.as_bytes())
            .filter(|(name, _)| name == "scope")
            .flat_map(|(_, value)| value.split(' ').map(str::to_owned).collect::<Vec<_>>())
            .collect();
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let token = format!("token-{}", issued.len() + 1);
        issued.insert(
            token.clone(),
            Issued {
                scopes,
                until: Instant::now() + access.life,
                used: 0,
            },
        );
        let body = json!({field: token, "expires_in": access.life.as_secs().max(1)});
        answer(StatusCode::OK, body.to_string())
    }
}

fn covers(scopes: &[String], (repository, action): (&str, &str)) -> bool {
    scopes.iter().any(|scope| {
        let mut parts = scope.splitn(3, ':');
        parts.next() == Some("repository")
            && parts.next() == Some(repository)
            && parts
                .next()
                .is_some_and(|actions| actions.split(',').any(|one| one == action))
    })
}
