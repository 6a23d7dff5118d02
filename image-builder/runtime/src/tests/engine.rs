use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

use super::fixture::{Shape, folder, weights};
use super::model::load;
use crate::engine::{Ended, Ends, Engine, Event, Limits, Reason, Refused, Request};
use crate::metrics::Metrics;
use crate::model::Source;
use crate::text::{Sampling, Tokenizer};

pub(super) const LIMITS: Limits = Limits {
    sequences: 4,
    queue: 8,
    step_tokens: 16,
    cache_bytes: 4 << 20,
    threads: 2,
};

pub(super) fn tokenizer() -> Arc<Tokenizer> {
    let shape = Shape::of("llama");
    let folder = folder(&shape, &weights(&shape, 21));
    Arc::new(Tokenizer::load(&Source::open(folder.path()).unwrap()).unwrap())
}

pub(super) fn start(limits: Limits) -> (Engine, Ended, Metrics) {
    let metrics = Metrics::default();
    let model = Arc::new(load("llama", 21));
    let (engine, ended) = Engine::start(model, tokenizer(), limits, metrics.clone()).unwrap();
    (engine, ended, metrics)
}

/// An engine with one place and one to wait in, both taken by requests that take longer than any test.
pub(super) async fn start_full() -> (Engine, Metrics, [UnboundedReceiver<Event>; 2]) {
    let shape = Shape {
        context: 1 << 17,
        ..Shape::of("llama")
    };
    let folder = folder(&shape, &weights(&shape, 21));
    let model = Arc::new(Source::open(folder.path()).unwrap().load(None).unwrap());
    let limits = Limits {
        sequences: 1,
        queue: 1,
        cache_bytes: 1 << 28,
        ..LIMITS
    };
    let metrics = Metrics::default();
    let (engine, _) = Engine::start(model, tokenizer(), limits, metrics.clone()).unwrap();
    let mut first = engine.submit(request(b"a", 100_000)).unwrap();
    // It runs once it has said something, and then no longer waits.
    assert!(first.recv().await.is_some());
    let second = engine.submit(request(b"b", 4)).unwrap();
    (engine, metrics, [first, second])
}

fn request(prompt: &[u8], max_tokens: usize) -> Request {
    Request {
        tokens: prompt.iter().map(|byte| u32::from(*byte)).collect(),
        max_tokens,
        sampling: Sampling {
            temperature: 0.0,
            ..Sampling::default()
        },
        stops: Vec::new(),
        adapter: None,
        ends: Ends::Ignored,
    }
}

async fn answer(mut receiver: UnboundedReceiver<Event>) -> (String, Reason, usize) {
    let mut text = String::new();
    loop {
        match receiver
            .recv()
            .await
            .expect("an end before the channel closes")
        {
            Event::Text(more) => text.push_str(&more),
            Event::Done { reason, generated } => {
                assert!(receiver.recv().await.is_none(), "nothing follows the end");
                return (text, reason, generated);
            }
        }
    }
}

#[tokio::test]
async fn requests_get_the_same_answer_alone_and_in_company() {
    let (engine, ..) = start(LIMITS);
    let prompts: Vec<String> = (0..8)
        .map(|i| format!("prompt {i} ").repeat(i + 1))
        .collect();
    let mut alone = Vec::new();
    for prompt in &prompts {
        alone.push(answer(engine.submit(request(prompt.as_bytes(), 12)).unwrap()).await);
    }
    let receivers: Vec<_> = prompts
        .iter()
        .map(|prompt| engine.submit(request(prompt.as_bytes(), 12)).unwrap())
        .collect();
    for (receiver, alone) in receivers.into_iter().zip(alone) {
        let together = answer(receiver).await;
        assert_eq!(together, alone);
        assert_eq!((together.1, together.2), (Reason::Length, 12));
    }
}

#[tokio::test]
async fn a_seed_gives_the_same_answer_again_and_another_seed_another() {
    let (engine, ..) = start(LIMITS);
    let with = async |seed| {
        let mut request = request(b"once", 24);
        request.sampling = Sampling {
            seed,
            ..Sampling::default()
        };
        answer(engine.submit(request).unwrap()).await.0
    };
    let first = with(1).await;
    assert_eq!(first, with(1).await);
    assert_ne!(first, with(2).await);
}

#[tokio::test]
async fn an_answer_ends_before_a_stop_string() {
    let (engine, ..) = start(LIMITS);
    let (whole, ..) = answer(engine.submit(request(b"stop", 32)).unwrap()).await;
    let characters: Vec<char> = whole.chars().collect();
    let stop: String = characters[characters.len() / 2..characters.len() / 2 + 2]
        .iter()
        .collect();
    let mut stopped = request(b"stop", 32);
    stopped.stops = vec![stop.clone()];
    let (text, reason, _) = answer(engine.submit(stopped).unwrap()).await;
    assert_eq!(reason, Reason::Stop);
    assert_eq!(text, whole[..whole.find(&stop).unwrap()]);
}

#[tokio::test]
async fn a_full_queue_refuses_and_a_client_that_goes_frees_its_place() {
    let (engine, metrics, [first, second]) = start_full().await;
    assert_eq!(
        engine.submit(request(b"c", 4)).unwrap_err(),
        Refused::Full { waiting: 1 }
    );
    drop(first);
    let (_, reason, generated) = answer(second).await;
    assert_eq!((reason, generated), (Reason::Length, 4));
    let text = metrics.text();
    assert!(
        text.contains("kaito_runtime_requests_total{end=\"Cancelled\"} 1"),
        "{text}"
    );
}

#[tokio::test]
async fn what_can_never_fit_is_refused_at_once() {
    let (engine, ..) = start(LIMITS);
    let limit = engine.longest();
    let refused = engine.submit(request(b"abc", limit)).unwrap_err();
    assert_eq!(
        refused,
        Refused::TooLong {
            tokens: limit + 3,
            limit
        }
    );
}

#[tokio::test]
async fn memory_for_contexts_is_never_promised_twice() {
    let bytes = load("llama", 21).config().cache_bytes_per_token();
    let (engine, _ended, metrics) = start(Limits {
        cache_bytes: bytes * 100,
        ..LIMITS
    });
    let receivers: Vec<_> = (0..4)
        .map(|_| engine.submit(request(b"x", 60)).unwrap())
        .collect();
    for receiver in receivers {
        answer(receiver).await;
        let reserved = metrics.cache_bytes.get();
        assert!(
            reserved <= i64::try_from(bytes * 100).unwrap(),
            "{reserved}"
        );
    }
}

#[tokio::test]
async fn a_stopped_engine_finishes_what_it_has_and_ends() {
    let (engine, ended, _) = start(LIMITS);
    let receiver = engine.submit(request(b"last", 30)).unwrap();
    engine.stop();
    assert_eq!(
        engine.submit(request(b"late", 1)).unwrap_err(),
        Refused::Draining
    );
    assert_eq!(answer(receiver).await.2, 30);
    assert!(
        ended.await.is_err(),
        "the worker drops its end when it is done"
    );
}
