//! One container's log: the request, and the answer as lines.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;

use futures::io::{AsyncBufRead, AsyncBufReadExt};
use http::Request;
use jiff::Timestamp;
use url::form_urlencoded::Serializer;

use super::question::{Question, Since};
use crate::cluster::{CallError, Cluster};
use crate::logs::{Framer, Line, Source};

/// What one request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// What the user asked for.
    Asked,
    /// What came after a cut at this second.
    Resumed(Timestamp),
}

/// Path and query of the request. Time stamps are always asked for: merging and resuming need them.
#[must_use]
pub fn path(question: &Question, namespace: &str, source: &Source, from: From) -> String {
    let mut query = Serializer::new(String::new());
    query.append_pair("container", &source.container);
    if question.follow {
        query.append_pair("follow", "true");
    }
    if question.insecure_backend {
        query.append_pair("insecureSkipTLSVerifyBackend", "true");
    }
    if question.previous {
        query.append_pair("previous", "true");
    }
    match (from, question.since) {
        (From::Resumed(time), _) | (From::Asked, Since::Time(time)) => {
            query.append_pair("sinceTime", &time.to_string());
        }
        (From::Asked, Since::Seconds(seconds)) => {
            query.append_pair("sinceSeconds", &seconds.to_string());
        }
        (From::Asked, Since::Beginning) => {}
    }
    if let (Some(lines), From::Asked) = (question.tail, from) {
        query.append_pair("tailLines", &lines.to_string());
    }
    query.append_pair("timestamps", "true");
    format!(
        "/api/v1/namespaces/{namespace}/pods/{}/log?{}",
        source.pod,
        query.finish()
    )
}

/// An answer under way.
pub struct Lines {
    reader: Pin<Box<dyn AsyncBufRead + Send>>,
    framer: Framer,
    ready: VecDeque<Line>,
}

/// Sends the request.
///
/// # Errors
/// The server refuses it or cannot be reached.
pub async fn open(
    question: &Question,
    cluster: &Cluster,
    source: &Source,
    from: From,
) -> Result<Lines, CallError> {
    let path = path(question, cluster.namespace(), source, from);
    let request = Request::get(path)
        .body(Vec::new())
        .map_err(|error| CallError::Request(kube::Error::HttpError(error)))?;
    let reader = cluster
        .attempt(cluster.client().request_stream(request))
        .await?;
    Ok(Lines {
        reader: Box::pin(reader),
        framer: Framer::default(),
        ready: VecDeque::new(),
    })
}

impl Lines {
    /// The next line, or `None` at the end of the answer; [`Self::rest`] then has what was left unfinished.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(line));
            }
            let bytes = self.reader.fill_buf().await?;
            if bytes.is_empty() {
                return Ok(None);
            }
            let length = bytes.len();
            self.ready.extend(self.framer.push(bytes));
            self.reader.consume_unpin(length);
        }
    }

    /// The unfinished last line. Only whoever will not ask again should print it: a resumed answer brings it whole.
    pub fn rest(&mut self) -> Option<Line> {
        self.framer.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{From, path};
    use crate::commands::logs::{Args, question};
    use crate::logs::Source;
    use crate::output::printer::Printer;

    fn asked(args: Args, from: From) -> String {
        let printer = Printer::to_writers(Box::new(Vec::new()), Box::new(Vec::new()));
        let question = question::parse(&args, &printer).unwrap();
        let source = Source {
            pod: "p".to_owned(),
            uid: "u".to_owned(),
            container: "main".to_owned(),
        };
        path(&question, "ns", &source, from)
    }

    fn args() -> Args {
        Args {
            name: Some("phi".to_owned()),
            tail: -1,
            max_log_requests: 5,
            ..Args::default()
        }
    }

    #[test]
    fn the_request_carries_what_kubectl_would_send_and_always_time_stamps() {
        let args = Args {
            since: Some(crate::cli::duration::parse("1h").unwrap()),
            tail: 5,
            ..args()
        };
        assert_eq!(
            asked(args, From::Asked),
            "/api/v1/namespaces/ns/pods/p/log?container=main&sinceSeconds=3600&tailLines=5&timestamps=true"
        );
    }

    #[test]
    fn a_resumed_request_asks_from_the_cut_on_and_for_all_lines() {
        let args = Args {
            follow: true,
            tail: 5,
            ..args()
        };
        let cut = "2026-01-01T00:00:01Z".parse().unwrap();
        assert_eq!(
            asked(args, From::Resumed(cut)),
            "/api/v1/namespaces/ns/pods/p/log?container=main&follow=true&sinceTime=2026-01-01T00%3A00%3A01Z&timestamps=true"
        );
    }
}
