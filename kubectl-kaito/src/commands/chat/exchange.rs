//! One question and its answer over the API server's proxy to the Workspace's Service.

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use futures::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use kube::core::Status;
use serde_json::Value;

use super::answer::{Events, Piece, message_of, usage};
use super::conversation::Conversation;
use super::{Args, first_model};
use crate::Context;
use crate::cluster::{CallError, Cluster};
use crate::error::{Exit, Failure};
use crate::output::escape;
use crate::output::printer::Printer;

/// Largest whole answer, in bytes.
const LARGEST_ANSWER: u64 = 16 << 20;

/// Why there is no answer, or half of one.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The server has nothing to ask.
    #[error("the server of workspace {workspace:?} lists no model")]
    NoModel {
        /// The Workspace.
        workspace: String,
    },
    /// The question cannot be sent as a request.
    #[error("cannot ask workspace {workspace:?}")]
    Request {
        /// The Workspace.
        workspace: String,
        /// What is wrong with it.
        #[source]
        source: http::Error,
    },
    /// The server says no.
    #[error("the server of workspace {workspace:?} refuses: {text}")]
    Refused {
        /// The Workspace.
        workspace: String,
        /// What it says.
        text: String,
    },
    /// The server says nothing that is an answer.
    #[error("the server of workspace {workspace:?} sent no answer")]
    NoAnswer {
        /// The Workspace.
        workspace: String,
    },
    /// The connection broke.
    #[error("the answer was cut off")]
    Cut(#[source] std::io::Error),
    /// The answer is something else.
    #[error("the model's server sent no JSON")]
    NoJson(#[source] serde_json::Error),
    /// Nothing came for too long.
    #[error("no part of an answer came for {}s", patience.as_secs_f64())]
    Silent {
        /// How long was waited.
        patience: Duration,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = Self::of(&error);
        match error {
            Error::Cut(_) => failure.with_hint("The pod may have been replaced; ask again."),
            Error::Silent { .. } => failure.with_exit(Exit::Timeout),
            _ => failure,
        }
    }
}

/// A way to the model of one Workspace.
pub(super) struct Exchange<'a> {
    cluster: &'a Cluster,
    printer: &'a Printer,
    workspace: &'a str,
    base_model: String,
    json: bool,
    stats: bool,
    patience: Option<Duration>,
}

/// When things happened, for `--stats`.
struct Clock {
    started: Instant,
    first: Option<Duration>,
}

impl<'a> Exchange<'a> {
    /// Asks the server what its model is called.
    pub(super) async fn new(
        cluster: &'a Cluster,
        workspace: &'a str,
        args: &Args,
        context: &'a Context,
    ) -> Result<Self, Failure> {
        let mut exchange = Self {
            cluster,
            printer: &context.printer,
            workspace,
            base_model: String::new(),
            json: args.json,
            stats: args.stats,
            patience: args.timeout.limit(),
        };
        let request = Request::get(exchange.path("/v1/models")).body(Vec::new());
        let reader = exchange.open(request).await?;
        let models = whole(reader, exchange.patience).await?;
        exchange.base_model = first_model(&models).ok_or_else(|| {
            let workspace = workspace.to_owned();
            Error::NoModel { workspace }
        })?;
        Ok(exchange)
    }

    fn path(&self, rest: &str) -> String {
        let (namespace, name) = (self.cluster.namespace(), self.workspace);
        format!("/api/v1/namespaces/{namespace}/services/{name}:80/proxy{rest}")
    }

    /// Sends the conversation, prints the answer and returns its text.
    pub(super) async fn answer(&self, conversation: &Conversation) -> Result<String, Failure> {
        let body = conversation.request(&self.base_model).to_string();
        let request = Request::post(self.path("/v1/chat/completions"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body.into_bytes());
        let mut clock = Clock {
            started: Instant::now(),
            first: None,
        };
        let reader = self.open(request).await?;
        let (text, tokens) = if conversation.parameters.stream {
            self.streamed(reader, &mut clock).await?
        } else {
            self.at_once(reader, &mut clock).await?
        };
        if self.stats {
            self.printer.note(&stats(&clock, tokens.as_ref()))?;
        }
        Ok(text)
    }

    async fn open(
        &self,
        request: http::Result<Request<Vec<u8>>>,
    ) -> Result<Pin<Box<dyn AsyncBufRead + Send>>, Failure> {
        let request = request.map_err(|source| Error::Request {
            workspace: self.workspace.to_owned(),
            source,
        })?;
        let sent = self.cluster.client().send(request.map(Body::from));
        let answer = within(self.patience, sent).await?;
        let answer = answer.map_err(|error| self.unreachable(error))?;
        let status = answer.status();
        let body = answer.into_body().into_data_stream();
        let reader: Pin<Box<dyn AsyncBufRead + Send>> =
            Box::pin(body.map_err(std::io::Error::other).into_async_read());
        if status.is_success() {
            return Ok(reader);
        }
        Err(self.refused(status, reader).await)
    }

    fn unreachable(&self, error: kube::Error) -> Failure {
        let what = format!("ask workspace {:?}", self.workspace);
        self.cluster.explain(CallError::Request(error), &what)
    }

    /// A refusal by the model's own server, or by the API server on the way to it.
    async fn refused(
        &self,
        code: StatusCode,
        reader: Pin<Box<dyn AsyncBufRead + Send>>,
    ) -> Failure {
        let body = whole(reader, self.patience).await.unwrap_or_default();
        if let Some(reported) = body.get("error") {
            let text = message_of(reported);
            let workspace = self.workspace.to_owned();
            return Error::Refused { workspace, text }.into();
        }
        let mut status: Status = serde_json::from_value(body).unwrap_or_default();
        if status.message.is_empty() {
            status.message = code.to_string();
        }
        self.unreachable(kube::Error::Api(status.boxed()))
    }

    async fn streamed(
        &self,
        reader: Pin<Box<dyn AsyncBufRead + Send>>,
        clock: &mut Clock,
    ) -> Result<(String, Option<Piece>), Failure> {
        let mut lines = reader.lines();
        let mut events = Events::default();
        let (mut text, mut tokens, mut done) = (String::new(), None, false);
        while !done {
            let line = within(self.patience, lines.try_next()).await?;
            let line = line.map_err(cut)?;
            let ended = line.is_none();
            let pieces = match line {
                Some(line) => events.line(&line),
                None => events.complete(),
            };
            for piece in pieces.map_err(Failure::error)? {
                match piece {
                    Piece::Text(more) => {
                        clock.first.get_or_insert_with(|| clock.started.elapsed());
                        self.printer.data(&escape::multiline(&more))?;
                        self.printer.flush()?;
                        text.push_str(&more);
                    }
                    Piece::Usage { .. } => tokens = Some(piece),
                    Piece::Done => done = true,
                }
            }
            if ended && !done {
                self.printer.line("")?;
                return Err(cut(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
        self.printer.line("")?;
        Ok((text, tokens))
    }

    async fn at_once(
        &self,
        reader: Pin<Box<dyn AsyncBufRead + Send>>,
        clock: &mut Clock,
    ) -> Result<(String, Option<Piece>), Failure> {
        let answer = whole(reader, self.patience).await?;
        clock.first = Some(clock.started.elapsed());
        let text = answer.pointer("/choices/0/message/content");
        let text = text
            .and_then(Value::as_str)
            .ok_or_else(|| Error::NoAnswer {
                workspace: self.workspace.to_owned(),
            })?;
        if self.json {
            self.printer.line(&answer.to_string())?;
        } else {
            self.printer.line(&escape::multiline(text))?;
        }
        Ok((text.to_owned(), usage(&answer)))
    }
}

fn cut(source: std::io::Error) -> Failure {
    Error::Cut(source).into()
}

async fn whole(
    reader: Pin<Box<dyn AsyncBufRead + Send>>,
    patience: Option<Duration>,
) -> Result<Value, Failure> {
    let mut bytes = Vec::new();
    let mut limited = pin!(reader.take(LARGEST_ANSWER));
    let read = within(patience, limited.read_to_end(&mut bytes)).await?;
    read.map_err(cut)?;
    let read = serde_json::from_slice(&bytes);
    read.map_err(|source| Error::NoJson(source).into())
}

/// Waits for the next sign of life.
async fn within<T>(
    patience: Option<Duration>,
    future: impl Future<Output = T>,
) -> Result<T, Failure> {
    let Some(patience) = patience else {
        return Ok(future.await);
    };
    let answered = tokio::time::timeout(patience, future).await;
    answered.map_err(|_| Error::Silent { patience }.into())
}

fn stats(clock: &Clock, tokens: Option<&Piece>) -> String {
    let total = clock.started.elapsed();
    let first = clock.first.unwrap_or(total);
    let mut text = format!(
        "first token after {:.2}s, whole answer after {:.2}s",
        first.as_secs_f64(),
        total.as_secs_f64()
    );
    if let Some(Piece::Usage { prompt, answer }) = tokens {
        let seconds = total.saturating_sub(first).as_secs_f64();
        text.push_str(&format!("; {prompt} tokens read, {answer} made"));
        // One token alone says nothing about the pace.
        if let (true, Ok(made)) = (seconds > 0.0, u32::try_from(answer.saturating_sub(1))) {
            text.push_str(&format!(" ({:.1}/s)", f64::from(made) / seconds));
        }
    }
    text
}
