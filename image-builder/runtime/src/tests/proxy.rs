//! The proxy before a small upstream that speaks as vLLM does.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode, Uri, header};
use axum::response::Response;
use axum::routing::{get, post as route_post};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::http::{app_of, events, post};
use crate::http::{App, Backend, Proxy};
use crate::metrics::Metrics;

#[derive(Clone, Default)]
struct Upstream {
    seen: Arc<Mutex<Vec<(HeaderMap, Value)>>>,
    has_template: bool,
}

async fn chat(State(upstream): State<Upstream>, headers: HeaderMap, bytes: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&bytes).unwrap();
    upstream.seen.lock().unwrap().push((headers, body.clone()));
    if !upstream.has_template {
        return error(StatusCode::BAD_REQUEST, "this model has no chat template");
    }
    if body["stream"] == true {
        let pieces = futures::stream::iter([
            "data: {\"n\": 1}\n\n",
            "data: {\"n\": 2}\n\n",
            "data: [DONE]\n\n",
        ])
        .map(|piece| Ok::<_, Infallible>(Bytes::from_static(piece.as_bytes())));
        let body = Body::from_stream(pieces);
        return Response::builder()
            .header(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")
            .body(body)
            .unwrap();
    }
    respond(
        &json!({"choices": [{"message": {"content": "an answer"}}], "usage": {"completion_tokens": 2}}),
    )
}

fn respond(value: &Value) -> Response {
    Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(value.to_string()))
        .unwrap()
}

fn error(status: StatusCode, message: &str) -> Response {
    let mut response = respond(&json!({"error": {"message": message}}));
    *response.status_mut() = status;
    response
}

async fn complete(bytes: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&bytes).unwrap();
    respond(&json!({"choices": [{"text": format!(" after {}", body["prompt"].as_str().unwrap())}]}))
}

async fn upstream(upstream: Upstream) -> Uri {
    let router = Router::new()
        .route("/v1/chat/completions", route_post(chat))
        .route("/v1/completions", route_post(complete))
        .route("/health", get(|| async { "" }))
        .route(
            "/metrics",
            get(|| async { "vllm:num_requests_running 0\n" }),
        )
        .with_state(upstream);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}").parse().unwrap()
}

/// Sends the head and one event, and hangs up in the middle of the answer.
async fn broken_upstream() -> Uri {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        client.read_u8().await.unwrap();
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n10\r\ndata: {\"n\": 1}\n\n\r\n";
        client.write_all(answer.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        // Closing with something unread would take back what was sent.
        drop(client.read_to_end(&mut Vec::new()).await);
    });
    format!("http://{address}").parse().unwrap()
}

fn proxy(upstream: Uri, most: usize) -> Arc<App> {
    let metrics = Metrics::default();
    let proxy = Proxy::new(upstream, "big".to_owned(), most, metrics.clone()).unwrap();
    app_of(Backend::Proxy(Box::new(proxy)), metrics, None)
}

fn with_template() -> Upstream {
    Upstream {
        has_template: true,
        ..Upstream::default()
    }
}

#[tokio::test]
async fn chat_is_translated_and_its_answer_too() {
    let state = with_template();
    let app = proxy(upstream(state.clone()).await, 4);
    let ask = json!({"prompt": "hi", "generate_kwargs": {"max_new_tokens": 7, "do_sample": true}})
        .to_string();
    let (status, _, body) = post(&app, "/chat", ask).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        serde_json::from_slice::<Value>(&body).unwrap(),
        json!({"Result": "an answer"})
    );
    let (_, seen) = state.seen.lock().unwrap().pop().unwrap();
    assert_eq!(seen["model"], "big");
    assert_eq!(
        seen["messages"][0],
        json!({"role": "user", "content": "hi"})
    );
    assert_eq!(seen["max_tokens"], 7);
    assert_eq!(seen["temperature"], 1.0);
}

#[tokio::test]
async fn a_model_without_a_template_continues_the_prompt() {
    let app = proxy(upstream(Upstream::default()).await, 4);
    let (status, _, body) = post(&app, "/chat", r#"{"prompt": "hi"}"#).await;
    assert_eq!(status, StatusCode::OK);
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer["Result"], "hi after hi");
}

#[tokio::test]
async fn streams_pass_in_order_and_hop_headers_do_not() {
    let app = proxy(upstream(with_template()).await, 1);
    let ask = json!({"messages": [{"role": "user", "content": "x"}], "stream": true}).to_string();
    for _ in 0..3 {
        // One place is enough: each stream gives it back.
        let (status, headers, body) = post(&app, "/v1/chat/completions", ask.clone()).await;
        assert_eq!(status, StatusCode::OK);
        assert!(!headers.contains_key(header::TRANSFER_ENCODING));
        assert_eq!(events(&body), ["{\"n\": 1}", "{\"n\": 2}", "[DONE]"]);
    }
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_an_error_that_clients_can_read() {
    let app = proxy(broken_upstream().await, 4);
    let (_, _, body) = post(&app, "/v1/chat/completions", r#"{"stream": true}"#).await;
    let events = events(&body);
    assert_eq!(events[0], "{\"n\": 1}");
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "upstream_broken_off");
}

#[tokio::test]
async fn errors_of_the_upstream_reach_the_client_in_its_words() {
    let app = proxy(upstream(Upstream::default()).await, 4);
    let ask = json!({"messages": [{"role": "user", "content": "x"}]}).to_string();
    let (status, _, body) = post(&app, "/v1/chat/completions", ask.clone()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        String::from_utf8(body)
            .unwrap()
            .contains("no chat template")
    );
    let (status, _, body) = post(
        &app,
        "/chat",
        json!({"messages": [{"role": "user", "content": "x"}]}).to_string(),
    )
    .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        serde_json::from_slice::<Value>(&body).unwrap()["detail"]
            .as_str()
            .unwrap()
            .contains("no chat template")
    );
}

#[tokio::test]
async fn without_an_upstream_there_is_a_clean_error_and_no_health() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let app = proxy(format!("http://{address}").parse().unwrap(), 4);
    let (status, _, body) = post(&app, "/v1/completions", "{}").await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(
        String::from_utf8(body)
            .unwrap()
            .contains("upstream_unreachable")
    );
    let request = Request::get("/health").body(Body::empty()).unwrap();
    let health = tower::ServiceExt::oneshot(Arc::clone(&app).router(), request).await;
    assert_eq!(
        health
            .unwrap_or_else(|never: Infallible| match never {})
            .status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test]
async fn more_than_the_places_are_refused_and_metrics_of_both_are_shown() {
    let address = upstream(with_template()).await;
    let none = proxy(address.clone(), 0);
    let (status, headers, _) = post(&none, "/v1/completions", "{}").await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert!(headers.contains_key(header::RETRY_AFTER));
    let request = Request::get("/metrics").body(Body::empty()).unwrap();
    let response = tower::ServiceExt::oneshot(none.router(), request)
        .await
        .unwrap();
    let text = axum::body::to_bytes(response.into_body(), 1 << 20)
        .await
        .unwrap();
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(
        text.contains("kaito_runtime_requests_rejected_total{reason=\"Full\"} 1"),
        "{text}"
    );
    assert!(
        text.ends_with("vllm:num_requests_running 0\n") && !text.contains("# EOF"),
        "{text}"
    );
}

#[tokio::test]
async fn only_plain_addresses_are_upstreams() {
    for address in ["https://127.0.0.1:1", "/path"] {
        let made = Proxy::new(
            address.parse().unwrap(),
            String::new(),
            1,
            Metrics::default(),
        );
        assert!(made.is_err(), "{address}");
    }
}
