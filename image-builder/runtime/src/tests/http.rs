use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::engine::{LIMITS, start, start_full, tokenizer};
use crate::engine::Limits;
use crate::http::server::{self, Connections, Drained};
use crate::http::{App, Backend, Keys, Native, Served, Settings};

pub(super) const CONNECTIONS: Connections = Connections {
    most: 64,
    header_time: Duration::from_secs(5),
    drain_time: Duration::from_secs(60),
};

pub(super) fn app_of(
    backend: Backend,
    metrics: crate::metrics::Metrics,
    keys: Option<Keys>,
) -> Arc<App> {
    Arc::new(App {
        backend,
        metrics,
        keys,
        settings: Settings {
            body_bytes: 4096,
            body_time: Duration::from_secs(5),
        },
        stopping: AtomicBool::new(false),
    })
}

pub(super) fn app(limits: Limits) -> Arc<App> {
    let (engine, _, metrics) = start(limits);
    let served = vec![Served {
        name: "tiny".to_owned(),
        adapter: None,
    }];
    let native = Native::new(engine, tokenizer(), served, 8, 400);
    app_of(Backend::Native(Box::new(native)), metrics, None)
}

pub(super) async fn post(
    app: &Arc<App>,
    path: &str,
    body: impl Into<Body>,
) -> (StatusCode, header::HeaderMap, Vec<u8>) {
    let request = Request::post(path).body(body.into()).unwrap();
    let response = Arc::clone(app).router().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    (
        parts.status,
        parts.headers,
        body.collect().await.unwrap().to_bytes().to_vec(),
    )
}

async fn post_json(app: &Arc<App>, path: &str, body: Value) -> (StatusCode, Value) {
    let (status, _, bytes) = post(app, path, body.to_string()).await;
    (status, serde_json::from_slice(&bytes).unwrap())
}

async fn get(app: &Arc<App>, path: &str) -> (StatusCode, String) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = Arc::clone(app).router().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (parts.status, String::from_utf8(bytes.to_vec()).unwrap())
}

/// Data of server-sent events, in order.
pub(super) fn events(body: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(body).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn chat_answers_as_kaito_did() {
    let app = app(LIMITS);
    let (status, answer) = post_json(&app, "/chat", json!({"prompt": "hello"})).await;
    assert_eq!(status, StatusCode::OK);
    let result = answer["Result"].as_str().unwrap();
    let full = json!({"prompt": "hello", "return_full_text": true});
    let (_, full) = post_json(&app, "/chat", full).await;
    assert_eq!(full["Result"].as_str().unwrap(), format!("hello{result}"));
    let (status, error) = post_json(&app, "/chat", json!({})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(error["detail"].as_str().unwrap().contains("prompt"));
}

#[tokio::test]
async fn a_stream_says_piece_by_piece_what_the_whole_answer_says() {
    let app = app(LIMITS);
    let ask = |stream: bool| {
        json!({
            "model": "tiny", "messages": [{"role": "user", "content": "count"}], "temperature": 0,
            "max_tokens": 20, "ignore_eos": true, "stream": stream, "stream_options": {"include_usage": true},
        })
    };
    let (status, whole) = post_json(&app, "/v1/chat/completions", ask(false)).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(whole["usage"]["completion_tokens"], 20);
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    let (_, headers, body) = post(&app, "/v1/chat/completions", ask(true).to_string()).await;
    assert_eq!(headers[header::CONTENT_TYPE], "text/event-stream");
    let mut data = events(&body);
    assert_eq!(data.pop().unwrap(), "[DONE]");
    let pieces: Vec<Value> = data
        .iter()
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    assert_eq!(pieces[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String = pieces
        .iter()
        .filter_map(|piece| piece["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(
        text,
        whole["choices"][0]["message"]["content"].as_str().unwrap()
    );
    let [.., closing, usage] = pieces.as_slice() else {
        panic!("too few pieces")
    };
    assert_eq!(closing["choices"][0]["finish_reason"], "length");
    assert_eq!(usage["usage"], whole["usage"]);
}

#[tokio::test]
async fn completions_echo_and_models_are_listed() {
    let app = app(LIMITS);
    let ask = json!({"prompt": "abc", "max_tokens": 4, "temperature": 0, "echo": true, "ignore_eos": true});
    let (status, answer) = post_json(&app, "/v1/completions", ask).await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        answer["choices"][0]["text"]
            .as_str()
            .unwrap()
            .starts_with("abc")
    );
    assert_eq!(answer["usage"]["prompt_tokens"], 3);
    let (_, models) = get(&app, "/v1/models").await;
    let models: Value = serde_json::from_str(&models).unwrap();
    assert_eq!(models["data"][0]["id"], "tiny");
    assert_eq!(get(&app, "/health").await.0, StatusCode::OK);
    let (_, metrics) = get(&app, "/metrics").await;
    for name in [
        "time_to_first_token_seconds_count 1",
        "generation_tokens_total 4",
        "prompt_tokens_total 3",
        "requests_waiting 0",
    ] {
        assert!(
            metrics.contains(&format!("kaito_runtime_{name}")),
            "{name} in {metrics}"
        );
    }
}

#[tokio::test]
async fn refusals_have_their_status_and_are_counted() {
    let app = app(LIMITS);
    let unknown = json!({"model": "other", "prompt": "x"});
    let (status, error) = post_json(&app, "/v1/completions", unknown).await;
    assert_eq!(
        (status, error["error"]["code"].as_str()),
        (StatusCode::NOT_FOUND, Some("model_not_found"))
    );
    let (status, ..) = post(&app, "/v1/completions", "x".repeat(5000)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let chunked = futures::stream::iter((0..50).map(|_| Ok::<_, std::io::Error>("y".repeat(100))));
    let (status, ..) = post(&app, "/v1/completions", Body::from_stream(chunked)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let long = json!({"prompt": "z".repeat(600)});
    let (status, error) = post_json(&app, "/v1/completions", long).await;
    assert_eq!(
        (status, error["error"]["code"].as_str()),
        (StatusCode::BAD_REQUEST, Some("context_length_exceeded"))
    );
    assert_eq!(get(&app, "/nowhere").await.0, StatusCode::NOT_FOUND);
    assert_eq!(get(&app, "/chat").await.0, StatusCode::METHOD_NOT_ALLOWED);
    let (_, metrics) = get(&app, "/metrics").await;
    assert!(
        metrics.contains("kaito_runtime_requests_rejected_total{reason=\"Invalid\"} 4"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_full_queue_is_told_with_a_time_to_come_back() {
    let (engine, metrics, _held) = start_full().await;
    let served = vec![Served {
        name: "tiny".to_owned(),
        adapter: None,
    }];
    let native = Native::new(engine, tokenizer(), served, 8, 400);
    let app = app_of(Backend::Native(Box::new(native)), metrics, None);
    for path in ["/chat", "/v1/completions"] {
        let (status, headers, _) = post(&app, path, r#"{"prompt": "x"}"#).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(headers[header::RETRY_AFTER], "2");
    }
    assert_eq!(get(&app, "/health").await.0, StatusCode::OK);
}

#[tokio::test]
async fn only_who_has_a_key_may_ask_but_probes_may_look() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("keys"), "secret\n").unwrap();
    let keys = Keys::read(&folder.path().join("keys")).unwrap();
    let (engine, _, metrics) = start(LIMITS);
    let native = Native::new(
        engine,
        tokenizer(),
        vec![Served {
            name: "tiny".to_owned(),
            adapter: None,
        }],
        4,
        9,
    );
    let app = app_of(Backend::Native(Box::new(native)), metrics, Some(keys));
    let (status, headers, _) = post(&app, "/chat", r#"{"prompt": "x"}"#).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(headers[header::WWW_AUTHENTICATE], "Bearer");
    let request = Request::post("/chat").header(header::AUTHORIZATION, "Bearer secret");
    let request = request.body(Body::from(r#"{"prompt": "x"}"#)).unwrap();
    let response = Arc::clone(&app).router().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(get(&app, "/health").await.0, StatusCode::OK);
    assert_eq!(get(&app, "/metrics").await.0, StatusCode::OK);
}

#[tokio::test]
async fn told_to_stop_it_ends_streams_in_order_and_refuses_new_requests() {
    let app = app(LIMITS);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(server::serve(
        listener,
        Arc::clone(&app),
        CONNECTIONS,
        shutdown.clone(),
    ));
    let body =
        json!({"prompt": "x", "max_tokens": 300, "ignore_eos": true, "stream": true}).to_string();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    let mut first = [0; 16];
    stream.read_exact(&mut first).await.unwrap();
    shutdown.cancel();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(String::from_utf8_lossy(&rest).contains("data: [DONE]"));
    assert_eq!(serving.await.unwrap(), Drained::All);
    assert!(TcpStream::connect(address).await.is_err());
    assert_eq!(
        post(&app, "/chat", r#"{"prompt": "x"}"#).await.0,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(
        get(&app, "/health").await.0,
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test]
async fn a_client_that_hangs_up_frees_its_place() {
    let app = app(Limits {
        sequences: 1,
        ..LIMITS
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    tokio::spawn(server::serve(
        listener,
        Arc::clone(&app),
        CONNECTIONS,
        shutdown.clone(),
    ));
    for stream in [true, false] {
        let body = json!({"prompt": "x", "max_tokens": 400, "ignore_eos": true, "stream": stream})
            .to_string();
        let mut client = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        client.write_all((head + &body).as_bytes()).await.unwrap();
        if stream {
            client.read_exact(&mut [0; 16]).await.unwrap();
        }
        drop(client);
    }
    // The only place is free again, or this would not be answered.
    let (status, _) = post_json(&app, "/chat", json!({"prompt": "y"})).await;
    assert_eq!(status, StatusCode::OK);
    shutdown.cancel();
}
