//! Whatever arrives, the server answers or hangs up, and goes on.

use std::sync::{Arc, OnceLock};

use axum::http::StatusCode;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::engine::LIMITS;
use super::http::{CONNECTIONS, app, post};
use crate::http::{App, server};

const PATHS: [&str; 3] = ["/chat", "/v1/chat/completions", "/v1/completions"];

fn shared() -> &'static (Runtime, Arc<App>, std::net::SocketAddr) {
    static SHARED: OnceLock<(Runtime, Arc<App>, std::net::SocketAddr)> = OnceLock::new();
    SHARED.get_or_init(|| {
        let runtime = Runtime::new().unwrap();
        let app = app(LIMITS);
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(server::serve(
            listener,
            Arc::clone(&app),
            CONNECTIONS,
            CancellationToken::new(),
        ));
        (runtime, app, address)
    })
}

/// JSON that is near what is expected, with anything in its places.
fn value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        ".{0,12}".prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let key = prop::sample::select(vec![
            "prompt",
            "messages",
            "role",
            "content",
            "max_tokens",
            "temperature",
            "top_p",
            "top_k",
            "stop",
            "stream",
            "seed",
            "n",
            "model",
            "generate_kwargs",
            "max_length",
            "type",
            "text",
            "echo",
            "stream_options",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::vec((key, inner), 0..5).prop_map(|pairs| {
                pairs
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect::<serde_json::Map<_, _>>()
                    .into()
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_refused_politely(bytes in prop::collection::vec(any::<u8>(), 0..200), path in prop::sample::select(&PATHS[..])) {
        let (runtime, app, _) = shared();
        let (status, ..) = runtime.block_on(post(app, path, bytes));
        prop_assert!(status.is_client_error(), "{status}");
    }

    #[test]
    fn any_json_is_answered_or_refused_and_breaks_nothing(value in value(), path in prop::sample::select(&PATHS[..])) {
        let (runtime, app, _) = shared();
        let (status, ..) = runtime.block_on(post(app, path, value.to_string()));
        prop_assert!(status.is_client_error() || status == StatusCode::OK, "{status}");
    }

    #[test]
    fn any_bytes_on_a_connection_end_it_and_nothing_else(bytes in prop::collection::vec(any::<u8>(), 1..300), cut in 0_usize..120) {
        let (runtime, _, address) = shared();
        let request = b"POST /chat HTTP/1.1\r\nhost: x\r\ncontent-length: 15\r\n\r\n{\"prompt\": \"x\"}";
        let half = [&request[..cut.min(request.len())], &bytes].concat();
        let healthy = runtime.block_on(async {
            for bytes in [&bytes, &half] {
                let mut client = TcpStream::connect(address).await.unwrap();
                // The server may have hung up already.
                drop(client.write_all(bytes).await);
                drop(client.shutdown().await);
                let mut answer = Vec::new();
                drop(client.read_to_end(&mut answer).await);
            }
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        });
        prop_assert!(healthy.starts_with("HTTP/1.1 200"), "{healthy}");
    }
}

#[test]
fn json_nested_without_end_is_refused() {
    let (runtime, app, _) = shared();
    let body = "[".repeat(4000);
    assert_eq!(
        runtime.block_on(post(app, "/chat", body)).0,
        StatusCode::BAD_REQUEST
    );
}
