//! The endpoints before our own engine.

use std::convert::Infallible;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::http::StatusCode;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use super::error::ApiError;
use super::openai::{ChatBody, Common, CompletionBody, Face, Head, parse};
use super::simple::{Continued, Length, Question, SimpleBody};
use crate::engine::{Ends, Engine, Event, Reason, Request};
use crate::model::Adapter;
use crate::text::tokenizer::Begin;
use crate::text::{Error as TextError, Message, Tokenizer};

/// A name that can be asked for: the base model, or the base model through an adapter.
#[derive(Clone, Debug)]
pub struct Served {
    /// What requests call it.
    pub name: String,
    /// The base model, if none.
    pub adapter: Option<Arc<Adapter>>,
}

/// Our own engine as a backend.
#[derive(Debug)]
pub struct Native {
    engine: Engine,
    tokenizer: Arc<Tokenizer>,
    served: Vec<Served>,
    /// Tokens of an answer where the request tells no limit.
    default_tokens: usize,
    /// Most tokens of an answer that may be asked for.
    most_tokens: usize,
    started: u64,
    answers: AtomicU64,
}

impl Native {
    /// A backend; the first name is the one that requests without a name mean.
    #[must_use]
    pub fn new(
        engine: Engine,
        tokenizer: Arc<Tokenizer>,
        served: Vec<Served>,
        default_tokens: usize,
        most_tokens: usize,
    ) -> Self {
        Self {
            engine,
            tokenizer,
            served,
            default_tokens,
            most_tokens,
            started: now(),
            answers: AtomicU64::new(0),
        }
    }

    pub(super) fn stop(&self) {
        self.engine.stop();
    }

    pub(super) fn health(&self) -> Result<(), ApiError> {
        if self.engine.is_stopping() {
            return Err(ApiError::draining());
        }
        Ok(())
    }

    pub(super) fn models(&self) -> Value {
        let root = self.served.first().map(|served| served.name.as_str());
        let models = self.served.iter().map(|served| {
            json!({
                "id": served.name, "object": "model", "created": self.started, "owned_by": "kaito",
                "root": root, "parent": served.adapter.as_ref().and(root),
                "max_model_len": self.engine.longest(),
            })
        });
        json!({"object": "list", "data": models.collect::<Vec<_>>()})
    }

    fn served(&self, name: Option<&str>) -> Result<&Served, ApiError> {
        let named =
            |served: &&Served| name.is_none_or(|name| name.is_empty() || served.name == name);
        self.served.iter().find(named).ok_or_else(|| {
            let names: Vec<&str> = self
                .served
                .iter()
                .map(|served| served.name.as_str())
                .collect();
            let message = format!(
                "model {:?} is not served; there is {}",
                name.unwrap_or_default(),
                names.join(", ")
            );
            ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message)
        })
    }

    pub(super) async fn chat(&self, bytes: &[u8]) -> Result<Response, ApiError> {
        let body: ChatBody = parse(bytes)?;
        body.common.check()?;
        let messages = body.messages()?;
        let tokens = self.conversation(messages).await?;
        self.answer(Face::Chat, &body.common, tokens, String::new())
            .await
    }

    pub(super) async fn complete(&self, bytes: &[u8]) -> Result<Response, ApiError> {
        let body: CompletionBody = parse(bytes)?;
        body.common.check()?;
        let mut prompts = body.prompt.into_list();
        let (Some(prompt), true) = (prompts.pop(), prompts.is_empty()) else {
            return Err(ApiError::invalid("prompt has to be one text"));
        };
        let tokens = self.encode(prompt.clone(), Begin::Added).await?;
        let echo = if body.echo { prompt } else { String::new() };
        self.answer(Face::Completion, &body.common, tokens, echo)
            .await
    }

    pub(super) async fn simple(&self, bytes: &[u8]) -> Result<Response, ApiError> {
        let body: SimpleBody = parse(bytes)?;
        let served = self.served(body.model.as_deref())?;
        let (tokens, continued) = self.question(body.question()?).await?;
        let room = self.engine.longest().saturating_sub(tokens.len());
        let wanted = match body.length() {
            Length::Default => self.default_tokens,
            Length::New(new) => new,
            Length::Total(total) => total.saturating_sub(tokens.len()),
        };
        let receiver = self.engine.submit(Request {
            max_tokens: wanted.min(room).min(self.most_tokens).max(1),
            tokens,
            sampling: body.sampling(fresh())?,
            stops: Vec::new(),
            adapter: served.adapter.clone(),
            ends: Ends::Heeded,
        })?;
        let (text, ..) = collect(receiver).await?;
        Ok(Json(body.answer(&text, continued)).into_response())
    }

    async fn question(&self, question: Question) -> Result<(Vec<u32>, Continued), ApiError> {
        match question {
            Question::Messages(messages) => {
                Ok((self.conversation(messages).await?, Continued::Conversation))
            }
            Question::Prompt(prompt) if self.tokenizer.template().is_some() => {
                let message = Message {
                    role: "user".to_owned(),
                    content: prompt,
                };
                Ok((
                    self.conversation(vec![message]).await?,
                    Continued::Conversation,
                ))
            }
            Question::Prompt(prompt) => {
                Ok((self.encode(prompt, Begin::Added).await?, Continued::Text))
            }
        }
    }

    async fn conversation(&self, messages: Vec<Message>) -> Result<Vec<u32>, ApiError> {
        let template = self.tokenizer.template().ok_or(TextError::NoTemplate)?;
        let text = template.render(&messages)?;
        self.encode(text, Begin::Left).await
    }

    /// Splitting a long text takes a while, so it is done beside the threads that serve connections.
    async fn encode(&self, text: String, begin: Begin) -> Result<Vec<u32>, ApiError> {
        self.engine.has_room()?;
        let tokenizer = Arc::clone(&self.tokenizer);
        let work = tokio::task::spawn_blocking(move || tokenizer.encode(&text, begin));
        let tokens = work.await.map_err(|_| ApiError::engine_failed())??;
        if tokens.is_empty() {
            return Err(ApiError::invalid("the prompt is empty"));
        }
        Ok(tokens)
    }

    async fn answer(
        &self,
        face: Face,
        common: &Common,
        tokens: Vec<u32>,
        echo: String,
    ) -> Result<Response, ApiError> {
        let served = self.served(common.model.as_deref())?;
        let room = self.engine.longest().saturating_sub(tokens.len()).max(1);
        let max_tokens = common.max_tokens()?;
        if let Some(asked) = max_tokens.filter(|asked| *asked > self.most_tokens) {
            let most = self.most_tokens;
            return Err(ApiError::invalid(format!(
                "max_tokens is {asked}; this server gives at most {most}"
            )));
        }
        let number = self.answers.fetch_add(1, Ordering::Relaxed);
        let head = Head {
            face,
            id: format!(
                "{}-{:x}-{number:x}",
                if face == Face::Chat {
                    "chatcmpl"
                } else {
                    "cmpl"
                },
                self.started
            ),
            created: now(),
            model: served.name.clone(),
            prompt_tokens: tokens.len(),
        };
        let receiver = self.engine.submit(Request {
            tokens,
            max_tokens: max_tokens.unwrap_or_else(|| self.default_tokens.min(room)),
            sampling: common.sampling(fresh())?,
            stops: common.stops()?,
            adapter: served.adapter.clone(),
            ends: common.ends(),
        })?;
        if common.stream {
            let events = events(head, receiver, echo, common.include_usage());
            let alive = KeepAlive::new().interval(Duration::from_secs(15));
            return Ok(Sse::new(events).keep_alive(alive).into_response());
        }
        let (text, reason, generated) = collect(receiver).await?;
        Ok(Json(head.whole(&format!("{echo}{text}"), reason, generated)).into_response())
    }
}

/// Waits for the whole answer.
async fn collect(
    mut receiver: UnboundedReceiver<Event>,
) -> Result<(String, Reason, usize), ApiError> {
    let mut text = String::new();
    while let Some(event) = receiver.recv().await {
        match event {
            Event::Text(more) => text.push_str(&more),
            Event::Done { reason, generated } => return Ok((text, reason, generated)),
        }
    }
    Err(ApiError::engine_failed())
}

/// The answer as server-sent events, ended by `[DONE]`, or by an error if the engine failed.
fn events(
    head: Head,
    receiver: UnboundedReceiver<Event>,
    echo: String,
    include_usage: bool,
) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    let mut first: Vec<String> = head.opening().iter().map(Value::to_string).collect();
    if !echo.is_empty() {
        first.push(head.piece(&echo).to_string());
    }
    let rest = stream::unfold(Some((head, receiver)), move |state| async move {
        let (head, mut receiver) = state?;
        match receiver.recv().await {
            Some(Event::Text(text)) => {
                let piece = vec![head.piece(&text).to_string()];
                Some((piece, Some((head, receiver))))
            }
            Some(Event::Done { reason, generated }) => {
                let mut last = vec![head.closing(reason).to_string()];
                if include_usage {
                    last.push(head.accounting(generated).to_string());
                }
                last.push("[DONE]".to_owned());
                Some((last, None))
            }
            None => Some((vec![ApiError::engine_failed().body().to_string()], None)),
        }
    });
    stream::iter([first])
        .chain(rest)
        .flat_map(stream::iter)
        .map(|data| Ok(sse::Event::default().data(data)))
}

/// A seed for who asks for none.
fn fresh() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
